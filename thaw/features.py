"""The feature store: what a frozen network says about an image is computed once, ever.

``<cache>/features/<fingerprint of network and pixels>/`` holds shards: an array of outputs and the keys of its rows. A
key is the image's content hash (and, for an augmented view, the hash of how it was made), so a new split, a new seed or
another head finds every feature again; so do sweeps, and a run that was killed. Shards are only ever added, each under
its final name only when it is complete: any number of processes may share the store.
"""

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thaw import engine, images
from thaw.artifacts import atomic, cache, fingerprint
from thaw.backbones import FrozenNetwork
from thaw.config import Augment
from thaw.manifest import Record

SHARD_BYTES = 32 * 2**20


@dataclass(frozen=True)
class View:
    """An image as the network is to see it: as it is, or the ``number``-th augmented view of it."""

    record: Record
    augment: Augment | None
    number: int
    seed: int

    @property
    def key(self) -> str:
        """The name of its features in a store."""
        if self.augment is None:
            return self.record.sha256
        recipe = repr((sorted(self.augment.model_dump(exclude={"views"}).items()), self.number, self.seed))
        return f"{self.record.sha256}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"

    def load(self, data: Path, size: int) -> NDArray[np.uint8]:
        """Decode it, resize it to ``size`` × ``size`` × 3 and augment it."""
        image = images.load(data / self.record.path, size)
        if self.augment is None:
            return image
        return images.augment(image, self.augment, self.record.sha256, self.number, self.seed)


def views(records: Sequence[Record], augment: Augment, seed: int) -> list[list[View]]:
    """What the network is to see of each image: itself, then ``augment.views`` augmented views of a training image.

    Validation and test images are never augmented; they have themselves in every place.
    """
    return [
        [View(record, augment if n and record.split == "train" else None, n, seed) for n in range(augment.views + 1)]
        for record in records
    ]


def extract(network: FrozenNetwork, wanted: Sequence[Sequence[View]], data: Path, out: Path, description: str) -> int:
    """Write the network's outputs to ``out`` (.npy, images × views × output shape, float32), in the order wanted.

    Memory does not grow with the number of images: what the store lacks is computed shard by shard, and rows are copied
    from shards on disk to a file on disk.

    Returns:
        How many outputs had to be computed; the others were in the store.
    """
    # The pixels come from images.py: what another version of it has made is another network's input.
    store = Store(cache() / "features" / fingerprint(network.fingerprint, Path(images.__file__)))
    missing = list({view.key: view for image in wanted for view in image if view.key not in store}.values())
    if missing:
        runner = engine.start(network)
        rows = max(1, SHARD_BYTES // (4 * math.prod(runner.shape)))
        loaded = images.parallel(lambda view: view.load(data, network.backbone.input_size), missing, description)
        for at in range(0, len(missing), rows):
            shard = missing[at : at + rows]
            outputs = np.empty((len(shard), *runner.shape), np.float32)
            runner.run(itertools.islice(loaded, len(shard)), outputs)
            store.add([view.key for view in shard], outputs)
    with atomic(out) as partial:
        store.copy([[view.key for view in image] for image in wanted], partial)
    return len(missing)


class Store:
    """The shards of one network."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: dict[str, tuple[Path, int]] = {}
        for keys in sorted(folder.glob("*.keys")):
            self._index(keys)

    def _index(self, keys: Path) -> None:
        for row, key in enumerate(keys.read_text().split()):
            self._rows[key] = (keys.with_suffix(".npy"), row)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def add(self, keys: list[str], outputs: NDArray[np.float32]) -> None:
        """Add a shard: the outputs (rows × shape) of ``keys``."""
        name = hashlib.sha256(" ".join(keys).encode()).hexdigest()[:24]
        array, index = self._folder / f"{name}.npy", self._folder / f"{name}.keys"
        with atomic(array) as partial:
            np.save(partial, outputs)
        with atomic(index) as partial:
            partial.write_text("\n".join(keys) + "\n")
        self._index(index)

    def copy(self, keys: list[list[str]], out: Path) -> None:
        """Write the rows of ``keys`` (images × views) as one .npy file (images × views × shape)."""
        shards: dict[Path, list[tuple[int, int]]] = {}
        for place, key in enumerate(itertools.chain.from_iterable(keys)):
            shard, row = self._rows[key]
            shards.setdefault(shard, []).append((place, row))
        shape = np.load(next(iter(shards)), mmap_mode="r").shape[1:]
        target = np.lib.format.open_memmap(out, "w+", np.float32, (len(keys), len(keys[0]), *shape))
        flat = target.reshape(-1, *shape)
        for shard, pairs in shards.items():
            places, rows = np.array(pairs).T
            flat[places] = np.load(shard, mmap_mode="r")[rows]
        target.flush()
