"""What a model sees and learns from: outputs of a frozen network, and labels where they may be known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thaw.config import ClassWeights
from thaw.errors import UserError
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
        self.views, self.shape, self.itemsize = array.shape[1], array.shape[2:], array.itemsize

    @classmethod
    def load(cls, path: Path) -> "Array":
        """Map a .npy file, as ``thaw.features.extract`` writes it, into memory."""
        return cls(np.load(path, mmap_mode="r"))

    def take(self, rows: Labels, view: int) -> Floats:
        """See ``Source.take``."""
        return np.asarray(self._array[rows, view], np.float32)


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


@dataclass(frozen=True)
class Examples(Inputs):
    """Images whose class numbers ``y`` may be known: to learn from, or to choose by.

    Attributes:
        y: the class numbers.
        others, shares: of views that are mixtures (images × views): the other image's class, and the own one's share.
    """

    y: Labels
    others: Labels | None = None
    shares: Floats | None = None

    def targets(self, which: Labels, view: int, classes: int) -> Floats:
        """What a model should say of one view of some images: images × classes."""
        each = np.eye(classes, dtype=np.float32)
        if self.others is None or self.shares is None:
            return each[self.y[which]]
        share = self.shares[which, view][:, np.newaxis]
        mixed: Floats = share * each[self.y[which]] + (1 - share) * each[self.others[which, view]]
        return mixed


def inputs(records: Sequence[Record], source: Source, *splits: Split) -> Inputs:
    """The images of ``splits``."""
    return Inputs(source, np.array([row for row, record in enumerate(records) if record.split in splits], np.int64))


def examples(
    records: Sequence[Record], classes: list[str], source: Source, split: Split, mixes: Mixes | None = None
) -> Examples:
    """The images of one split, with their labels, and with those of the images that views are mixed with."""
    found = inputs(records, source, split)
    y = labels([records[row] for row in found.rows], classes)
    if mixes is None or (mixes.shares[found.rows] == 1).all():
        return Examples(found.source, found.rows, y)
    everyone = np.full(len(records), -1)
    everyone[found.rows] = y  # only training images are mixed, and only with each other
    return Examples(found.source, found.rows, y, everyone[mixes.partners[found.rows]], mixes.shares[found.rows])


def labels(records: Sequence[Record], classes: list[str]) -> Labels:
    """The class number of each record."""
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers[record.label] for record in records], np.int64)


def class_weights(choice: ClassWeights, classes: list[str], y: Labels) -> Floats | None:
    """What an image of each class counts in the loss: classes; None if all count alike.

    Args:
        choice: ``none``, ``balanced`` (inversely proportional to the class's share, 1 on average, as scikit-learn has
            it), or a number for each class.
        classes: their names.
        y: the labels of the training images.

    Raises:
        UserError: the numbers given are not for these classes.
    """
    if choice == "none":
        return None
    if choice == "balanced":
        weights: Floats = (len(y) / len(classes) / np.bincount(y, minlength=len(classes))).astype(np.float32)
        return weights
    if {*choice} != {*classes}:
        differing = sorted({*choice} ^ {*classes})
        raise UserError(
            f"class_weights: expected a number for each of {', '.join(classes)}, found some for {', '.join(choice)} "
            f"(only one of both has {differing[0]!r}); correct it"
        )
    return np.array([choice[name] for name in classes], np.float32)
