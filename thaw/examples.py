"""Examples to learn from: which rows of the manifest, and their features and labels side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thaw.manifest import Record, Split

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """What a model learns from, or is judged on.

    Attributes:
        x: images × views × input shape, possibly memory-mapped. View 0 is the image as it is, the others are augmented.
        y: class numbers.
    """

    x: Floats
    y: Labels


def rows(records: Sequence[Record], *splits: Split) -> Labels:
    """The places in the manifest of the images of ``splits``, ascending."""
    return np.array([row for row, record in enumerate(records) if record.split in splits], np.int64)


def labels(records: Sequence[Record], classes: list[str]) -> Labels:
    """The class number of each record."""
    return np.array([classes.index(record.label) for record in records], np.int64)


def examples(records: Sequence[Record], classes: list[str], split: Split, features: Path) -> Examples:
    """The examples of one split, from a file with a row for each image of the manifest (see ``thaw.features``)."""
    chosen = rows(records, split)
    return Examples(np.load(features, mmap_mode="r")[chosen], labels([records[row] for row in chosen], classes))
