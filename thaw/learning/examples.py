"""What a model learns from and is judged by: outputs of a frozen network, and labels where they may be known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thaw.config.schema import ClassWeights
from thaw.data.manifest import Record, Split
from thaw.errors import UserError
from thaw.networks.outputs import Floats, Labels, Mixes, Source


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
    """Images whose class numbers ``y`` may be known: to learn from, or to choose by.

    Attributes:
        y: the class numbers.
        others, shares: of views that are mixtures (images × views): the other image's class, and the own one's share.
    """

    y: Labels
    others: Labels | None = None
    shares: Floats | None = None

    def targets(self, which: Labels | slice, view: int, classes: int) -> Floats:
        """What a model should say of one view of some images: images × classes."""
        y = self.y[which]
        found, images = np.zeros((len(y), classes), np.float32), np.arange(len(y))
        if self.others is None or self.shares is None:
            found[images, y] = 1
        else:
            found[images, y] = self.shares[which, view]
            found[images, self.others[which, view]] += 1 - self.shares[which, view]
        return found


def of_splits(
    records: Sequence[Record], classes: list[str], source: Source, mixes: Mixes
) -> tuple[Examples, Examples, Inputs]:
    """The training images, the validation images, and both those and the test images, without labels, to be judged."""
    train, val = (examples(records, classes, source, split, mixes) for split in ("train", "val"))
    return train, val, inputs(records, source, "val", "test")


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


def groups(records: Sequence[Record]) -> Labels | None:
    """Return the number of each image's group, in the order of their first images; None where none has two images.

    Images that share a split are one group: those that the data say belong together, and exact copies.
    """
    numbers: dict[str, int] = {}
    found = [numbers.setdefault(record.unit, len(numbers)) for record in records]
    return np.array(found, np.intp) if len(numbers) < len(records) else None


def class_weights(choice: ClassWeights, classes: list[str], y: Labels) -> Floats | None:
    """What an image of each class counts in the loss: classes; None if all count alike.

    Args:
        choice: ``none``, ``balanced`` (inversely proportional to the class's share, 1 on average, as scikit-learn has
            it), or a number for each class.
        classes: their names; one that does not occur among the labels counts for nothing.
        y: the labels of the training images.

    Raises:
        UserError: the numbers given are not for these classes.
    """
    if choice == "none":
        return None
    if choice == "balanced":
        images = np.bincount(y, minlength=len(classes))
        weights: Floats = (len(y) / np.count_nonzero(images) / np.maximum(images, 1)).astype(np.float32)
        return weights
    if {*choice} != {*classes}:
        differing = sorted({*choice} ^ {*classes})
        raise UserError(
            f"class_weights: expected a number for each of {', '.join(classes)}, found some for {', '.join(choice)} "
            f"(only one of both has {differing[0]!r}); correct it"
        )
    return np.array([choice[name] for name in classes], np.float32)
