"""Fixtures that every test may use."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.helpers import options, servers
from tests.helpers.project import Project, repository
from thaw.artifacts import PROJECT, STAGES
from thaw.config.schema import Backbone
from thaw.evidence import comparison

SHARED = PROJECT.parent / "shared"

settings.register_profile("thaw", deadline=None)  # how long an example takes says something of the machine alone
settings.load_profile("thaw")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what may take longest, so that in the end nothing waits for it."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test an empty cache, so that none profits from, or spoils, the project's."""
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the few test images that are fabricated count as many, unless a test says otherwise."""
    monkeypatch.setattr(comparison, "FEW", 0)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty MLflow store, to copy: making its tables takes seconds."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file.read_bytes()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after its first 'dvc repro', committed. Tests that change it take a copy.

    It takes a minute, so that the first process that asks makes it for all; each then has a copy of its own.
    """
    everyone = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        everyone = everyone.parent
    first, done = _project(everyone / "pipeline"), everyone / "pipeline.done"
    with FileLock(everyone / "pipeline.lock"):
        if not done.exists():
            shutil.rmtree(first.root.parent, ignore_errors=True)  # of one that failed
            repository(first.root, **first.variables)
            (first.root.parent / "mlflow").mkdir()
            assert first.repro() == list(STAGES)
            first.commit()
            done.touch()
    own = _project(tmp_path_factory.mktemp("pipeline"))
    shutil.copytree(first.root.parent / "mlflow", own.root.parent / "mlflow")
    return first.copy(own.root, **own.variables)


def _project(folder: Path) -> Project:
    """A project in a folder, with an MLflow store beside it."""
    return Project(folder / "project", {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow/mlflow.db"})


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and weights beside the project; a user does not have them."""
    if not SHARED.is_dir():
        pytest.skip("needs the developers' ../shared (real data and weights), which is not here")
    return SHARED


@pytest.fixture
def toy() -> Backbone:
    """The smallest backbone: random weights, 32 px."""
    return Backbone.model_validate(options.BACKBONE)


@pytest.fixture(scope="session")
def _s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    with servers.s3(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture
def bucket(_s3: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> servers.Bucket:
    """An empty bucket of an S3 server, which the environment names, and nothing else of the kind."""
    import s3fs

    endpoint, log = _s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    url = f"s3://{secrets.token_hex(8)}"
    s3fs.S3FileSystem().mkdir(url)
    return servers.Bucket(url, endpoint, log)
