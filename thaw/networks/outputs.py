"""What a frozen network has said of the images of the manifest, as arrays, wherever these come from."""

import math
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thaw.errors import UserError

MAPPED = 2**28  # bytes of a file that is mapped; larger ones are read, as what lies around a mapped row takes memory
AT_ONCE = 2**30  # bytes that are asked of the system, which gives no more than 2 GiB
DENSE = 2  # times what is asked for that may be read of such a file in one go

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


class Source(Protocol):
    """The outputs of a frozen network for every image of the manifest: from a file, the feature store or the network.

    Attributes:
        views: how many there are of each image. View 0 is the image as it is, the others are augmented.
        shape: of one output.
    """

    @property
    def views(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def take(self, rows: Labels, view: int) -> Floats:
        """One view of the images at ``rows`` of the manifest: rows × shape."""


class Array:
    """A ``Source`` that is an array of images × views × shape."""

    def __init__(self, array: Floats) -> None:
        self._array = array
        self.views, self.shape = array.shape[1], array.shape[2:]

    def take(self, rows: Labels, view: int) -> Floats:
        """See ``Source.take``."""
        return np.asarray(self._array[rows, view], np.float32)


class Saved:
    """A ``Source`` that is a .npy file, as ``features.extract`` writes it.

    Attributes:
        itemsize: bytes of a number in the file.
    """

    def __init__(self, path: Path, views: int | None = None) -> None:
        """Look at a file.

        Args:
            path: of images × views × shape.
            views: how many of them there are to be, the first ones; None for all.
        """
        self._path, self._array = path, np.load(path, mmap_mode="r")
        self._views = self._array.shape[1]
        self.views, self.shape = views or self._views, self._array.shape[2:]
        self.itemsize = self._array.itemsize

    def take(self, rows: Labels, view: int) -> Floats:
        """See ``Source.take``."""
        if self._array.nbytes <= MAPPED:
            return np.asarray(self._array[rows, view], np.float32)
        with self._path.open("rb", buffering=0) as file:
            first, last = (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 0)
            if (last - first) * self._views <= DENSE * len(rows):
                found: Floats = self._read(file, first * self._views, (last - first, self._views))[rows - first, view]
                return found
            places = (rows * self._views + view).tolist()
            return np.concatenate([self._read(file, place, (1,)) for place in places])

    def _read(self, file: FileIO, place: int, count: tuple[int, ...]) -> Floats:
        """So many outputs that stand one after the other, the first at a place that is counted in outputs."""
        found = np.empty((*count, *self.shape), self._array.dtype)
        file.seek(self._array.offset + place * self.itemsize * math.prod(self.shape))
        left = found.reshape(-1).view(np.uint8).data
        while left:
            if not (read := file.readinto(left[:AT_ONCE])):
                raise UserError(
                    f"expected {self._path} as it was written, found it cut off; run the command of its stage again, "
                    f"as 'dvc repro --force extract_features' does"
                )
            left = left[read:]
        return found.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Mixes:
    """Which views are mixtures of two images, for every image of the manifest.

    Attributes:
        partners: images × views: the row of the other image; the own one where nothing is mixed.
        shares: images × views: the share of the own image, at most 1.
    """

    partners: Labels
    shares: Floats

    def save(self, path: Path) -> None:
        """Write them as .npy: images × views × (partner, share)."""
        with path.open("wb") as file:
            np.save(file, np.stack([self.partners.astype(np.float64), self.shares.astype(np.float64)], axis=-1))

    @classmethod
    def load(cls, path: Path) -> "Mixes":
        """Read what ``save`` wrote."""
        stored = np.load(path)
        return cls(stored[..., 0].astype(np.int64), stored[..., 1].astype(np.float32))
