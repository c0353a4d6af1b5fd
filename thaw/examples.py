"""What a model sees and learns from: rows of a file of features, and their labels where they may be known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thaw.manifest import Record, Split

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Inputs:
    """Some images as a network has left them; they stay on disk until they are taken.

    Attributes:
        source: images × views × shape, memory-mapped: all images of the manifest. View 0 is the image as it is, the
            others are augmented.
        rows: which of them these are.
    """

    source: Floats
    rows: Labels

    @property
    def views(self) -> int:
        """How many views there are of each image."""
        return len(self.source[0])

    def take(self, which: Labels | slice = slice(None), view: int = 0) -> Floats:
        """Read one view of some of the images, or of all: images × shape."""
        taken: Floats = self.source[self.rows[which], view]
        return taken


@dataclass(frozen=True)
class Examples(Inputs):
    """Images whose class numbers ``y`` may be known: to learn from, or to choose by."""

    y: Labels


def inputs(records: Sequence[Record], features: Path, *splits: Split) -> Inputs:
    """The images of ``splits``, from a file with a row for each image of the manifest (see ``thaw.features``)."""
    rows = [row for row, record in enumerate(records) if record.split in splits]
    return Inputs(np.load(features, mmap_mode="r"), np.array(rows, np.int64))


def examples(records: Sequence[Record], classes: list[str], features: Path, split: Split) -> Examples:
    """The images of one split, with their labels."""
    found = inputs(records, features, split)
    return Examples(found.source, found.rows, labels([records[row] for row in found.rows], classes))


def labels(records: Sequence[Record], classes: list[str]) -> Labels:
    """The class number of each record."""
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers[record.label] for record in records], np.int64)
