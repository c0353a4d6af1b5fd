"""The feature store: what a frozen network says about an image is computed once, ever.

``<cache>/features/<fingerprint of network and pixels>/`` holds shards: an array of outputs and the keys of its rows. A
key is the image's content hash (and, for an augmented view, the hash of how it was made), so a new split, a new seed or
another head finds every feature again; so do sweeps, and a run that was killed. Shards are only ever added, each under
its final name only when it is complete: any number of processes may share the store; machines do, see ``sharing``.

    python -m thaw.networks.features                  what it holds, and for which networks
    python -m thaw.networks.features --prune [DAYS]   delete what has not been used for so many days (30)
"""

import argparse
import hashlib
import itertools
import math
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw import cluster, parallel
from thaw.artifacts import atomic, cache, fingerprint, write_text
from thaw.config.schema import Backbone
from thaw.data import augmentation, images
from thaw.errors import UserError
from thaw.networks import engine, inference, sharing
from thaw.networks.backbones import FrozenNetwork
from thaw.networks.outputs import Floats, Labels, Source
from thaw.networks.sharing import Shared
from thaw.networks.views import View, Wanted, distinct

SHARD_BYTES = 32 * 2**20
DAY = 24 * 60 * 60
# What an output depends on, beside the network: the code that makes its pixels, and that runs it.
CODE = [Path(str(module.__file__)) for module in (images, augmentation, engine, inference)]
NAME = "network.txt"  # in each folder of the store: which network it is of; written anew whenever it is used


def extract(backbone: Backbone, wanted: Wanted, data: Path, out: Path) -> int:
    """Write the bottleneck features to ``out`` (.npy, images × views × features), in the order wanted.

    They are float32, and float16 where they are whole feature maps (``pooling: flatten``).

    What the backbone's ``keep_blocks`` names is kept in the store by the way, for fine-tuning. Memory does not grow
    with the number of images: what the store lacks is computed shard by shard, and rows are copied from shards on disk
    to a file on disk.

    Returns:
        How many images or views went through the network; the others were in the store.
    """
    network = FrozenNetwork(backbone)
    stores = opened(network)
    computed = fill(stores, network, wanted, data, "bottleneck features", needed=0)
    with atomic(out) as unfinished:
        stores[0].copy([[view.key for view in image] for image in wanted], unfinished)
    return computed


def frozen(network: FrozenNetwork, output: int, wanted: Wanted, data: Path) -> Source:
    """Give a network's output for training: from the store, which is filled first, or from the network itself.

    Both give the same numbers, to the last bit where the engine's output depends on the image alone (OpenVINO). The
    store is the faster by far and takes disk. Outputs that take more than the backbone's ``cache_limit_gb``, or than is
    free, are not kept: each time some are wanted, their images are decoded and go through the network again.
    """
    stores = opened(network)
    fill(stores, network, wanted, data, "frozen part", needed=None)
    if stores[output].missing(wanted):
        return Streamed(engine.start(network), output, wanted, data, network.backbone.fit)
    return Stored(stores[output], wanted)


def fill(
    stores: "list[Store]", network: FrozenNetwork, wanted: Wanted, data: Path, description: str, needed: int | None
) -> int:
    """Run the network on the images that a store lacks, shard by shard, and keep the outputs that fit.

    What is in a store that several machines share is not computed, and what was computed is added to it.

    Args:
        stores: of the network's outputs.
        network: the network; an image goes through it once, for all its outputs.
        wanted: the views of every image of the manifest.
        data: the folder of the images.
        description: of the progress bar.
        needed: the output that is kept in any case.

    Returns:
        How many images or views went through it.

    Raises:
        UserError: the disk has no room for what is needed, or a shared store does not answer.
    """
    pulled = 0  # images, whatever the number of their outputs
    for output, store in enumerate(stores):
        most = math.inf if output == needed else 1e9 * network.backbone.cache_limit_gb
        pulled = max(pulled, store.pull(wanted, min(most, shutil.disk_usage(cache()).free)))
    if pulled:
        print(f"  {description}: {pulled:,} from {sharing.place()}", flush=True)
    computed = _fill(stores, network, wanted, data, description, needed)
    try:
        for store in stores:
            store.push()
    except UserError as error:  # nothing that this machine needs is missing
        print(f"  {description}: not shared: {error}", flush=True)
    return computed


def _fill(
    stores: "list[Store]", network: FrozenNetwork, wanted: Wanted, data: Path, description: str, needed: int | None
) -> int:
    if not any(store.missing(wanted) for store in stores):
        return 0
    runner = engine.start(network)
    limit, free = 1e9 * network.backbone.cache_limit_gb, shutil.disk_usage(cache()).free

    def bytes_of(output: int, views: int) -> int:
        return views * stores[output].dtype.itemsize * math.prod(runner.shapes[output])

    def fits(output: int) -> bool:
        missing = bytes_of(output, len(stores[output].missing(wanted)))
        return bytes_of(output, len(distinct(wanted))) <= limit and missing <= free

    if needed is not None:
        total, lacking = (bytes_of(needed, len(some)) for some in (distinct(wanted), stores[needed].missing(wanted)))
        print(
            f"  {description}: {len(distinct(wanted)):,} x {runner.shapes[needed]}, {total / 1e6:,.0f} MB", flush=True
        )
        if lacking > free:
            raise UserError(
                f"expected {lacking / 1e9:.1f} GB of free disk for the {description}, found {free / 1e9:.1f} GB in "
                f"{cache()}; free some, or take another 'pooling' or fewer 'views'"
            )
    keeping = {output: store for output, store in enumerate(stores) if output == needed or fits(output)}
    missing = list({view.key: view for store in keeping.values() for view in store.missing(wanted)}.values())
    rows = max(1, SHARD_BYTES // (4 * sum(map(math.prod, runner.shapes)) * runner.batch)) * runner.batch
    shards = [missing[at : at + rows] for at in range(0, len(missing), rows)]
    for shard, outputs in _computed(runner, network, shards, data, description):
        for output, store in keeping.items():
            store.add([view.key for view in shard], outputs[output])
    return len(missing)


def _computed(
    runner: engine.Engine, network: FrozenNetwork, shards: Sequence[Sequence[View]], data: Path, description: str
) -> Iterator[tuple[Sequence[View], list[Floats]]]:
    """Run the network on shards of views; yield each and its outputs, as they are complete.

    On a cluster, machines do batches of a shard, which come together here: the store has one writer, and what it has is
    not lost with any of them.
    """
    fit = network.backbone.fit
    if not cluster.is_named():
        load = partial(View.load, data=data, size=runner.input_size, fit=fit)
        loaded = parallel.spread(load, [*itertools.chain.from_iterable(shards)], description)
        for shard in shards:
            yield shard, _run(runner, itertools.islice(loaded, len(shard)), len(shard))
        return
    batches = [(number, some) for number, shard in enumerate(shards) for some in cluster.batches(shard)]
    lacking = Counter(number for number, _ in batches)
    parts: dict[int, dict[int, list[Floats]]] = defaultdict(dict)
    done = cluster.each(
        partial(_ready, engine.parcel(network), data, fit),
        [some for _, some in batches],
        description,
        data,
        gpus=network.engine == "tensorflow",
    )
    for place, outputs in done:
        number = batches[place][0]
        parts[number][place] = outputs
        if len(parts[number]) == lacking[number]:
            found = parts.pop(number)
            yield (
                shards[number],
                [np.concatenate(some) for some in zip(*(found[n] for n in sorted(found)), strict=True)],
            )


def _ready(start: Callable[[], engine.Engine], data: Path, fit: str) -> Callable[[Sequence[View]], list[Floats]]:
    return partial(_outputs, start(), data, fit)


def _outputs(runner: engine.Engine, data: Path, fit: str, views: Sequence[View]) -> list[Floats]:
    """Decode views and run the network on them: its outputs, each views × shape."""
    load = partial(View.load, data=data, size=runner.input_size, fit=fit)
    return _run(runner, parallel.ahead(load, views), len(views))


def _run(runner: engine.Engine, pictures: Iterable[NDArray[np.uint8]], count: int) -> list[Floats]:
    outputs = [np.empty((count, *shape), np.float32) for shape in runner.shapes]
    runner.run(pictures, outputs)
    return outputs


def opened(network: FrozenNetwork) -> "list[Store]":
    """The store of each output of a network; they count as used from now on."""
    stores = []
    for output in range(network.outputs):
        # Other versions of the code that makes the pixels, or runs the network, have made other outputs.
        folder = _folder() / fingerprint(network.fingerprint, output, *CODE)
        write_text(folder / NAME, network.describe(output) + "\n")
        stores.append(Store(folder, network.dtype(output)))
    return stores


class Store:
    """One output of a network, for all images that it has seen."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self._folder, self.dtype = folder, np.dtype(dtype)
        self._rows: dict[str, tuple[Path, int]] = {}
        self._shared = Shared(folder) if sharing.place() else None
        for keys in sharing.shards(folder):
            self._index(keys)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def missing(self, wanted: Wanted) -> list[View]:
        """The views that are not here yet, each once."""
        return [view for key, view in distinct(wanted).items() if key not in self]

    def add(self, keys: list[str], outputs: Floats) -> None:
        """Add a shard: the outputs (rows × shape) of ``keys``."""
        name = hashlib.sha256(" ".join(keys).encode()).hexdigest()[:24]
        array, index = self._folder / f"{name}.npy", self._folder / f"{name}.keys"
        with atomic(array) as unfinished:
            np.save(unfinished, outputs.astype(self.dtype))
        write_text(index, "\n".join(keys) + "\n")
        self._index(index)

    def pull(self, wanted: Wanted, most: float) -> int:
        """Bring what a shared store has, and this one lacks; return how many outputs that was.

        Args:
            wanted: the views whose outputs are.
            most: how many bytes it may take.
        """
        if not (self._shared and (missing := self.missing(wanted))):
            return 0
        for keys in self._shared.pull({view.key for view in missing}, most):
            self._index(keys)
        return len(missing) - len(self.missing(wanted))

    def push(self) -> None:
        """Add what is here to a shared store."""
        if self._shared:
            self._shared.push()

    def take(self, keys: Sequence[str]) -> Floats:
        """Read the outputs of ``keys``: keys × shape."""
        shards: dict[Path, list[tuple[int, int]]] = {}
        for place, key in enumerate(keys):
            shard, row = self._rows[key]
            shards.setdefault(shard, []).append((place, row))
        taken: Floats | None = None
        for shard, pairs in shards.items():
            # Mapped only while it is read: what stays mapped counts as this process's memory.
            array = np.load(shard, mmap_mode="r")
            if taken is None:
                taken = np.empty((len(keys), *array.shape[1:]), np.float32)
            places, rows = np.array(pairs).T
            taken[places] = array[rows]
        assert taken is not None  # nobody asks for nothing
        return taken

    def copy(self, keys: Sequence[Sequence[str]], out: Path) -> None:
        """Write the rows of ``keys`` (images × views) as one .npy file (images × views × shape)."""
        views = len(keys[0])
        shape = self.take(keys[0][:1]).shape[1:]
        at_once = max(1, SHARD_BYTES // (4 * views * math.prod(shape)))
        with out.open("wb") as file:
            header = {"descr": self.dtype.str, "fortran_order": False, "shape": (len(keys), views, *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for at in range(0, len(keys), at_once):
                rows = self.take([*itertools.chain.from_iterable(keys[at : at + at_once])])
                file.write(rows.astype(self.dtype).data)

    def _index(self, keys: Path) -> None:
        for row, key in enumerate(keys.read_text(encoding="utf-8").split()):
            self._rows.setdefault(key, (keys.with_suffix(".npy"), row))  # what came first stays what it is


class Stored:
    """Outputs that are in a store."""

    def __init__(self, store: Store, wanted: Wanted) -> None:
        self._store = store
        self._keys = [[view.key for view in image] for image in wanted]
        self.views = len(wanted[0])
        self.shape = store.take(self._keys[0][:1]).shape[1:]

    def take(self, rows: Labels, view: int) -> Floats:
        """See ``Source.take``."""
        return self._store.take([self._keys[row][view] for row in rows])


class Streamed:
    """Outputs that are computed each time they are asked for."""

    def __init__(self, runner: engine.Engine, output: int, wanted: Wanted, data: Path, fit: str) -> None:
        self._runner, self._output, self._wanted, self._data, self._fit = runner, output, wanted, data, fit
        self.views, self.shape = len(wanted[0]), runner.shapes[output]

    def take(self, rows: Labels, view: int) -> Floats:
        """See ``Source.take``."""
        wanted = [self._wanted[row][view] for row in rows]
        return _outputs(self._runner, self._data, self._fit, wanted)[self._output]


def size(wanted: Wanted, shape: tuple[int, ...], itemsize: int = 4) -> dict[str, Any]:
    """Say what outputs of one shape take in the store, for ``meta.json`` and the report."""
    outputs = len(distinct(wanted))
    return {"outputs": outputs, "shape": list(shape), "bytes": itemsize * outputs * math.prod(shape)}


def _folder() -> Path:
    return cache() / "features"


@dataclass(frozen=True)
class Kept:
    """What the cache holds of one network: the network as the engine reads it, or its outputs.

    Attributes:
        name: of the network.
        files: all of it.
        used: when it was last used, in seconds since 1970.
        outputs: how many there are.
    """

    name: str
    files: list[Path]
    used: float
    outputs: int = 0

    @property
    def bytes(self) -> int:
        """How much disk it takes."""
        return sum(file.stat().st_size for file in self.files)


def contents() -> list[Kept]:
    """Find all that the cache holds, largest first."""
    found = []
    for name in _folder().glob(f"*/{NAME}"):
        files = sorted(name.parent.iterdir())
        outputs = sum(len(file.read_text(encoding="utf-8").split()) for file in files if file.suffix == ".keys")
        found.append(Kept(name.read_text(encoding="utf-8").strip(), files, name.stat().st_mtime, outputs))
    for network in engine.folder().glob("*.xml"):
        found.append(Kept("(a converted network)", [network, network.with_suffix(".bin")], network.stat().st_mtime))
    return sorted(found, key=lambda one: (-one.bytes, one.name))


def prune(days: float) -> int:
    """Delete what has not been used for so many days; return how many bytes that was.

    Nothing is lost but time: what is needed again is computed again.
    """
    old = [one for one in contents() if time.time() - one.used >= days * DAY]
    freed = sum(one.bytes for one in old)
    for one in old:
        # Keys say which outputs there are, so they go first: a prune that is killed leaves no lie.
        for file in sorted(one.files, key=lambda file: file.suffix not in (".keys", ".xml")):
            file.unlink(missing_ok=True)
    for folder in _folder().glob("*"):
        if not any(folder.iterdir()):
            folder.rmdir()
    return freed


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m thaw.networks.features", description="What the feature store holds."
    )
    parser.add_argument(
        "--prune", type=float, nargs="?", const=30, metavar="DAYS", help="delete what was unused for so long (30)"
    )
    days = parser.parse_args().prune
    if days is not None:
        print(f"{prune(days) / 1e6:,.1f} MB deleted: unused for {days:g} days")
    found = contents()
    for one in found:
        outputs = f"{one.outputs:,} outputs" if one.outputs else ""
        idle = (time.time() - one.used) / DAY
        print(f"{one.bytes / 1e6:>10,.1f} MB{outputs:>18}  used {idle:>3.0f} days ago  {one.name}")
    print(f"{sum(one.bytes for one in found) / 1e6:>10,.1f} MB in {cache()}")


if __name__ == "__main__":
    main()
