"""What a model sees and learns from: outputs of a frozen network, and labels where they may be known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thaw.manifest import Record, Split

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

    @classmethod
    def load(cls, path: Path) -> "Array":
        """Map a .npy file, as ``thaw.features.extract`` writes it, into memory."""
        return cls(np.load(path, mmap_mode="r"))

    def take(self, rows: Labels, view: int) -> Floats:
        """See ``Source.take``."""
        taken: Floats = self._array[rows, view]
        return taken


@dataclass(frozen=True)
class Inputs:
    """Some images as a network has left them; nothing is in memory until it is taken.

    Attributes:
        source: where the network's outputs for all images of the manifest come from.
        rows: which of them these are.
    """

    source: Source
    rows: Labels

    def take(self, which: Labels | slice = slice(None), view: int = 0) -> Floats:
        """Read one view of some of the images, or of all: images × shape."""
        return self.source.take(self.rows[which], view)


@dataclass(frozen=True)
class Examples(Inputs):
    """Images whose class numbers ``y`` may be known: to learn from, or to choose by."""

    y: Labels


def inputs(records: Sequence[Record], source: Source, *splits: Split) -> Inputs:
    """The images of ``splits``."""
    return Inputs(source, np.array([row for row, record in enumerate(records) if record.split in splits], np.int64))


def examples(records: Sequence[Record], classes: list[str], source: Source, split: Split) -> Examples:
    """The images of one split, with their labels."""
    found = inputs(records, source, split)
    return Examples(found.source, found.rows, labels([records[row] for row in found.rows], classes))


def labels(records: Sequence[Record], classes: list[str]) -> Labels:
    """The class number of each record."""
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers[record.label] for record in records], np.int64)
