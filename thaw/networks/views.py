"""What a network is shown of an image: itself, and augmented views of it, perhaps mixed with another image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thaw.config.schema import Augment
from thaw.data import augmentation, images
from thaw.data.manifest import Record
from thaw.networks.outputs import Mixes


@dataclass(frozen=True)
class View:
    """An image as the network is to see it: as it is, or the ``number``-th augmented view of it.

    With a ``partner``, the place of another image and itself, it is mixed with that one's view of the same number.
    """

    record: Record
    augment: Augment | None
    number: int
    seed: int
    partner: tuple[int, Record] | None = None

    @cached_property
    def key(self) -> str:
        """The name of its features in a store."""
        if self.augment is None:
            return self.record.sha256
        recipe = repr((sorted(self.augment.model_dump(exclude={"views"}).items()), self.number, self.seed))
        if self.partner:
            recipe += self.partner[1].sha256
        return f"{self.record.sha256}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"

    def load(self, data: Path, size: int, fit: str) -> NDArray[np.uint8]:
        """Decode it, make it a square of ``size`` × ``size`` × 3, see ``images.square``, and augment it."""
        image = images.load(data / self.record.path, size, fit)
        if self.augment is None:
            return image
        name = (self.record.sha256, self.number, self.seed)
        image = augmentation.augment(image, self.augment, *name)
        if self.partner is None:
            return image
        other = View(self.partner[1], self.augment, self.number, self.seed).load(data, size, fit)
        return augmentation.mix(image, other, self.augment, *name)

    @property
    def share(self) -> float:
        """How much of it, and of its label, is the image itself."""
        if self.augment is None or self.partner is None:
            return 1.0
        return augmentation.share(self.augment, self.record.sha256, self.number, self.seed)


Wanted = Sequence[Sequence[View]]  # for each image its views


def of(records: Sequence[Record], augment: Augment, seed: int) -> Wanted:
    """What the network is to see of each image: itself, then ``augment.views`` augmented views of a training image.

    Validation and test images are never augmented; they have themselves in every place.
    """
    train = [(row, record) for row, record in enumerate(records) if record.split == "train"]

    def view(record: Record, number: int) -> View:
        if not number or record.split != "train":
            return View(record, None, number, seed)
        mixing = augment.mixup or augment.cutmix
        other = train[augmentation.partner(len(train), record.sha256, number, seed)] if mixing else None
        return View(record, augment, number, seed, other)

    return [[view(record, number) for number in range(augment.views + 1)] for record in records]


def mixes(wanted: Wanted) -> Mixes:
    """What the views are mixed with: for each its partner's place in the manifest, and its own share."""
    partners = [[view.partner[0] if view.partner else row for view in image] for row, image in enumerate(wanted)]
    return Mixes(np.array(partners), np.array([[view.share for view in image] for image in wanted], np.float32))


def distinct(wanted: Wanted) -> dict[str, View]:
    """Return the views that differ, by key: copies of an image are one."""
    return {view.key: view for image in wanted for view in image}
