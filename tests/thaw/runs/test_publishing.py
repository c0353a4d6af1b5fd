"""Publishing to real stores: complete, once, again after a loss, and never at the expense of the result."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from stages import evaluate
from tests.helpers import finished, options
from tests.helpers.finished import runs
from thaw.artifacts import PROJECT, Paths, plain, read_json, write_json
from thaw.config.composing import compose, recorded
from thaw.errors import UserError
from thaw.runs import __main__, description, store, ui

pytestmark = pytest.mark.usefixtures("workspace")


def test_a_run_is_complete(paths: Paths, publish: Callable[[], None], workspace: Path) -> None:
    publish()
    (run,) = runs()
    metrics = read_json(paths.figures)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "last 2 blocks · mobilenet_v2 0.35 at 64 px · lbfgs · seed 3"
    assert run.data.params["backbone.input_size"] == "64"
    assert run.data.params["finetune.unfreeze.blocks"] == "2"
    assert run.data.params["seed"] == "3"
    assert run.data.metrics["delta/accuracy"] == metrics["delta"]["accuracy"]
    assert run.data.metrics["head/macro_f1_low"] == metrics["head"]["macro_f1_low"]
    assert run.data.metrics["mcnemar_p"] == metrics["mcnemar_p"]
    assert run.data.metrics["n_test"] == 60
    assert run.data.tags["verdict"] == metrics["verdict"]
    assert run.data.tags["data_md5"] == "0123.dir"
    assert metrics["verdict"].capitalize() in run.data.tags["mlflow.note.content"]

    client = MlflowClient(store.address())
    # One axis for both phases: three steps of the head, then four of fine-tuning.
    curve = client.get_metric_history(run.info.run_id, "curve/val_accuracy")
    assert [(point.step, point.value) for point in curve] == [(n, 0.75 if n < 3 else 0.85) for n in range(7)]
    # The training accuracy before the first epoch of fine-tuning is unknown and left out.
    accuracies = client.get_metric_history(run.info.run_id, "curve/accuracy")
    assert [point.step for point in accuracies] == [0, 1, 2, 4, 5, 6]
    assert len(client.get_metric_history(run.info.run_id, "curve/inverse_l2")) == 3

    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == "120 images, 2 classes"
    assert json.loads(data.dataset.profile) == {"train": 30, "val": 30, "test": 60}
    assert "keras 3" in run.data.tags["environment"]

    files = workspace / "mlartifacts" / run.info.run_id / "artifacts"
    assert "weights.h5" in (files / "config.yaml").read_text(encoding="utf-8")
    for name in (
        "report.html",
        "metrics.json",
        "plots/confusion_head.csv",
        "train_head/predictions.csv",
        "train_head/predictions.npy",
        "train_head/head.h5",
        "finetune/history.csv",
        "finetune/model.weights.h5",
    ):
        assert (files / name).exists(), name


def test_a_run_in_which_nothing_was_fine_tuned_tells_of_the_head_alone(tmp_path: Path) -> None:
    paths = finished.head_only(tmp_path / "head_only")
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    (run,) = runs()
    assert run.info.run_name == "head only · mobilenet_v2 0.35 at 64 px · lbfgs · seed 3"
    assert run.data.params["finetune.unfreeze"] == "none"
    assert run.data.metrics["head/accuracy"] == read_json(paths.figures)["head"]["accuracy"]
    assert {"temperature", "n_test", "calibrated/ece"} <= {*run.data.metrics}
    compared = ("finetuned/", "delta/", "mcnemar_p", "fixed", "broken")
    assert [key for key in run.data.metrics if key.startswith(compared)] == []
    curve = MlflowClient(store.address()).get_metric_history(run.info.run_id, "curve/val_accuracy")
    assert [point.step for point in curve] == [0, 1, 2]
    assert run.data.tags["mlflow.note.content"].startswith("Nothing was fine-tuned: accuracy ")
    assert run.data.tags["kept"] == "head"


def test_publishing_again_adds_nothing(publish: Callable[[], None]) -> None:
    publish()
    (first,) = runs()
    publish()
    (second,) = runs()
    assert first.info.run_id == second.info.run_id


def test_new_outputs_replace_the_run(paths: Paths, publish: Callable[[], None]) -> None:
    publish()
    (stale,) = runs()
    history = paths.history("finetune")
    history.write_text(history.read_text(encoding="utf-8").replace("0.85", "0.86"), encoding="utf-8")
    publish()
    (run,) = runs()
    assert run.info.run_id != stale.info.run_id
    assert run.info.status == "FINISHED"
    assert MlflowClient(store.address()).get_run(stale.info.run_id).info.lifecycle_stage == "deleted"


@pytest.mark.parametrize(("value", "completed"), [(0.75, True), (0.5, False)])
def test_an_unfinished_run_is_completed_if_what_it_says_is_true(
    value: float, completed: bool, publish: Callable[[], None]
) -> None:
    publish()
    (first,) = runs()
    client = MlflowClient(store.address())
    identical = {description.FINGERPRINT: first.data.tags[description.FINGERPRINT]}
    killed = client.create_run(first.info.experiment_id, tags=identical).info.run_id
    client.log_metric(killed, "curve/val_accuracy", value, step=1)
    client.set_terminated(killed, "KILLED")
    client.delete_run(first.info.run_id)
    publish()
    (run,) = runs()
    assert (run.info.run_id == killed) == completed
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "curve/val_accuracy")].count(1) == 1


def test_another_configuration_is_another_run(paths: Paths, publish: Callable[[], None]) -> None:
    publish()
    finished.write_configs(paths, finetune={"finetune": options.FINETUNE | {"unfreeze": {"layers": 20}}})
    publish()
    assert {run.info.run_name.split(" · ")[0] for run in runs()} == {"last 2 blocks", "last 20 layers"}


def test_only_what_can_change_a_result_is_a_parameter() -> None:
    config = plain(compose([]))
    found = description.parameters(config)
    assert found["augment.views"] == 0
    assert {"augment.rotation", "backbone.engine", "evaluate.resamples"}.isdisjoint(found)
    assert "augment.rotation" in description.parameters(plain(compose(["augment=standard"])))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "auto · mobilenet_v2 0.35 at 96 px · lbfgs"),
        (["finetune=last_6_blocks"], "last 6 blocks · mobilenet_v2 0.35 at 96 px · lbfgs"),
        (
            ["finetune=last_20", "~finetune.unfreeze.layers", "+finetune.unfreeze.all=true"],
            "all · mobilenet_v2 0.35 at 96 px · lbfgs",
        ),
        (["finetune.lora=8"], "auto · LoRA 8 · mobilenet_v2 0.35 at 96 px · lbfgs"),
        (["finetune=none"], "head only · mobilenet_v2 0.35 at 96 px · lbfgs"),
        (["train_head=mlp"], "auto · mobilenet_v2 0.35 at 96 px · adam 256"),
        (["augment=light"], "auto · mobilenet_v2 0.35 at 96 px · 4 views · lbfgs"),
    ],
)
def test_a_run_s_name_says_how_deep_and_with_which_head(overrides: list[str], expected: str) -> None:
    config = plain(compose(overrides))
    assert description.run_name(config) == f"{expected} · seed 0"


def test_a_deleted_experiment_comes_back_and_its_name_can_be_chosen(
    publish: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    publish()
    client = MlflowClient(store.address())
    client.delete_experiment(client.get_experiment_by_name("mine").experiment_id)
    publish()
    assert [run.info.status for run in runs("mine")] == ["FINISHED"]
    assert runs() == []


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "/tmp/mlruns"])
def test_a_folder_is_refused_before_anything_is_written(
    uri: str, paths: Paths, publish: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="expected a database or a server"):
        publish()
    assert not paths.figures.exists()


def test_an_unreachable_server_costs_a_warning_only(
    paths: Paths,
    publish: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    publish()
    out, err = capsys.readouterr()
    assert "Verdict:" in out
    assert err.startswith("warning: MLflow at http://me:…@127.0.0.1:9 did not take this run")
    assert err.count("\n") == 1
    assert "secret" not in err
    assert paths.report.exists()


def test_an_interrupted_publication_is_marked_and_repaired(
    publish: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def disk_full(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_artifacts", disk_full)
        publish()
    assert "no space left" in capsys.readouterr().err
    (failed,) = runs()
    assert failed.info.status == "FAILED"
    publish()
    (run,) = runs()
    assert run.info.run_id == failed.info.run_id
    assert run.info.status == "FINISHED"


def test_a_deleted_database_is_filled_again_also_by_two_processes_at_once(
    paths: Paths, publish: Callable[[], None], workspace: Path
) -> None:
    publish()
    before = runs()[0].data
    database = workspace / "mlflow.db"
    database.unlink()

    config = workspace / "config.json"
    write_json(config, recorded(paths, evaluate=finished.EVALUATE, seed=finished.SEED))
    code = f"""
import json, sys
from pathlib import Path
from thaw.runs import publishing
from thaw.artifacts import Paths
config = json.loads(Path({str(config)!r}).read_text()) | {{"seed": int(sys.argv[1])}}
publishing.publish(Paths(Path({str(paths.data)!r}), Path({str(paths.root)!r})), config)
"""
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(seed)],
            cwd=PROJECT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for seed in (finished.SEED, finished.SEED + 1)
    ]
    for process in started:
        _, err = process.communicate()
        assert process.returncode == 0
        assert err == "", "neither warnings nor the chatter of migrations"

    # This process still holds the deleted file open, so it has to come in by another name.
    renamed = database.rename(workspace / "rebuilt.db")
    client = MlflowClient(f"sqlite:///{renamed}")
    found = client.search_runs([client.get_experiment_by_name("thaw").experiment_id], order_by=["params.seed"])
    assert [run.data.params["seed"] for run in found] == ["3", "4"]
    assert found[0].data.metrics == before.metrics
    assert found[0].data.params == before.params


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send to a group of processes")
def test_the_ui_serves_the_store(publish: Callable[[], None], workspace: Path) -> None:
    publish()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{workspace}/mlflow.db"}
    command = [sys.executable, "-m", "thaw.runs", "ui", "--port", str(port)]
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        process_group=0,
    ) as server:
        try:
            assert server.stdout is not None
            # Results that lie in the project's artifacts/ are published first, and that may be said.
            assert any(f"http://127.0.0.1:{port}" in line for line in server.stdout)
            for _ in range(300):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                        assert answer.status == 200
                    break
                except OSError:
                    time.sleep(0.2)
            else:
                pytest.fail("the UI did not start")
        finally:
            os.killpg(server.pid, 2)
            server.communicate(timeout=30)


def test_a_taken_port_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["tracking", "ui", "--port", str(port)])
        monkeypatch.setattr(__main__, "catch_up", lambda _: None)
        with pytest.raises(SystemExit, match=f"error: expected port {port} to be free"):
            __main__.main()
    assert capsys.readouterr().out == ""


def test_a_server_has_its_own_ui(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://runs.example:5000")
    with pytest.raises(UserError, match="which is a server"):
        ui.serve(5000)


def test_flat() -> None:
    assert description.flat({"a": {"b": {"c": 1}, "d": 2}, "e": 3}, ".") == {"a.b.c": 1, "a.d": 2, "e": 3}
