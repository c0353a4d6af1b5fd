"""Publishing sweeps: a run of each job, and one that sums them up; again after a loss."""

from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.helpers import finished
from tests.helpers.finished import runs
from thaw.artifacts import Paths
from thaw.config.composing import recorded
from thaw.runs import description, store
from thaw.sweeps import publication

pytestmark = pytest.mark.usefixtures("workspace")


@pytest.fixture
def swept(paths: Paths, publish: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Publish a sweep of one job, which has run in a sweep called 'first'."""
    monkeypatch.setenv("THAW_SWEEP", "first")
    publish()
    monkeypatch.delenv("THAW_SWEEP")
    config = recorded(paths, evaluate=finished.EVALUATE, seed=finished.SEED)
    files = paths.root.parent / "files"
    files.mkdir()
    for name in ("summary.txt", "table.csv", "0.json", "0.log"):
        (files / name).write_text("rank  validation\n1     90.0%\n", encoding="utf-8")
    return lambda name: publication.publish_sweep(name, "seed=1,2", [(paths, config)], [], {"configurations": 7}, files)


def by_kind() -> tuple[list[Any], list[Any]]:
    """The runs of jobs, and those that sum up."""
    found = runs()
    return tuple(
        [run for run in found if (publication.SWEEP_SUMMARY in run.data.tags) == sums] for sums in (False, True)
    )  # type: ignore[return-value]


def test_a_sweep_has_a_run_of_each_job_and_one_that_sums_it_up(swept: Callable[[str], None], paths: Paths) -> None:
    swept("first")
    (job,), (summary,) = by_kind()
    assert job.data.tags[description.SWEEP] == summary.data.tags[description.SWEEP] == "first"
    assert summary.info.run_name == "sweep: seed=1,2"
    assert summary.info.status == "FINISHED"
    assert "90.0%" in summary.data.tags["mlflow.note.content"]
    assert summary.data.metrics == {"sweep/configurations": 7}
    client = MlflowClient(store.address())
    assert [one.path for one in client.list_artifacts(summary.info.run_id)] == ["summary.txt", "table.csv"]


def test_a_sweep_again_replaces_its_summary_and_nothing_else(swept: Callable[[str], None]) -> None:
    swept("first")
    (job,), (summary,) = by_kind()
    swept("first")
    (same,), (other,) = by_kind()
    assert same.info.run_id == job.info.run_id
    assert other.info.run_id != summary.info.run_id


def test_a_job_may_be_part_of_several_sweeps(swept: Callable[[str], None]) -> None:
    swept("first")
    swept("second")
    swept("second")
    (job,), summaries = by_kind()
    assert job.data.tags[description.SWEEP] == "first second"
    assert {run.data.tags[description.SWEEP] for run in summaries} == {"first", "second"}


def test_a_sweep_brings_lost_runs_back(swept: Callable[[str], None]) -> None:
    (lost,) = runs()
    MlflowClient(store.address()).delete_run(lost.info.run_id)
    swept("first")
    (job,), _ = by_kind()
    assert job.info.status == "FINISHED"
    assert job.data.metrics == lost.data.metrics


@pytest.fixture
def heads(paths: Paths) -> Callable[[str], None]:
    """Publish a sweep of one head."""
    config = recorded(paths, evaluate=finished.EVALUATE, seed=finished.SEED) | {"finetune": {"unfreeze": "none"}}
    files = paths.root.parent / "files"
    files.mkdir()
    (files / "summary.txt").write_text("rank", encoding="utf-8")
    parts = [(paths, config, {"head/val_accuracy": 0.75})]
    return lambda name: publication.publish_sweep(name, "rank=head", [], parts, {}, files)


def test_a_head_alone_has_a_run_with_its_curve_and_nothing_of_the_test_images(heads: Callable[[str], None]) -> None:
    heads("first")
    (run,), (_,) = by_kind()
    assert run.info.run_name.startswith("head only · ")
    assert run.info.status == "FINISHED"
    assert run.data.params["finetune.unfreeze"] == "none"
    assert run.data.metrics["head/val_accuracy"] == 0.75
    assert {key for key in run.data.metrics if not key.startswith("curve/")} == {"head/val_accuracy"}
    assert "curve/val_loss" in run.data.metrics


def test_a_head_s_run_is_found_again_by_its_own_and_other_sweeps(heads: Callable[[str], None]) -> None:
    for name in ("first", "first", "second"):
        heads(name)
    (run,), _ = by_kind()
    assert run.data.tags[description.SWEEP] == "first second"


def test_a_head_s_run_that_was_left_unfinished_is_replaced(heads: Callable[[str], None]) -> None:
    heads("first")
    (run,), _ = by_kind()
    MlflowClient(store.address()).set_terminated(run.info.run_id, "KILLED")
    heads("second")
    (other,), _ = by_kind()
    assert other.info.run_id != run.info.run_id
    assert other.info.status == "FINISHED"


def test_an_unreachable_server_costs_a_sweep_a_warning_only(
    swept: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    capsys.readouterr()
    swept("first")
    err = capsys.readouterr().err
    assert err.startswith("warning: MLflow at http://127.0.0.1:9 did not take this sweep")
    assert err.count("\n") == 1
