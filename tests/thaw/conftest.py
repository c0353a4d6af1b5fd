"""A finished pipeline in a workspace of its own, to be published."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stages import evaluate
from tests.helpers import finished
from thaw.artifacts import Paths
from thaw.runs import store


@pytest.fixture
def workspace(tmp_path: Path, fresh: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the project's own store lie in a temporary folder."""
    (tmp_path / "mlflow.db").write_bytes(fresh)
    monkeypatch.setattr(store, "workspace", lambda: tmp_path)
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "cache"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """What its stages have left."""
    found = finished.pipeline(tmp_path)
    (tmp_path / "data.dvc").write_text("outs:\n- md5: 0123.dir\n  path: data\n", encoding="utf-8")
    return found


@pytest.fixture
def publish(paths: Paths) -> Callable[[], None]:
    """Evaluate it, which publishes it."""
    return lambda: evaluate.run(paths, finished.EVALUATE, finished.SEED)
