"""Runs in MLflow: what a finished pipeline leaves behind is published as one complete run.

A run stands for a fingerprint, the hash of the configuration of every stage and of the manifest. ``publish`` works from
files alone, so it makes no difference which stages DVC took from its cache, and a lost database is filled again by
``dvc repro -f -s evaluate``. This is the only module that imports mlflow, and only where it is needed: the import takes
seconds.

    python -m thaw.tracking ui [--port 5000]     show all runs
    python -m thaw.tracking publish              publish the results in artifacts/, if that has not been done
"""

import argparse
import itertools
import json
import logging
import math
import os
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from omegaconf import OmegaConf

from thaw import artifacts, history, moving, registry
from thaw.artifacts import STAGES, Paths, cache, fingerprint, git, read_json, workspace
from thaw.config import NO_MATTER, fail, recorded
from thaw.errors import UserError
from thaw.evidence import is_tuned
from thaw.history import Row
from thaw.machine import environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

FINGERPRINT, OUTPUTS = "thaw.fingerprint", "thaw.outputs"
PUBLISHED = "thaw.published"  # when evaluate has last seen to a run, in seconds since 1970
SWEEP, SWEEP_SUMMARY = "thaw.sweep", "thaw.sweep.summary"  # of the runs of a sweep: its name; of its summary
CURVES = ("train_head", "finetune")
Point = tuple[str, float, int]  # of a metric: key, value, step
_COMPARISON = {"finetuned", "delta", "mcnemar_p", "fixed", "broken"}  # what figures.json says of two models
_BATCH = 1000  # metrics that MLflow takes at once


def store() -> str:
    """Return the tracking URI: ``MLFLOW_TRACKING_URI`` if it is set, else the SQLite file beside the project.

    The path is absolute, so that runs from ``dvc exp run --temp`` and from other directories meet in one place.

    Raises:
        UserError: the URI names a folder; MLflow 3.13 has retired that kind of store.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return f"sqlite:///{(workspace() / 'mlflow.db').as_posix()}"
    # 'databricks' and 'uc' are words that MLflow understands; any other word without a scheme is a folder to it.
    scheme = urlsplit(uri).scheme
    if (scheme in ("", "file") or len(scheme) == 1) and uri not in ("databricks", "uc"):  # C:\\… on Windows
        raise UserError(
            f"MLFLOW_TRACKING_URI: expected a database or a server (sqlite:///…, postgresql://…, http://…), found the "
            f"folder {uri!r}, which MLflow no longer writes to; unset it to use mlflow.db in the project"
        )
    return uri


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
        UserError: see ``store``.
    """
    uri = store()
    metrics = read_json(paths.figures)
    outputs = [paths.figures, *(file for stage in CURVES for file in (paths.predictions(stage), paths.history(stage)))]
    tags = identity(paths, config) | {
        OUTPUTS: fingerprint(*outputs),
        "verdict": metrics["verdict"],
        "kept": metrics["kept"],
        "mlflow.note.content": headline(metrics),  # the run's description
    }
    try:
        with alone():
            client = connect(uri)
            same = same_runs(client, tags[FINGERPRINT])
            done = [run for run in same if _is_done(client, run, tags[OUTPUTS])]
            complete = done[0].info.run_id if done else _complete(client, same, paths, config, tags, metrics)
            for run in same:
                if run.info.run_id != complete:
                    client.delete_run(run.info.run_id)
            client.set_tag(complete, PUBLISHED, str(time.time()))
    except failures() as error:
        print(
            f"warning: MLflow at {public(uri, uri)} did not take this run ({public(uri, error)}); all results are in "
            f"artifacts/, and 'dvc repro -f -s evaluate' publishes them once it answers",
            file=sys.stderr,
        )


def _is_done(client: "MlflowClient", run: Any, outputs: str) -> bool:
    """Whether a run is complete, of these outputs, and has its files: a database may have been copied without them."""
    finished = run.info.status == "FINISHED" and run.data.tags.get(OUTPUTS) == outputs
    return finished and bool(client.list_artifacts(run.info.run_id))


def catch_up(paths: Paths) -> None:
    """Publish what the outputs in the workspace say, unless that has been done: whoever pulled them has no run of them.

    Raises:
        UserError: see ``store``.
    """
    needed = [paths.finished, *map(paths.config, STAGES), *map(paths.predictions, CURVES)]
    if not all(file.exists() for file in needed):  # Git brings the figures alone
        return
    config = recorded(paths)
    if not _is_known(store(), identity(paths, config)[FINGERPRINT]):
        publish(paths, config)


def _is_known(uri: str, identical: str) -> bool:
    """Whether an SQLite store has a finished run of a fingerprint: asked without MLflow, whose import takes seconds."""
    database = _database(uri)
    if database is None or not database.exists():
        return False
    query = (
        "SELECT artifact_uri FROM runs JOIN tags ON runs.run_uuid = tags.run_uuid "
        "WHERE tags.key = ? AND tags.value = ? AND runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'"
    )
    with alone():
        moving.bring_home(database, _artifacts(uri))
        with closing(sqlite3.connect(database)) as connection, suppress(sqlite3.Error):
            found = [moving.local(place) for (place,) in connection.execute(query, (FINGERPRINT, identical))]
            return any(folder is None or folder.exists() for folder in found)
    return False


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
        UserError: see ``store``.
    """
    uri = store()
    try:
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
    except failures() as error:
        print(
            f"warning: MLflow at {public(uri, uri)} did not take this sweep ({public(uri, error)}); all results are in "
            f"multirun/, and the same command publishes them once it answers",
            file=sys.stderr,
        )


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
    curve = history.read(paths.history("train_head")) if paths.history("train_head").exists() else []
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


def fetch(which: str, manifest: Path) -> Path:
    """Bring a published model here, see ``registry.fetch``.

    Raises:
        UserError: there is no such model, or the store does not answer.
    """
    uri = store()
    try:
        with alone():
            client = connect(uri)
            known = experiment(client)
        return registry.fetch(client, known, which, manifest)
    except failures() as error:
        raise UserError(
            f"--model: expected MLflow to answer at {public(uri, uri)}, found: {public(uri, error)}; start it, or name "
            "a folder"
        ) from None


def failures() -> tuple[type[Exception], ...]:
    """Return what is raised where a store does not answer, or not as it should."""
    _quieten()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError, ImportError  # a database wants its driver


def public(uri: str, said: object) -> str:
    """Return what was said in one line, without the password that the store's address may have."""
    text = textwrap.shorten(str(said) or type(said).__name__, 160, placeholder=" …")
    password = urlsplit(uri).password
    return text.replace(f":{password}@", ":…@") if password else text


def connect(uri: str) -> "MlflowClient":
    """Return a client of a store, with MLflow set up for it; whoever calls this is ``alone``."""
    if database := _database(uri):
        moving.bring_home(database, _artifacts(uri))
    _quieten()
    import mlflow

    mlflow.set_tracking_uri(uri)  # for what a client cannot do
    return mlflow.MlflowClient(uri)


def same_runs(client: "MlflowClient", identical: str) -> list[Any]:
    """Return the runs of one fingerprint, the newest first."""
    return list(client.search_runs([experiment(client)], f"tags.`{FINGERPRINT}` = '{identical}'"))


def logged(client: "MlflowClient", run: Any) -> set[Point]:
    """Return all points of a run but those of the machine."""
    return {
        (key, point.value, point.step)
        for key in run.data.metrics
        if not key.startswith("system/")
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


def run_name(config: Mapping[str, Any]) -> str:
    """Return a name that tells runs apart in the run table, what is varied most first: columns there are narrow."""
    backbone, head, finetune = config["backbone"], config["train_head"], config["finetune"]
    depths = (
        "probe"
        if config.get("rank") == "backbone"
        else " → ".join(_depth(step["unfreeze"]) for step in (finetune, *finetune.get("then", [])))
    )
    network = f"{backbone['network']} {backbone['alpha']:g} at {backbone['input_size']} px"
    hidden = "".join(f" {units}" for units in head.get("hidden", []))
    views = f"{config['augment']['views']} views"
    augmented = [views] if config["augment"]["views"] else []
    return " · ".join([depths, network, *augmented, head["solver"] + hidden, f"seed {config['seed']}"])


def _depth(unfreeze: Mapping[str, Any] | str) -> str:
    if isinstance(unfreeze, str):  # none
        return "head only"
    ((unit, count),) = ((unit, count) for unit, count in unfreeze.items() if count is not None)
    return "all" if unit == "all" else f"last {count} {unit}"


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the result in one sentence."""
    head, tuned, delta = metrics["head"], metrics["finetuned"], metrics["delta"]
    if not is_tuned(metrics):
        return (
            f"{metrics['verdict'].capitalize()}: accuracy {head['accuracy']:.1%} with the head alone "
            f"({head['accuracy_low']:.1%} to {head['accuracy_high']:.1%}) on {metrics['n_test']} test images."
        )
    return (
        f"{metrics['verdict'].capitalize()}: accuracy {head['accuracy']:.1%} before, {tuned['accuracy']:.1%} after, "
        f"difference {100 * delta['accuracy']:+.1f} points ({100 * delta['accuracy_low']:+.1f} to "
        f"{100 * delta['accuracy_high']:+.1f}) on {metrics['n_test']} test images."
    )


def flat(tree: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Turn nested mappings into one, whose keys are the ways to the leaves; what is None is not there."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if value is None:
            continue
        inner = flat(value, separator) if isinstance(value, Mapping) else {"": value}
        leaves |= {f"{key}{separator}{way}" if way else key: leaf for way, leaf in inner.items()}
    return leaves


def parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that can change a result, flattened; not how and where it is computed and kept."""
    changed = {section: value for section, value in config.items() if section != "evaluate"}
    if not config["augment"]["views"]:
        changed["augment"] = {"views": 0}  # the rest has no say
    found = flat(changed, ".")
    return {key: value for key, value in found.items() if key not in NO_MATTER and value != []}


def curve_points(row: Row, offset: int) -> list[Point]:
    """Return the points of one row of a learning curve, ``offset`` steps further on the axis of both phases."""
    step = int(row["step"]) + offset
    # With as many digits as the file has, so that live points and published ones are the same.
    return [(f"curve/{key}", float(f"{value:.9g}"), step) for key, value in row.items() if _is_point(key, value)]


def _is_point(key: str, value: float) -> bool:
    return key != "step" and math.isfinite(value)


def points(paths: Paths, metrics: Mapping[str, Any]) -> list[Point]:
    """Return the figures of ``figures.json`` and both learning curves, the second one going on where the first ends.

    Where nothing was fine-tuned, only those of the head: there is nothing to compare them with.
    """
    tuned = is_tuned(metrics)
    told = {key: value for key, value in metrics.items() if tuned or key not in _COMPARISON}
    found = [(key, float(value), 0) for key, value in flat(told, "/").items() if not isinstance(value, str)]
    offset = 0
    for stage in CURVES if tuned else CURVES[:1]:
        rows = history.read(paths.history(stage))
        found += itertools.chain.from_iterable(curve_points(row, offset) for row in rows)
        offset += len(rows)
    return found


def identity(paths: Paths, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags that say which run this is, and where its code and its data came from."""
    tags = {
        FINGERPRINT: fingerprint(json.dumps(config, sort_keys=True), paths.manifest),
        "mlflow.source.name": "dvc repro",
        "environment": ", ".join(f"{key} {value}" for key, value in environment().items()),
    }
    if commit := git("rev-parse", "HEAD"):
        tags["mlflow.source.git.commit"] = commit.strip()
        tags["mlflow.source.git.dirty"] = str(bool((git("status", "--porcelain", "-uno") or "").strip()))
    if sweep := os.environ.get("THAW_SWEEP"):  # ``thaw.sweeping`` sets it while it runs a job
        tags |= {SWEEP: sweep, "mlflow.source.name": "python -m stages.sweep"}
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):  # DVC sets them while it runs an experiment
        if name in os.environ:
            tags[name.lower()] = os.environ[name]
    tracked = paths.data.with_name(f"{paths.data.name}.dvc")
    if tracked.exists():
        tags["data_md5"] = str(OmegaConf.select(OmegaConf.load(tracked), "outs[0].md5"))
    return tags


def experiment(client: "MlflowClient") -> str:
    """Return the id of the experiment; create it, or bring it back if somebody deleted it (names stay taken)."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "thaw")
    found = client.get_experiment_by_name(name)
    if found is None:
        uri = client.tracking_uri
        # A server knows where its artifacts belong; a bare database would put them under the current directory.
        location = _artifacts(uri).as_uri() if "sql" in urlsplit(uri).scheme else None
        created: str = client.create_experiment(name, location)
        return created
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    existing: str = found.experiment_id
    return existing


def _database(uri: str) -> Path | None:
    """Return the file of an SQLite store, None for any other."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def _artifacts(uri: str) -> Path:
    """Return the folder for the files of runs: beside the SQLite file, else beside the project."""
    database = _database(uri)
    return (database.parent if database else workspace()) / "mlartifacts"


def alone() -> AbstractContextManager[None]:
    """Let one process at a time into the block.

    MLflow fails when several processes create the tables of a fresh store at once, and two publications of one
    fingerprint must not miss each other.
    """
    return artifacts.alone(cache() / "mlflow.lock", 600)


def _quieten() -> None:
    """Set MLflow up before it is imported: no telemetry, no chatter, no waiting for minutes."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for key, value in {
        "MLFLOW_LOGGING_LEVEL": "WARNING",  # a fresh store narrates its migrations
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # seven attempts would take four minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }.items():
        os.environ.setdefault(key, value)
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it tells of transactions that MLflow gives up by itself
    os.environ.pop("MLFLOW_RUN_ID", None)  # would beat the run ids given to the client (mlflow#15713)


def ui(port: int) -> None:
    """Serve the run table on 127.0.0.1 until Ctrl-C.

    Raises:
        UserError: the port is taken, or ``MLFLOW_TRACKING_URI`` names a server, which has its own UI.
    """
    uri = store()
    if urlsplit(uri).scheme in ("http", "https"):
        raise UserError(
            f"expected runs in a database, found MLFLOW_TRACKING_URI={uri}, which is a server; open it instead"
        )
    with socket.socket() as probe:
        # As servers do: a port whose last owner has just gone is free. Windows would call any port free then.
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UserError(
                f"expected port {port} to be free, found another program on it (MLflow may be running already: "
                f"http://127.0.0.1:{port}); choose another, for instance 'python -m thaw.tracking ui --port {port + 1}'"
            ) from None
    catch_up(Paths())
    _quieten()
    # This server shows runs; the workers for MLflow's own background jobs would only take memory.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    with alone():
        # The server would create a fresh store itself, but not wait for a stage that is doing so.
        database = _database(uri)
        if database and not database.exists():
            from mlflow import MlflowClient

            experiment(MlflowClient(uri))
    print(f"MLflow UI: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", uri, "--default-artifact-root", _artifacts(uri).as_uri()]
    command = [sys.executable, "-m", "mlflow", "server", *options, *stores]
    if sys.platform == "win32":  # a process cannot become another one there
        with suppress(KeyboardInterrupt):  # Ctrl-C reaches the server as well, and ends it
            sys.exit(subprocess.run(command, check=False).returncode)
        sys.exit(130)
    # This process becomes the server, so that whatever ends it ends the server.
    os.execv(sys.executable, command)


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m thaw.tracking", description="The runs of this project in MLflow.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("ui", help="serve the run table on 127.0.0.1")
    serve.add_argument("--port", type=int, default=5000)
    commands.add_parser("publish", help="publish the results in artifacts/, if that has not been done")
    arguments = parser.parse_args()
    try:
        if arguments.command == "publish":
            catch_up(Paths())
        else:
            ui(arguments.port)
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    main()
