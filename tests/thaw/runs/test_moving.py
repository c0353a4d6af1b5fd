"""A project that was moved, renamed or copied: MLflow finds the files of its runs where they are now."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from stages import evaluate
from tests.helpers import finished
from tests.helpers.finished import runs
from thaw.artifacts import Paths
from thaw.config.composing import recorded
from thaw.models.portable import Model
from thaw.runs import publishing, registry, store
from thaw.runs.moving import PLACES, bring_home


@pytest.fixture
def project(tmp_path: Path, fresh: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with outputs, a database beside them, and a published run."""
    folder = tmp_path / "first"
    paths = finished.pipeline(folder)
    (folder / "mlflow.db").write_bytes(fresh)
    use(folder, monkeypatch)
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    return folder


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Work in a folder from now on."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    return Paths(folder / "data", folder / "artifacts")


def publish(paths: Paths, **changed: Any) -> None:
    """Publish what the files say, or another configuration."""
    publishing.publish(paths, recorded(paths) | changed)


def files(run: Any) -> set[str]:
    return {file.path for file in MlflowClient(store.address()).list_artifacts(run.info.run_id)}


def paths_in(database: Path, place: Path) -> list[str]:
    """All columns of a database that name a place."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = [
            (table, column[1])
            for table in tables
            for column in connection.execute(f"SELECT * FROM pragma_table_info('{table}')")
        ]
        return [
            f"{table}.{column}"
            for table, column in columns
            for name in (str(place), place.as_uri())
            if connection.execute(f'SELECT 1 FROM "{table}" WHERE instr("{column}", ?)', (name + "/",)).fetchone()
        ]


@pytest.mark.parametrize("name", ["second", "fünf prozent: 5% & mehr", "deeper/than/before"])
def test_a_moved_project_finds_its_runs_and_writes_new_ones_where_it_is(
    project: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = project.parent / name
    moved.parent.mkdir(parents=True, exist_ok=True)
    project.rename(moved)
    paths = use(moved, monkeypatch)
    publish(paths)
    assert f"Moved from {project}: " in capsys.readouterr().err
    publish(paths, seed=4)
    assert "Moved" not in capsys.readouterr().err
    assert len(runs()) == 2
    for run in runs():
        assert run.info.artifact_uri.startswith((moved / "mlartifacts").as_uri())
        assert "report.html" in files(run)
    assert not project.exists(), "nothing is written where it was"
    assert paths_in(moved / "mlflow.db", project) == [], "a column that MLflow has added belongs into PLACES"
    folder = registry.fetch("champion", paths.manifest)
    assert folder.is_relative_to(moved)
    assert Model(folder).answer([next(iter(sorted(paths.data.rglob("*.png"))))])


def test_a_copy_and_its_original_go_their_own_ways(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(project, project.parent / "copy")
    before = set(project.rglob("*"))
    publish(use(copy, monkeypatch), seed=4)
    assert set(project.rglob("*")) == before
    assert {run.info.artifact_uri.startswith((copy / "mlartifacts").as_uri()) for run in runs()} == {True}
    use(project, monkeypatch)
    (run,) = runs()
    assert run.info.artifact_uri.startswith((project / "mlartifacts").as_uri())


def test_a_database_that_came_without_the_files_is_completed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = shutil.copytree(project, project.parent / "clone", ignore=shutil.ignore_patterns("mlartifacts"))
    paths = use(clone, monkeypatch)
    publishing.catch_up(paths)
    (run,) = runs()
    assert "report.html" in files(run)
    folder = registry.fetch("champion", paths.manifest)
    assert folder.is_relative_to(clone)
    assert (folder / "model.xml").exists()


def test_a_place_that_somebody_has_chosen_stays(tmp_path: Path, fresh: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "first"
    paths = finished.pipeline(folder)
    (folder / "mlflow.db").write_bytes(fresh)
    use(folder, monkeypatch)
    chosen = (tmp_path / "large disk").as_uri()
    MlflowClient(store.address()).create_experiment("thaw", chosen)
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    moved = folder.rename(tmp_path / "second")
    publish(use(moved, monkeypatch))
    (run,) = runs()
    assert run.info.artifact_uri.startswith(chosen)
    assert "report.html" in files(run)


def test_another_name_of_the_same_folder_is_no_move(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    link = project.parent / "link"
    link.symlink_to(project)
    publish(use(link, monkeypatch))
    assert "Moved" not in capsys.readouterr().err
    assert registry.model_name(Paths(link / "data", link / "artifacts").manifest)
    assert paths_in(project / "mlflow.db", link) == []


def test_a_project_that_comes_from_another_system_finds_its_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There, paths and URIs are written in another way: file:///C:/… is not what this system would make of the path."""
    theirs = "file:///C:/Users/me/birds"
    with closing(sqlite3.connect(project / "mlflow.db")) as connection, connection:
        for table, column in PLACES.items():
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (project.as_uri(), theirs))
    publish(use(project, monkeypatch))
    assert "Moved from " in capsys.readouterr().err
    (run,) = runs()
    assert run.info.artifact_uri.startswith((project / "mlartifacts").as_uri())
    assert "report.html" in files(run)


def test_a_database_without_tables_is_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    bring_home(database, tmp_path / "mlartifacts")
    assert not database.exists()
    database.touch()
    bring_home(database, tmp_path / "mlartifacts")
    assert database.read_bytes() == b""


def test_a_clone_with_the_committed_figures_alone_publishes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = project.parent / "clone"
    (clone / "artifacts" / "evaluate").mkdir(parents=True)
    paths = use(clone, monkeypatch)
    shutil.copy(project / "artifacts" / "evaluate" / "figures.json", paths.figures)
    publishing.catch_up(paths)
    assert not (clone / "mlflow.db").exists()
