"""A feature store that several machines have together: what one of them has computed, none computes again.

``THAW_FEATURES`` names it by a URL, as ``s3://bucket/features``. Below it lies what the machines' own stores hold,
under the same names. Each machine copies the shards that it wants from there, and adds what is not there yet. Shards
never change, and an array is there before the keys of its rows, so that any number of machines may do so at any time.
"""

import os
import re
from collections.abc import Set
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
        texts = dict(zip(indexes, parallel.ahead(lambda name: objects.text(there[name]), indexes), strict=True))
        useful = [name for name, text in texts.items() if not wanted.isdisjoint(text.split())]
        if sum(there[_array(name)].bytes for name in useful) > most:
            return []

        def copy(name: str) -> Path:
            for one in (_array(name), name):  # in this order: keys say that their array is there
                with atomic(self._folder / one) as unfinished:
                    objects.copy(there[one], unfinished)
            return self._folder / name

        return list(parallel.shown(copy, useful, f"shards from {place()}", unit="shard"))

    def push(self) -> None:
        """Add what is here and not there.

        Raises:
            UserError: the store does not answer, or takes nothing.
        """
        there = objects.listed(self._url)
        own = sorted(path for path in self._folder.iterdir() if path.suffix in (".keys", ".txt"))
        lacking = [path for path in own if path.name not in there]

        def copy(path: Path) -> None:
            for one in (path.with_suffix(".npy"), path) if path.suffix == ".keys" else (path,):
                objects.write(one, f"{self._url}/{one.name}")

        for _ in parallel.shown(copy, lacking, f"shards to {place()}", unit="shard"):
            pass


def _array(keys: str) -> str:
    return keys.removesuffix(".keys") + ".npy"
