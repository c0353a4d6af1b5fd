"""A sweep in MLflow: a run of each job, tagged with it, and one that sums it up."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw.artifacts import Paths
from thaw.learning import curves
from thaw.runs.description import FINGERPRINT, SWEEP, curve_points, identity
from thaw.runs.publishing import begin, log, publish, same_runs
from thaw.runs.store import address, alone, connect, experiment, warned

if TYPE_CHECKING:
    from mlflow import MlflowClient

SWEEP_SUMMARY = "thaw.sweep.summary"  # of the run that sums it up


def publish_sweep(
    name: str,
    title: str,
    jobs: Sequence[tuple[Paths, Mapping[str, Any]]],
    parts: Sequence[tuple[Paths, Mapping[str, Any], Mapping[str, float]]],
    figures: Mapping[str, float],
    files: Path,
) -> None:
    """See to it that MLflow holds a run of each job of a sweep, tagged with it, and one that sums it up.

    What has been published stays as it is; what is missing, after a loss of the store, say, comes back. The summary
    takes the place of an earlier one of the same sweep. If the store does not answer, one sentence on stderr says so.

    Args:
        name: of the sweep.
        title: what it was asked for.
        jobs: whole ones: outputs and resolved configuration.
        parts: those of heads or features alone: outputs, resolved configuration, and figures of validation.
        figures: of the whole sweep.
        files: the sweep's folder: summary.txt, which becomes the run's description, and whatever tables and pictures
            lie beside it.

    Raises:
        UserError: see ``store.address``.
    """
    uri = address()
    later = "all results are in multirun/, and the same command publishes them"
    with warned(uri, "this sweep", later):
        with alone():
            client = connect(uri)
            known = experiment(client)
            tagged = {run.data.tags.get(FINGERPRINT) for run in _swept(client, known, name)}
        for paths, config in jobs:
            identical = identity(paths, config)[FINGERPRINT]
            if identical not in tagged:
                publish(paths, config)
                _mark(client, identical, name)
        for paths, config, own in parts:
            tags = identity(paths, config) | {"mlflow.source.name": "python -m stages.sweep"}
            if tags[FINGERPRINT] not in tagged:
                same = same_runs(client, tags[FINGERPRINT])
                if not any(run.info.status == "FINISHED" for run in same):
                    _publish_part(client, paths, config, tags, own)
                    for run in same:  # of a process that was killed while it wrote them
                        client.delete_run(run.info.run_id)
                _mark(client, tags[FINGERPRINT], name)
        with alone():
            _sum_up(client, known, name, title, figures, files)


def _mark(client: "MlflowClient", identical: str, sweep: str) -> None:
    """Tag the runs of one fingerprint with a sweep; a configuration may be part of several."""
    for run in same_runs(client, identical):
        names = run.data.tags.get(SWEEP, "").split()
        client.set_tag(run.info.run_id, SWEEP, " ".join(dict.fromkeys([*names, sweep])))


def _publish_part(
    client: "MlflowClient",
    paths: Paths,
    config: Mapping[str, Any],
    tags: Mapping[str, str],
    figures: Mapping[str, float],
) -> None:
    """Write the run of a configuration that nothing was fine-tuned or tested for; a whole one takes its place."""
    run_id = begin(client, paths, config, tags)
    curve = curves.read(paths.history("train_head")) if paths.history("train_head").exists() else []
    found = [(key, value, 0) for key, value in figures.items()]
    log(client, run_id, [*found, *itertools.chain.from_iterable(curve_points(row, 0) for row in curve)])
    client.set_terminated(run_id, "FINISHED")


def _swept(client: "MlflowClient", experiment_id: str, name: str) -> list[Any]:
    """Return all runs of a sweep: its jobs, and earlier summaries."""
    found: list[Any] = []
    token: str | None = None
    while token != "":
        page = client.search_runs([experiment_id], f"tags.`{SWEEP}` LIKE '%{name}%'", page_token=token)
        found, token = [*found, *page], page.token or ""
    return found


def _sum_up(
    client: "MlflowClient", experiment_id: str, name: str, title: str, figures: Mapping[str, float], files: Path
) -> None:
    """Write the run that sums a sweep up."""
    earlier = [run for run in _swept(client, experiment_id, name) if SWEEP_SUMMARY in run.data.tags]
    note = (files / "summary.txt").read_text(encoding="utf-8")
    tags = {
        SWEEP: name,
        SWEEP_SUMMARY: title,
        "mlflow.note.content": f"```\n{note[:5000]}```",
        "mlflow.source.name": "python -m stages.sweep",
    }
    run_id = client.create_run(experiment_id, tags=tags, run_name=f"sweep: {title}"[:250]).info.run_id
    log(client, run_id, [(f"sweep/{key}", value, 0) for key, value in figures.items()])
    for file in sorted(files.iterdir()):
        if file.suffix in (".txt", ".csv", ".svg"):
            client.log_artifact(run_id, str(file))
    client.set_terminated(run_id, "FINISHED")
    for run in earlier:
        client.delete_run(run.info.run_id)
