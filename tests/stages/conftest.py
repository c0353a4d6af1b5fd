"""A sweep's results, made once for all tests that look at them, and what a Ray cluster is known by."""

import secrets
import subprocess
import sys
import time

import pytest

from tests.helpers.project import SWEEP, Project


@pytest.fixture(scope="session")
def swept(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after 'dvc repro' and a sweep that was killed in its second job and started again."""
    folder = tmp_path_factory.mktemp("sweep")
    project = finished.copy(folder / "project", MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db")
    command = [sys.executable, "-m", "stages.sweep", *SWEEP]
    with subprocess.Popen(
        command, cwd=project.root, env=project.environment(), stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline().endswith(": 4 jobs\n")
        assert killed.stdout.readline().startswith("1/4  train_head=lbfgs finetune.learning_rate=0.0001  validation")
        time.sleep(0.5)
        killed.kill()
    done = project.stage("sweep", *SWEEP)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished before" in done.stdout.splitlines()[1]
    assert done.stderr == ""
    return project


@pytest.fixture
def token() -> dict[str, str]:
    """Variables with which Ray's machines and its user know each other."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
