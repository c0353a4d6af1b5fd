"""A feature store that several machines have together: what one of them has computed, none computes again.

``THAW_FEATURES`` names it by a URL, as ``s3://bucket/features``. Below it lies what the machines' own stores hold,
under the same names. Each machine copies the shards that it wants from there, and adds what is not there yet. An array
is there before the keys of its rows, and one that is replaced meanwhile is not taken, so that any number of machines
may do so at any time.
"""

import os
import re
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from thaw import parallel
from thaw.artifacts import atomic
from thaw.data import objects
from thaw.errors import UserError

VARIABLE = "THAW_FEATURES"


def place() -> str:
    """The URL of the shared store; ``""`` if there is none.

    Raises:
        UserError: it is no URL.
    """
    url = os.environ.get(VARIABLE, "").rstrip("/")
    if url and not objects.is_url(url):
        raise UserError(
            f"{VARIABLE}: expected the URL of a store, as s3://bucket/features, found {url}; a folder that machines "
            f"share is named by THAW_CACHE"
        )
    return url


class Shared:
    """What the shared store has of one output of a network.

    Args:
        folder: where this machine has its own: the same files, or some of them, or others.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._url = f"{place()}/{folder.name}"

    def pull(self, wanted: Set[str], most: float) -> list[Path]:
        """Copy the shards that have something of what is wanted; return their keys' files.

        Args:
            wanted: the keys of rows that are not here.
            most: how many bytes may be copied; of more, nothing is.

        Raises:
            UserError: the store does not answer.
        """
        there = objects.listed(self._url)
        complete = [name for name in sorted(there) if re.fullmatch(r"[0-9a-f]+\.keys", name) and _array(name) in there]
        indexes = [name for name in complete if not (self._folder / name).exists()]

        def is_useful(name: str) -> bool:
            with suppress(objects.ChangedError):
                return not wanted.isdisjoint(objects.text(there[name]).split())
            return False

        useful = [name for name, use in zip(indexes, parallel.ahead(is_useful, indexes), strict=True) if use]
        if sum(there[_array(name)].bytes for name in useful) > most:
            return []

        def copy(name: str) -> Path | None:
            with suppress(objects.ChangedError):  # as if it had not been there
                for one in (_array(name), name):  # in this order: keys say that their array is there
                    with atomic(self._folder / one) as unfinished:
                        objects.copy(there[one], unfinished)
                return self._folder / name
            return None

        copied = parallel.shown(copy, useful, f"shards from {place()}", unit="shard")
        return [keys for keys in copied if keys]

    def push(self) -> None:
        """Add what is here and not there.

        Raises:
            UserError: the store does not answer, or takes nothing.
        """
        there = objects.listed(self._url)
        files = [[keys.with_name(_array(keys.name)), keys] for keys in shards(self._folder)]
        files += [[name] for name in self._folder.glob("[!.]*.txt")]
        lacking = [some for some in files if not {one.name for one in some} <= there.keys()]

        def copy(some: list[Path]) -> None:
            for one in some:
                objects.write(one, f"{self._url}/{one.name}")

        for _ in parallel.shown(copy, lacking, f"shards to {place()}", unit="shard"):
            pass


def shards(folder: Path) -> list[Path]:
    """The keys' files of a machine's own shards, in the order in which they came; what is unfinished is none."""
    return sorted(folder.glob("[!.]*.keys"), key=lambda keys: (keys.stat().st_mtime_ns, keys.name))


def _array(keys: str) -> str:
    return keys.removesuffix(".keys") + ".npy"
