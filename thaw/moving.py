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
        for former in _former_homes(connection, home):
            with connection:  # all of it or nothing
                moved = sum(_rewrite(connection, *place, former.parent, home.parent) for place in PLACES.items())
            if moved:
                print(f"Moved from {former.parent}: the files of all runs are looked for in {home}", file=sys.stderr)


def local(uri: str) -> Path | None:
    """The folder that a ``file:`` URI means; None for any other."""
    parts = urlsplit(uri)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _former_homes(connection: sqlite3.Connection, home: Path) -> list[Path]:
    try:
        found = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    except sqlite3.OperationalError:  # no tables yet
        return []
    folders = [folder for (uri,) in found if uri and (folder := local(uri)) is not None]
    return [folder for folder in folders if folder.name == home.name and not _is_same(folder, home)]


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths mean one folder, which may have several names."""
    return one == other or (one.exists() and other.exists() and os.path.samefile(one, other))  # noqa: PTH121


def _rewrite(connection: sqlite3.Connection, table: str, column: str, former: Path, now: Path) -> int:
    """Replace the beginning of paths in a column, as they are and as URIs; return in how many rows."""
    changed = 0
    for old, new in ((former.as_uri(), now.as_uri()), (str(former), str(now))):
        query = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
        prefix = old.rstrip("/") + "/"
        changed += connection.execute(query, (new.rstrip("/") + "/", len(prefix) + 1, len(prefix), prefix)).rowcount
    return changed
