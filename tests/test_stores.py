"""Runs in every kind of store that people have: SQLite under four processes at once, a server, PostgreSQL."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from stages import evaluate
from tests.helpers import finished, servers
from thaw.artifacts import PROJECT, Paths, write_json
from thaw.config.composing import recorded
from thaw.learning import curves
from thaw.models.portable import Model
from thaw.runs import publishing, registry, store
from thaw.runs.live import follow

pytestmark = pytest.mark.slow

PUBLISH = """
import json, sys
from pathlib import Path
from thaw.runs import publishing
from thaw.artifacts import Paths
config = json.loads(Path(sys.argv[3]).read_text()) | {"seed": int(sys.argv[4])}
publishing.publish(Paths(Path(sys.argv[1]), Path(sys.argv[2])), config)
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def runs(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    return list(client.search_runs([client.get_experiment_by_name("thaw").experiment_id]))


def at_once(paths: Paths, uri: str, config: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish from so many processes, each another configuration."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    arguments = [sys.executable, "-c", PUBLISH, str(paths.data), str(paths.root), str(config)]
    started = [
        subprocess.Popen([*arguments, str(seed)], cwd=PROJECT, stderr=subprocess.PIPE, text=True, encoding="utf-8")
        for seed in range(count)
    ]
    for process in started:
        _, err = process.communicate()
        assert (process.returncode, err) == (0, "")


def check(uri: str, seeds: int) -> None:
    found = runs(uri)
    assert sorted(int(run.data.params["seed"]) for run in found) == [*range(seeds)]
    assert {run.info.status for run in found} == {"FINISHED"}
    assert {len(run.data.metrics) for run in found} == {len(found[0].data.metrics)}
    client = MlflowClient(uri)
    for run in found:
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {"report.html", "metrics.json", "config.yaml", "finetune", "train_head"} <= files
        assert run.outputs.model_outputs


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    found = finished.pipeline(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "publish", lambda *_: None)
        evaluate.run(found, finished.EVALUATE, finished.SEED)
    write_json(tmp_path / "config.json", recorded(found, evaluate=finished.EVALUATE, seed=finished.SEED))
    return found


def test_four_processes_on_a_fresh_database_lose_nothing(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'fresh' / 'mlflow.db'}"
    (tmp_path / "fresh").mkdir()
    at_once(paths, uri, tmp_path / "config.json", 4, monkeypatch)
    check(uri, 4)


def test_postgresql(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "workspace", lambda: tmp_path)
    with servers.postgresql() as uri:
        at_once(paths, uri, tmp_path / "config.json", 2, monkeypatch)
        check(uri, 2)


def test_a_server_takes_curves_runs_and_models_and_may_die_meanwhile(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    start = {"stage": "finetune", "root": str(paths.root), "data": str(paths.data), "config": config}
    start["began"] = time.time()
    rows = curves.read(paths.history("finetune"))
    port = servers.free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def training() -> Any:
        with servers.mlflow(tmp_path / "server", port):
            yield json.dumps(start)
            yield json.dumps(rows[0])
            for _ in range(100):
                if runs(store.address()):
                    break
                time.sleep(0.1)
        yield json.dumps(rows[1])  # nobody is there any more
        time.sleep(3)
        yield json.dumps("SCHEDULED")

    # The store is empty, and searching it needs the experiment.
    with servers.mlflow(tmp_path / "server", port) as uri:
        MlflowClient(uri).create_experiment("thaw")
    follow(training())
    assert capsys.readouterr().out.startswith(f"warning: MLflow at http://127.0.0.1:{port} takes no learning curve")
    with servers.mlflow(tmp_path / "server", port) as uri:
        (begun,) = runs(uri)
        assert begun.info.status == "RUNNING"
        evaluate.run(paths, finished.EVALUATE, finished.SEED)
        (run,) = runs(uri)
        assert run.info.run_id == begun.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.metrics["delta/accuracy"] > 0
        points = MlflowClient(uri).get_metric_history(run.info.run_id, "curve/val_loss")
        assert sorted(point.step for point in points) == [0, 1, 2, 3, 4, 5, 6]
        picture = paths.data / "class_0" / "003.png"
        published = Model(registry.fetch("champion", paths.manifest))
        assert published.answer([picture]) == Model(paths.finished).answer([picture])
