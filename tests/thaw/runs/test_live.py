"""Curves that grow in MLflow: while training runs, when it is stopped or killed, and when it goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from stages import evaluate
from tests.helpers import finished
from tests.helpers.finished import runs
from thaw.artifacts import PROJECT, Paths
from thaw.config.composing import recorded
from thaw.learning import curves
from thaw.runs import description, live, store
from thaw.runs.live import follow

Row = dict[str, float]


@pytest.fixture
def paths(tmp_path: Path, fresh: bytes, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A finished pipeline, nothing of which is in the store yet."""
    (tmp_path / "mlflow.db").write_bytes(fresh)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "THAW_LIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(live, "PAUSE", 0.01)
    return finished.pipeline(tmp_path)


def config(paths: Paths) -> dict[str, Any]:
    return recorded(paths, evaluate=finished.EVALUATE, seed=finished.SEED)


def sent(paths: Paths, stage: str, rows: list[Row], end: str | None = "SCHEDULED") -> list[str]:
    """The lines that ``curves.live`` sends; without an end, the training was killed."""
    start = {
        "stage": stage,
        "root": str(paths.root),
        "data": str(paths.data),
        "config": config(paths),
        "began": time.time(),
    }
    return [json.dumps(message) for message in (start, *rows, *([end] if end else []))]


def curve(run: Any, key: str = "curve/val_loss") -> list[tuple[int, float]]:
    points = MlflowClient(store.address()).get_metric_history(run.info.run_id, key)
    return [(point.step, point.value) for point in points]


def test_both_stages_and_evaluate_make_one_run(paths: Paths) -> None:
    head, tuned = (curves.read(paths.history(stage)) for stage in description.CURVES)
    follow(sent(paths, "train_head", head))
    (run,) = runs()
    assert run.info.status == "SCHEDULED", "the rest is still to come"
    assert [step for step, _ in curve(run)] == [0, 1, 2]
    follow(sent(paths, "finetune", tuned))
    (same,) = runs()
    assert same.info.run_id == run.info.run_id
    assert [step for step, _ in curve(same)] == [0, 1, 2, 3, 4, 5, 6], "one axis for both phases"
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    (done,) = runs()
    assert done.info.run_id == run.info.run_id
    assert done.info.status == "FINISHED"
    assert [step for step, _ in curve(done)] == [0, 1, 2, 3, 4, 5, 6], "nothing is there twice"
    assert done.data.metrics["delta/accuracy"] > 0
    assert {"seconds/train_head", "seconds/finetune"} < {*done.data.metrics}, "what each has cost"


def test_where_nothing_is_fine_tuned_the_run_is_the_head_s(paths: Paths, tmp_path: Path) -> None:
    paths = finished.head_only(tmp_path / "head_only")
    follow(sent(paths, "train_head", curves.read(paths.history("train_head"))))
    follow(sent(paths, "finetune", []))
    (run,) = runs()
    assert run.info.status == "SCHEDULED"
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    (done,) = runs()
    assert done.info.run_id == run.info.run_id
    assert done.info.status == "FINISHED"
    assert [step for step, _ in curve(done)] == [0, 1, 2]


@pytest.mark.parametrize(("end", "status"), [(None, "KILLED"), ("KILLED", "KILLED"), ("FAILED", "FAILED")])
def test_a_training_that_stops_is_marked_and_goes_on_in_the_same_run(
    paths: Paths, end: str | None, status: str
) -> None:
    rows = curves.read(paths.history("finetune"))
    follow(sent(paths, "finetune", rows[:2], end))
    (run,) = runs()
    assert run.info.status == status
    assert [step for step, _ in curve(run)] == [0, 1, 2, 3, 4], "the head's come first"
    follow(sent(paths, "finetune", rows))  # a resumed training tells its whole curve
    (same,) = runs()
    assert same.info.run_id == run.info.run_id
    assert same.info.status == "SCHEDULED"
    assert [step for step, _ in curve(same)] == [0, 1, 2, 3, 4, 5, 6]
    assert same.data.metrics["seconds/finetune"] > run.data.metrics["seconds/finetune"] > 0, "of both stretches"


def test_half_a_line_is_the_last_word_of_a_training_that_was_killed(paths: Paths) -> None:
    *lines, _ = sent(paths, "finetune", curves.read(paths.history("finetune")))
    follow([*lines[:-1], lines[-1][:10]])
    (run,) = runs()
    assert run.info.status == "KILLED"
    assert [step for step, _ in curve(run)] == [0, 1, 2, 3, 4, 5]


def test_rows_are_there_while_training_goes_on(paths: Paths) -> None:
    rows = curves.read(paths.history("finetune"))
    seen: list[tuple[str, int]] = []

    def training() -> Iterator[str]:
        *lines, end = sent(paths, "finetune", rows)
        yield lines[0]
        for line in lines[1:]:
            yield line
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and not (runs() and len(curve(runs()[0])) > 3 + len(seen)):
                time.sleep(0.05)
            seen.append((runs()[0].info.status, len(curve(runs()[0]))))
        yield end

    follow(training())
    assert seen == [("RUNNING", 4), ("RUNNING", 5), ("RUNNING", 6), ("RUNNING", 7)]


def test_a_run_that_is_complete_is_left_alone(paths: Paths) -> None:
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    (before,) = runs()
    rows = curves.read(paths.history("finetune"))
    follow(
        sent(paths, "finetune", rows)
    )  # a forced repetition: a run of its own, until evaluate sees that it is the same
    assert {run.info.status for run in runs()} == {"FINISHED", "SCHEDULED"}
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    (after,) = runs()
    assert after.info.run_id == before.info.run_id


def test_a_late_follower_changes_nothing(paths: Paths) -> None:
    """The head is trained in a moment: who follows it may come when fine-tuning or evaluate are at work already."""
    head, tuned = (curves.read(paths.history(stage)) for stage in description.CURVES)
    client = store.connect(store.address())
    late = live.Run(client, "train_head", paths, config(paths), time.time())
    follow(sent(paths, "finetune", tuned[:1], None))
    assert late.log([], "SCHEDULED")
    assert runs()[0].info.status == "KILLED", "a later stage has said how it stands"
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    assert not late.log([("curve/val_loss", 9.0, 0)], "SCHEDULED")
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert (0, head[0]["val_loss"]) in curve(run)


def test_a_follower_that_evaluate_has_overtaken_leaves_no_run_behind(paths: Paths) -> None:
    lines = sent(paths, "train_head", curves.read(paths.history("train_head")))
    for _ in range(2):  # the second time evaluate finds that the run is complete
        evaluate.run(paths, finished.EVALUATE, finished.SEED)
        follow(lines)
        (run,) = runs()
        assert run.info.status == "FINISHED"
        lines = sent(paths, "train_head", curves.read(paths.history("train_head")))


def test_a_store_that_does_not_answer_is_said_once(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    follow(sent(paths, "finetune", curves.read(paths.history("finetune"))))
    out = capsys.readouterr().out
    assert out.startswith("warning: MLflow at http://me:…@127.0.0.1:9 takes no learning curve")
    assert out.count("\n") == 1
    assert "secret" not in out


def test_the_machine_is_measured_on_request(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")

    def training() -> Iterator[str]:
        *lines, end = sent(paths, "finetune", curves.read(paths.history("finetune")))
        yield from lines
        time.sleep(3)
        yield end

    follow(training())
    (run,) = runs()
    assert "system/cpu_utilization_percentage" in run.data.metrics


TRAINING = """
import json, os, signal, sys, time
from pathlib import Path
from thaw.learning import curves
from thaw.artifacts import Paths
paths, config = Paths(Path(sys.argv[1]), Path(sys.argv[2])), json.loads(sys.argv[3])
with curves.live("finetune", paths, config) as report:
    for step in range(3):
        report({"step": step, "loss": float("nan"), "val_loss": 1.0 / (step + 1)})
    if sys.argv[4] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[4] == "interrupt":
        raise KeyboardInterrupt
    if sys.argv[4] == "fail":
        raise SystemExit(1)
"""


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("kill", "KILLED"),
        *(
            pytest.param(how, status, marks=pytest.mark.slow)
            for how, status in (("interrupt", "KILLED"), ("fail", "FAILED"), ("end", "SCHEDULED"))
        ),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without signals")
def test_a_training_process_is_followed_to_its_end(paths: Paths, how: str, status: str) -> None:
    arguments = [str(paths.data), str(paths.root), json.dumps(config(paths)), how]
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", TRAINING, *arguments], cwd=PROJECT, check=False, capture_output=True)
    took = time.monotonic() - start
    assert done.returncode == {"kill": -signal.SIGKILL, "interrupt": -signal.SIGINT, "fail": 1, "end": 0}[how]
    assert took < 20, "training does not wait for the follower"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (runs() and runs()[0].info.status == status):
        time.sleep(0.2)
    (run,) = runs()
    assert run.info.status == status
    assert [step for step, _ in curve(run)] == [0, 1, 2, 3, 4, 5]


def test_nobody_follows_where_it_is_switched_off(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_LIVE", "0")
    with curves.live("finetune", paths, config(paths)) as report:
        assert report is curves.silent


@pytest.mark.skipif(not shutil.which("false"), reason="needs a program that only fails")
def test_a_follower_that_cannot_start_costs_nothing(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with curves.live("finetune", paths, config(paths)) as report:
        for step in range(3):
            report({"step": step, "val_loss": 1.0})
            time.sleep(0.1)
