"""Runs in MLflow: what a finished pipeline leaves behind is published as one complete run.

A run stands for a fingerprint, the hash of the configuration of every stage and of the manifest. ``publish`` works from
files alone, so it makes no difference which stages DVC took from its cache, and a lost database is filled again by
``dvc repro -f -s evaluate``. This is the only module that imports mlflow, and only where it is needed: the import takes
seconds.

    python -m thaw.tracking ui [--port 5000]
"""

import argparse
import json
import math
import os
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from omegaconf import OmegaConf

from thaw import history
from thaw.artifacts import PROJECT, Paths, cache, fingerprint, read_json, workspace
from thaw.config import fail
from thaw.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

FINGERPRINT, OUTPUTS = "thaw.fingerprint", "thaw.outputs"
CURVES = ("train_head", "finetune")
_BATCH = 1000  # metrics that MLflow takes at once


def store() -> str:
    """Return the tracking URI: ``MLFLOW_TRACKING_URI`` if it is set, else the SQLite file beside the project.

    The path is absolute, so that runs from ``dvc exp run --temp`` and from other directories meet in one place.

    Raises:
        UserError: the URI names a folder; MLflow 3.13 has retired that kind of store.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return f"sqlite:///{workspace() / 'mlflow.db'}"
    # 'databricks' and 'uc' are words that MLflow understands; any other word without a scheme is a folder to it.
    if urlsplit(uri).scheme in ("", "file") and uri not in ("databricks", "uc"):
        raise UserError(
            f"MLFLOW_TRACKING_URI: expected a database or a server (sqlite:///…, postgresql://…, http://…), found the "
            f"folder {uri!r}, which MLflow no longer writes to; unset it to use mlflow.db in the project"
        )
    return uri


def publish(paths: Paths, config: Mapping[str, Any]) -> None:
    """See to it that MLflow holds exactly one run of this configuration and data, complete and finished.

    A finished run of the same outputs is left alone. Otherwise a new run is written, and only when it is complete are
    stale or unfinished runs of the same fingerprint deleted (softly: ``mlflow gc`` would remove them for good). If the
    store does not answer, one sentence on stderr says so; the results are files and can be published later.

    Args:
        paths: the outputs of all stages.
        config: the resolved configuration by section, as plain values.

    Raises:
        UserError: see ``store``.
    """
    uri = store()
    metrics = read_json(paths.metrics)
    outputs = [paths.metrics, *(file for stage in CURVES for file in (paths.predictions(stage), paths.history(stage)))]
    tags = {
        FINGERPRINT: fingerprint(json.dumps(config, sort_keys=True), paths.manifest),
        OUTPUTS: fingerprint(*outputs),
        **_tags(paths, metrics),
    }
    values = list(_metrics(paths, metrics))
    _quieten()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with _alone():
            _publish(uri, paths, config, tags, values)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 160, placeholder=" …")
        sentence = (
            f"warning: MLflow at {uri} did not take this run ({reason}); all results are in artifacts/, and "
            f"'dvc repro -f -s evaluate' publishes them once it answers"
        )
        # MLflow's reason may repeat the address.
        password = urlsplit(uri).password
        print(sentence.replace(f":{password}@", ":…@") if password else sentence, file=sys.stderr)


def _publish(
    uri: str, paths: Paths, config: Mapping[str, Any], tags: dict[str, str], values: list[tuple[str, float, int]]
) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(uri)
    experiment = _experiment(client, uri)
    former = client.search_runs([experiment], f"tags.`{FINGERPRINT}` = '{tags[FINGERPRINT]}'")
    if any(run.info.status == "FINISHED" and run.data.tags.get(OUTPUTS) == tags[OUTPUTS] for run in former):
        return

    run_id = client.create_run(experiment, tags=tags, run_name=run_name(config)).info.run_id
    try:
        now = int(time.time() * 1000)
        points = [Metric(key, value, now, step) for key, value, step in values]
        params = [Param(key, str(value)) for key, value in flat(config, ".").items()]
        client.log_batch(run_id, params=params)
        for start in range(0, len(points), _BATCH):
            client.log_batch(run_id, points[start : start + _BATCH])
        # The report lies at the top, where a click on "Artifacts" shows it.
        for folder, name in (
            (paths.report.parent, None),
            *((paths.predictions(stage).parent, stage) for stage in CURVES),
        ):
            client.log_artifacts(run_id, str(folder), name)
        client.log_text(run_id, OmegaConf.to_yaml(OmegaConf.create(dict(config))), "config.yaml")
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    for run in former:
        client.delete_run(run.info.run_id)


def run_name(config: Mapping[str, Any]) -> str:
    """Return a name that tells runs apart in the run table: what was trained, how, and from which seed."""
    backbone, head, finetune = config["backbone"], config["train_head"], config["finetune"]
    network = f"{backbone['network']} α{backbone['alpha']:g} {backbone['input_size']}px"
    hidden = "".join(f" {units}" for units in head.get("hidden", []))
    depths = " → ".join(_depth(step["unfreeze"]) for step in (finetune, *finetune["then"]))
    return " · ".join([network, head["solver"] + hidden, depths, f"seed {config['seed']}"])


def _depth(unfreeze: Mapping[str, Any]) -> str:
    ((unit, count),) = ((unit, count) for unit, count in unfreeze.items() if count is not None)
    return "all" if unit == "all" else f"last {count} {unit}"


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the result in one sentence."""
    head, tuned, delta = metrics["head"], metrics["finetuned"], metrics["delta"]
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


def _metrics(paths: Paths, metrics: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Yield (key, value, step): the figures of ``metrics.json``, then both learning curves."""
    for key, value in flat(metrics, "/").items():
        if not isinstance(value, str):
            yield key, value, 0
    for stage in CURVES:
        for row in history.read(paths.history(stage)):
            for key, value in row.items():
                if key != "step" and math.isfinite(value):
                    yield f"{stage}/{key}", value, int(row["step"])


def _tags(paths: Paths, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return what is known about the result and about where code and data came from."""
    tags = {
        "verdict": metrics["verdict"],
        "kept": metrics["kept"],
        "mlflow.source.name": "dvc repro",
        "mlflow.note.content": headline(metrics),  # the run's description
    }
    git = ["git", "-C", str(PROJECT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        pass
    else:
        if commit.returncode == 0:
            tags["mlflow.source.git.commit"] = commit.stdout.strip()
            tags["mlflow.source.git.dirty"] = str(bool(changes.stdout.strip()))
    tracked = paths.data.with_name(f"{paths.data.name}.dvc")
    if tracked.exists():
        tags["data_md5"] = str(OmegaConf.select(OmegaConf.load(tracked), "outs[0].md5"))
    return tags


def _experiment(client: "MlflowClient", uri: str) -> str:
    """Return the id of the experiment; create it, or bring it back if somebody deleted it (names stay taken)."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "thaw")
    found = client.get_experiment_by_name(name)
    if found is None:
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


@contextmanager
def _alone() -> Iterator[None]:
    """Let one process of this machine at a time into the block.

    MLflow fails when several processes create the tables of a fresh store at once, and two publications of one
    fingerprint must not miss each other. SQLite's exclusive lock is a portable file lock that the system lets go of
    when its owner dies.
    """
    with closing(sqlite3.connect(cache() / "mlflow.lock", timeout=600, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def _quieten() -> None:
    """Set MLflow up before it is imported: no telemetry, no chatter, no waiting for minutes."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for key, value in {
        "MLFLOW_LOGGING_LEVEL": "WARNING",  # a fresh store narrates its migrations
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # seven attempts would take four minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(key, value)
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
        # As servers do: a port whose last owner has just gone is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UserError(
                f"expected port {port} to be free, found another program on it (MLflow may be running already: "
                f"http://127.0.0.1:{port}); choose another, for instance 'python -m thaw.tracking ui --port {port + 1}'"
            ) from None
    _quieten()
    # This server shows runs; the workers for MLflow's own background jobs would only take memory.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    with _alone():
        # The server would create a fresh store itself, but not wait for a stage that is doing so.
        database = _database(uri)
        if database and not database.exists():
            from mlflow import MlflowClient

            _experiment(MlflowClient(uri), uri)
    print(f"MLflow UI: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", uri, "--default-artifact-root", _artifacts(uri).as_uri()]
    # This process becomes the server, so that whatever ends it ends the server.
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *options, *stores])


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m thaw.tracking", description="The runs of this project in MLflow.")
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("ui", help="serve the run table on 127.0.0.1")
    serve.add_argument("--port", type=int, default=5000)
    arguments = parser.parse_args()
    try:
        ui(arguments.port)
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    main()
