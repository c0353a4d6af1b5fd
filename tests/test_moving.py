"""A project that is moved with all it has, under real DVC: it goes on where it is, and leaves the old place alone."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.helpers.project import Project, repository


def runs(project: Project) -> list[Any]:
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    found = client.get_experiment_by_name("thaw")
    assert found
    for run in (every := list(client.search_runs([found.experiment_id]))):
        assert run.info.status == "FINISHED"
        assert run.info.artifact_uri.startswith((project.root / "mlartifacts").as_uri())
        assert client.list_artifacts(run.info.run_id), run.info.run_name
    return every


@pytest.mark.slow
def test_a_moved_project_evaluates_compares_predicts_trains_and_sweeps_where_it_is(tmp_path: Path) -> None:
    places = tmp_path / "places"
    before = repository(places / "before", HOME=str(tmp_path), THAW_LIVE="1")
    before.install()
    before.repro()
    before.commit()
    sweep = ["-m", "stages.sweep", "-m", "train_head=lbfgs,adam", "finetune=none"]
    before.shell(sys.executable, *sweep)
    assert len(runs(before)) == 4, "the pipeline's, two jobs, and the summary"

    moved = Project(places / "after a while: 100 % elsewhere", before.variables)
    subprocess.run(["mv", before.root, moved.root], check=True)
    shutil.rmtree(moved.root / ".venv")  # tests/test_tasks.py is about this
    moved.install()

    assert "the same, to the byte" in moved.bash("make repro")
    moved.dvc("repro", "-f", "-s", "evaluate")
    assert len(runs(moved)) == 4
    assert "red" in moved.bash("python -m stages.predict data/red/00.png --model champion")
    assert "finished before" in moved.shell(sys.executable, *sweep), "links in multirun/ lead where they should"
    moved.edit("params.yaml", "^seed: 0", "seed: 1")
    moved.repro()
    assert len(runs(moved)) == 5
    shown = moved.dvc("metrics", "diff")
    assert "artifacts/evaluate/metrics.json" in shown or shown == ""
    assert "red" in moved.bash("python -m stages.predict data/red/00.png --model champion")
    assert {path.name for path in places.iterdir()} == {moved.root.name}, "nothing is written where it was"
