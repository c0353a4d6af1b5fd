"""A project that was moved, renamed or copied takes the files of its runs along.

MLflow remembers where they lie by absolute path, in the database, from the day an experiment is created: a moved
project would look for them where it has been, and write new ones there. MLflow has no means to change that, so this
module changes the records.
"""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

# Where MLflow's tables hold the place of files; a test looks through all columns for others.
PLACES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}


def bring_home(database: Path, home: Path) -> None:
    """Let an SQLite store look for the files of its runs where they are now; say so if that is another place.

    Only what thaw has laid out is changed: files in a folder of the name that ``home`` has, beside the database. A
    place that somebody has chosen otherwise stays what it is, and so do the files in the former one.

    Args:
        database: the store; whoever calls this is alone with it.
        home: the folder beside it in which the files are now.
    """
    if not database.exists():
        return
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        for uri, former in _former_homes(connection, home).items():
            # As it was written: another system would not make the same URI of the path, or none at all (C:\\…).
            changes = [
                (uri.rpartition("/")[0], home.parent.as_uri(), "/"),
                (str(former.parent), str(home.parent), os.sep),
            ]
            with connection:  # all of it or nothing
                moved = sum(_rewrite(connection, *place, *change) for place in PLACES.items() for change in changes)
            if moved:
                print(f"Moved from {former.parent}: the files of all runs are looked for in {home}", file=sys.stderr)


def local(uri: str) -> Path | None:
    """The folder that a ``file:`` URI means; None for any other."""
    parts = urlsplit(uri)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _former_homes(connection: sqlite3.Connection, home: Path) -> dict[str, Path]:
    """Find other folders of runs that an SQLite store names, by URI."""
    try:
        found = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    except sqlite3.OperationalError:  # no tables yet
        return {}
    folders = {uri: folder for (uri,) in found if uri and (folder := local(uri)) is not None}
    return {
        uri: one
        for uri, one in folders.items()
        if one.name == home.name and uri != home.as_uri() and not _is_same(one, home)
    }


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths mean one folder, which may have several names."""
    return one == other or (one.exists() and other.exists() and os.path.samefile(one, other))  # noqa: PTH121


def _rewrite(connection: sqlite3.Connection, table: str, column: str, former: str, now: str, separator: str) -> int:
    """Replace the beginning of paths or URIs in a column; return in how many rows."""
    query = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
    prefix = former.rstrip(separator) + separator
    new = now.rstrip(separator) + separator
    return connection.execute(query, (new, len(prefix) + 1, len(prefix), prefix)).rowcount
