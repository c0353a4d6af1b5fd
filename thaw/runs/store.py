"""Where runs are kept: MLflow's address, its database, the folder for their files, and who may write at a time.

MLflow is imported only where it is needed: that takes seconds.
"""

import logging
import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from thaw import artifacts
from thaw.artifacts import cache, workspace
from thaw.errors import UserError
from thaw.runs import moving

if TYPE_CHECKING:
    from mlflow import MlflowClient


def address() -> str:
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


def failures() -> tuple[type[Exception], ...]:
    """Return what is raised where a store does not answer, or not as it should."""
    quieten()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError, ImportError  # a database wants its driver


@contextmanager
def warned(uri: str, what: str, instead: str) -> Iterator[None]:
    """Let a store that does not answer cost no more than a sentence on stderr.

    Args:
        uri: its address.
        what: it did not take.
        instead: where that is, and how it is published later.
    """
    try:
        yield
    except failures() as error:
        print(
            f"warning: MLflow at {public(uri, uri)} did not take {what} ({public(uri, error)}); {instead} once it "
            "answers",
            file=sys.stderr,
        )


def public(uri: str, said: object) -> str:
    """Return what was said in one line, without the password that the store's address may have."""
    text = textwrap.shorten(str(said) or type(said).__name__, 160, placeholder=" …")
    password = urlsplit(uri).password
    return text.replace(f":{password}@", ":…@") if password else text


def connect(uri: str) -> "MlflowClient":
    """Return a client of a store, with MLflow set up for it; whoever calls this is ``alone``."""
    if database := sqlite_file(uri):
        moving.bring_home(database, artifact_folder(uri))
    quieten()
    import mlflow

    mlflow.set_tracking_uri(uri)  # for what a client cannot do
    return mlflow.MlflowClient(uri)


def experiment(client: "MlflowClient") -> str:
    """Return the id of the experiment; create it, or bring it back if somebody deleted it (names stay taken)."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "thaw")
    found = client.get_experiment_by_name(name)
    if found is None:
        uri = client.tracking_uri
        # A server knows where its artifacts belong; a bare database would put them under the current directory.
        location = artifact_folder(uri).as_uri() if "sql" in urlsplit(uri).scheme else None
        created: str = client.create_experiment(name, location)
        return created
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    existing: str = found.experiment_id
    return existing


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite store, None for any other."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def artifact_folder(uri: str) -> Path:
    """Return the folder for the files of runs: beside the SQLite file, else beside the project."""
    database = sqlite_file(uri)
    return (database.parent if database else workspace()) / "mlartifacts"


def alone() -> AbstractContextManager[None]:
    """Let one process at a time into the block.

    MLflow fails when several processes create the tables of a fresh store at once, and two publications of one
    fingerprint must not miss each other.
    """
    return artifacts.alone(cache() / "mlflow.lock", 600)


def quieten() -> None:
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
