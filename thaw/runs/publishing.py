"""What a finished pipeline leaves behind is published as one complete run.

``publish`` works from files alone, so it makes no difference which stages DVC took from its cache, and a lost database
is filled again by ``dvc repro -f -s evaluate``.
"""

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from thaw.artifacts import STAGES, Paths, fingerprint, read_json
from thaw.config.composing import recorded
from thaw.runs import moving, registry
from thaw.runs.description import (
    CURVES,
    FINGERPRINT,
    MACHINE,
    PUBLISHED,
    Point,
    headline,
    identity,
    parameters,
    points,
    run_name,
)
from thaw.runs.store import address, alone, artifact_folder, connect, experiment, sqlite_file, warned

if TYPE_CHECKING:
    from mlflow import MlflowClient

OUTPUTS = "thaw.outputs"
_BATCH = 1000  # metrics that MLflow takes at once


def publish(paths: Paths, config: Mapping[str, Any]) -> None:
    """See to it that MLflow holds exactly one run of this configuration and data, complete and finished.

    A finished run of the same outputs is left alone. A run that has followed the training, or was left unfinished, is
    completed if all that it says is true; else a new one is written. Only when the run is complete are others of the
    same fingerprint deleted (softly: ``mlflow gc`` would remove them for good). If the store does not answer, one
    sentence on stderr says so; the results are files and can be published later.

    Args:
        paths: the outputs of all stages.
        config: the resolved configuration by section, as plain values.

    Raises:
        UserError: see ``store.address``.
    """
    uri = address()
    metrics = read_json(paths.figures)
    learnt = (paths.probabilities, paths.predictions, paths.history)
    outputs = [paths.figures, *(file(stage) for stage in CURVES for file in learnt)]
    tags = identity(paths, config) | {
        OUTPUTS: fingerprint(*outputs),
        "verdict": metrics["verdict"],
        "kept": metrics["kept"],
        "mlflow.note.content": headline(metrics),  # the run's description
    }
    later = "all results are in artifacts/, and 'dvc repro -f -s evaluate' publishes them"
    with warned(uri, "this run", later), alone():
        client = connect(uri)
        same = same_runs(client, tags[FINGERPRINT])
        done = [run for run in same if _is_done(client, run, tags[OUTPUTS])]
        complete = done[0].info.run_id if done else _complete(client, same, paths, config, tags, metrics)
        for run in same:
            if run.info.run_id != complete:
                client.delete_run(run.info.run_id)
        client.set_tag(complete, PUBLISHED, str(time.time()))


def _is_done(client: "MlflowClient", run: Any, outputs: str) -> bool:
    """Whether a run is complete, of these outputs, and has its files: a database may have been copied without them."""
    finished = run.info.status == "FINISHED" and run.data.tags.get(OUTPUTS) == outputs
    return finished and bool(client.list_artifacts(run.info.run_id))


def catch_up(paths: Paths) -> None:
    """Publish what the outputs in the workspace say, unless that has been done: whoever pulled them has no run of them.

    Raises:
        UserError: see ``store.address``.
    """
    needed = [paths.finished, *map(paths.config, STAGES), *map(paths.probabilities, CURVES)]
    if not all(file.exists() for file in needed):  # Git brings the figures alone
        return
    config = recorded(paths)
    if not _is_known(address(), identity(paths, config)[FINGERPRINT]):
        publish(paths, config)


def _is_known(uri: str, identical: str) -> bool:
    """Whether an SQLite store has a finished run of a fingerprint: asked without MLflow, whose import takes seconds."""
    database = sqlite_file(uri)
    if database is None or not database.exists():
        return False
    query = (
        "SELECT artifact_uri FROM runs JOIN tags ON runs.run_uuid = tags.run_uuid "
        "WHERE tags.key = ? AND tags.value = ? AND runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'"
    )
    with alone():
        moving.bring_home(database, artifact_folder(uri))
        with closing(sqlite3.connect(database)) as connection, suppress(sqlite3.Error):
            found = [moving.local(place) for (place,) in connection.execute(query, (FINGERPRINT, identical))]
            return any(folder is None or folder.exists() for folder in found)
    return False


def _complete(
    client: "MlflowClient",
    same: list[Any],
    paths: Paths,
    config: Mapping[str, Any],
    tags: dict[str, str],
    metrics: Mapping[str, Any],
) -> str:
    """Write a run, or the rest of one that is unfinished; return its id."""
    everything = points(paths, metrics)
    run_id, there = "", set[Point]()
    for run in same:
        if run.info.status != "FINISHED" and (found := logged(client, run)) <= set(everything):
            run_id, there = run.info.run_id, found
    run_id = run_id or begin(client, paths, config, tags)
    try:
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
        log(client, run_id, [point for point in everything if point not in there])
        _log_files(client, run_id, paths)
        client.log_text(run_id, OmegaConf.to_yaml(OmegaConf.create(dict(config))), "config.yaml")
        registry.publish(client, run_id, paths, metrics, tags[FINGERPRINT])
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return run_id


def same_runs(client: "MlflowClient", identical: str) -> list[Any]:
    """Return the runs of one fingerprint, the newest first."""
    return list(client.search_runs([experiment(client)], f"tags.`{FINGERPRINT}` = '{identical}'"))


def logged(client: "MlflowClient", run: Any) -> set[Point]:
    """Return all points of a run but those of the machine."""
    return {
        (key, point.value, point.step)
        for key in run.data.metrics
        if not key.startswith(MACHINE)
        for point in client.get_metric_history(run.info.run_id, key)
    }


def log(client: "MlflowClient", run_id: str, new: Sequence[Point]) -> None:
    """Log points, in batches that MLflow takes."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    for at in range(0, len(new), _BATCH):
        batch = [Metric(key, value, now, step) for key, value, step in new[at : at + _BATCH]]
        client.log_batch(run_id, batch)


def _log_files(client: "MlflowClient", run_id: str, paths: Paths) -> None:
    """Log the report at the top, where a click on "Artifacts" shows it, and what the stages have learnt."""
    folders = ((paths.report.parent, ""), *((paths.predictions(stage).parent, stage) for stage in CURVES))
    for folder, name in folders:
        for file in sorted(folder.iterdir()):
            if file.is_dir() and file != paths.finished:
                client.log_artifacts(run_id, str(file), f"{name}/{file.name}".lstrip("/"))
            # The model is logged as one; the network that it was made from is in it.
            elif file.is_file() and file.suffix not in (".xml", ".bin"):
                client.log_artifact(run_id, str(file), name or None)


def begin(client: "MlflowClient", paths: Paths, config: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """Create the run of a configuration and data, with all that is known before it has a result; return its id."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    run_id: str = client.create_run(experiment(client), tags=dict(tags), run_name=run_name(config)).info.run_id
    client.log_batch(run_id, params=[Param(key, str(value)[:6000]) for key, value in parameters(config).items()])
    counts = read_json(paths.manifest.with_name("summary.json"))["images"]
    total = {split: sum(by_class.values()) for split, by_class in counts.items()}
    data = Dataset(
        name=f"{sum(total.values())} images, {len(counts['train'])} classes",
        digest=fingerprint(paths.manifest)[:16],
        source_type="dvc",
        source=json.dumps({"data.dvc": tags.get("data_md5", ""), "seed": config["seed"]}),
        profile=json.dumps(total),
        schema=json.dumps({"classes": list(counts["train"])})[:60_000],
    )
    client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "train, val, test")])])
    return run_id
