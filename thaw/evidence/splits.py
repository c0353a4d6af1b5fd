"""How the head fares on other splits of the same images: what it gets on all of them, and whether this one was lucky.

A test figure depends on which images happen to be test images. ``learning.crossvalidation`` measures by how much: each
fold of a repeated cross-validation is the test set of another split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thaw.artifacts import Paths, read_json
from thaw.data.manifest import Record
from thaw.evidence.significance import Interval, another, effective, wilson
from thaw.learning import crossvalidation, curves, examples, subsets
from thaw.learning.crossvalidation import Repeated
from thaw.networks.outputs import Labels


@dataclass(frozen=True)
class Spread:
    """What heads get on other splits of the same images.

    Attributes:
        accuracies: of each other split, a share of its test images.
        tested: how many test images each has.
        own: the test images of the run's own split, and the accuracy of such a head there; None where that is not drawn
            as the others are.
        learnt: how many images each head has learnt from.
        folds: how many splits share the images: in each so many, every image is a test image once.
        images: how many there are.
        accuracy: the mean over all images, as often as they were asked.
        interval: of that, as if one head had been asked about all images (Wilson's, and of groups what they are worth).
            Heads have learnt partly from the same images; how much wider that makes it cannot be known from one
            cross-validation (Bengio and Grandvalet 2004).
        expected: where one more split would be found.
    """

    accuracies: Sequence[float]
    tested: Sequence[int]
    own: tuple[int, float] | None
    learnt: int
    folds: int
    images: int
    accuracy: float
    interval: Interval
    expected: Interval

    @property
    def deviation(self) -> float:
        """The standard deviation between splits."""
        return float(np.std(self.accuracies, ddof=1))

    def rows(self) -> list[tuple[str, int, float]]:
        """Return the name of each split, how many test images it has and their accuracy; the run's own comes last."""
        found = [(str(at), *one) for at, one in enumerate(zip(self.tested, self.accuracies, strict=True), 1)]
        return [*found, *([("this one", *self.own)] if self.own else [])]

    def figures(self) -> dict[str, float]:
        """Return what ``figures.json`` says of it, with six significant digits."""
        found = {
            "accuracy": self.accuracy,
            "accuracy_low": self.interval.low,
            "accuracy_high": self.interval.high,
            "images": self.images,
            "folds": self.folds,
            "splits": len(self.accuracies),
            "deviation": self.deviation,
            "least": min(self.accuracies),
            "most": max(self.accuracies),
        }
        if self.own:
            here = self.own[1]
            found |= {
                "here": here,
                "better": sum(one > here for one in self.accuracies),
                "expected_low": self.expected.low,
                "expected_high": self.expected.high,
            }
        return {key: value if isinstance(value, int) else float(f"{value:.6g}") for key, value in found.items()}


def measure(paths: Paths, records: Sequence[Record], classes: list[str], config: Mapping[str, Any]) -> Spread | None:
    """Ask heads on other splits.

    Args:
        paths: of the pipeline: its features, the head's learning curve, and where its split comes from.
        records: the manifest; images in one group are never on two sides.
        classes: the class names.
        config: the resolved configuration by section.

    Returns:
        None where ``evaluate.splits`` is 0, or the images are too few.
    """
    asked, tried = config["evaluate"], curves.read(paths.history("train_head"))
    if not asked["splits"]:
        return None
    solved = "inverse_l2" in tried[0]  # then validation has chosen one already
    candidates = [tried[curves.kept(tried)]["inverse_l2"]] if solved else subsets.CANDIDATES
    drawn = "predefined" not in read_json(paths.manifest.with_name("summary.json"))["splits"].values()
    weighted = config["train_head"]["class_weights"]
    repeated = crossvalidation.repeat(
        paths.features, records, classes, weighted, candidates, config["seed"], asked["splits"], drawn
    )
    return spread(repeated, asked["confidence"], examples.groups(records)) if repeated else None


def spread(repeated: Repeated, confidence: float, groups: Labels | None = None) -> Spread:
    """Sum up what heads have said of images, which may come in groups."""
    folds = int(repeated.folds.max()) + 1
    members = [of == fold for of in repeated.folds for fold in range(folds)]
    answers = [right for right in repeated.right for _ in range(folds)]
    accuracies = [float(right[own].mean()) for right, own in zip(answers, members, strict=True) if own.any()]
    share, images = float(repeated.right.mean()), repeated.right.shape[1]
    return Spread(
        accuracies=accuracies,
        tested=[int(own.sum()) for own in members if own.any()],
        own=None if repeated.here is None else (len(repeated.here), float(repeated.here.mean())),
        learnt=repeated.images,
        folds=folds,
        images=images,
        accuracy=share,
        interval=wilson(share, effective(repeated.right.mean(axis=0), groups), confidence),
        expected=another(accuracies, confidence),
    )
