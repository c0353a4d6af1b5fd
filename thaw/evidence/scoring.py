"""What one model's probabilities are worth: accuracy, F1, calibration and more, with NumPy alone.

"Before" is the frozen backbone with the trained head, "after" the fine-tuned model.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thaw.learning import calibration
from thaw.learning.predictions import blocks

Floats = NDArray[np.float64]
Labels = NDArray[np.intp]
CALIBRATION_BINS = 15
CURVE = 100  # places of a risk-coverage curve


@dataclass(frozen=True)
class Pair:
    """Both models' probabilities (images × classes) for the same images, whose classes have the numbers ``labels``.

    ``groups`` has the number of each image's group, from 0 on; None where every image is one of its own.
    """

    labels: Labels
    before: NDArray[np.floating[Any]]
    after: NDArray[np.floating[Any]]
    groups: Labels | None = None

    @property
    def units(self) -> int:
        """How many groups there are, or else images."""
        return len(self.labels) if self.groups is None else len(np.unique(self.groups))

    def of(self, which: NDArray[np.bool_]) -> "Pair":
        """Return the same of some of the images."""
        groups = None if self.groups is None else self.groups[which]
        return Pair(self.labels[which], self.before[which], self.after[which], groups)


class Answers(NamedTuple):
    """One model's probabilities (images × classes) for images whose classes have the numbers ``labels``."""

    labels: Labels
    probabilities: NDArray[np.floating[Any]]


class ByClass(NamedTuple):
    """Figures of each class (one number per class); NaN where a class leaves one undefined."""

    precision: Floats
    recall: Floats
    f1: Floats
    images: Labels


class Bin(NamedTuple):
    """The images whose highest probability lies in one bin: how sure the model is on average, and how often right."""

    confidence: float
    accuracy: float
    images: int


class Answered(NamedTuple):
    """What comes of answering only where the model is at least so sure."""

    coverage: float
    accuracy: float
    confidence: float


def accuracy(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> float:
    """Return the share of images whose most probable class is the true one."""
    return float((probabilities.argmax(1) == labels).mean())


def confusion(labels: Labels, predicted: Labels, classes: int) -> NDArray[np.int64]:
    """Count images by true class (rows) and predicted class (columns)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def by_class(counts: NDArray[np.int64]) -> ByClass:
    """Return precision, recall and F1 of each class from a confusion matrix.

    F1 = 2 TP / (true + predicted), the harmonic mean of both (van Rijsbergen 1979). A class that never occurs has no
    recall, one that is never predicted no precision; one that is neither has no F1.
    """
    right, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    return ByClass(ratio(right, predicted), ratio(right, true), ratio(2 * right, true + predicted), true)


def macro_f1(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> float:
    """Return the mean F1 of the classes that occur among the labels: of others there is nothing to find.

    An image that is taken for a class without labels is one that its own class misses.
    """
    found = by_class(confusion(labels, probabilities.argmax(1), probabilities.shape[1]))
    return float(found.f1[found.images > 0].mean())


def balanced_accuracy(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> float:
    """Return the mean recall of the classes that occur among the labels: each of them counts alike."""
    found = by_class(confusion(labels, probabilities.argmax(1), probabilities.shape[1]))
    return float(found.recall[found.images > 0].mean())


def auroc(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> float:
    """Return the area under the ROC curve, each class against the rest, as a mean over the classes among the labels.

    That is how often an image of a class is given a higher probability of it than an image of another class; ties
    count half (Hanley and McNeil 1982). NaN where all labels are of one class.
    """
    areas = []
    for number in np.unique(labels):
        own, others = (np.sort(probabilities[chosen, number]) for chosen in (labels == number, labels != number))
        if len(others):
            below, not_above = (np.searchsorted(others, own, side) for side in ("left", "right"))
            areas.append((below + not_above).mean() / 2 / len(others))
    return float(np.mean(areas)) if areas else float("nan")


def top_k(labels: Labels, probabilities: NDArray[np.floating[Any]], k: int) -> float:
    """Return the share of images whose true class is among the ``k`` most probable; ties favour the lower number."""
    numbers, before = np.arange(probabilities.shape[1]), np.empty(len(labels), np.intp)
    for rows in blocks(probabilities):
        each, true = probabilities[rows], labels[rows, np.newaxis]
        own = np.take_along_axis(each, true, axis=1)
        before[rows] = ((each > own) | ((each == own) & (numbers < true))).sum(axis=1)
    return float((before < k).mean())


def reliability(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> list[Bin]:
    """Bin images by their highest probability; bins are (0, 1/15], (1/15, 2/15], …, and empty ones are left out."""
    confidence = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, CALIBRATION_BINS - 1)
    members = [place == number for number in range(CALIBRATION_BINS)]
    return [Bin(float(confidence[m].mean()), float(right[m].mean()), int(m.sum())) for m in members if m.any()]


def calibration_error(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> float:
    """Return the expected calibration error: the mean gap of confidence and accuracy over bins (Guo et al. 2017)."""
    bins = reliability(labels, probabilities)
    return sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / sum(b.images for b in bins)


def brier(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> float:
    """Return the mean over images of ``calibration.brier_scores``."""
    return float(calibration.brier_scores(labels, probabilities).mean())


def log_loss(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> float:
    """Return the mean of -ln(probability of the true class), in nats.

    Probabilities are kept at or above float32's resolution, so that one confident error costs 16 nats and not ∞.
    """
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(chosen, np.finfo(np.float32).eps, 1)).mean())


def risk_coverage(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> list[Answered]:
    """Return what is answered, and how much of it is right, if only the surest images are (El-Yaniv and Wiener 2010).

    From none but the surest to all; images of which the model is equally sure are answered together. Of more than
    ``CURVE`` places on the way, as many are returned.
    """
    confidence = probabilities.max(1).astype(np.float64)
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum((probabilities.argmax(1) == labels)[order])
    (ends,) = np.nonzero(np.diff(confidence[order], append=-1))
    if len(ends) > CURVE:
        ends = ends[np.linspace(0, len(ends) - 1, CURVE).round().astype(np.intp)]
    n = len(labels)
    return [
        Answered((end + 1) / n, float(right[end] / (end + 1)), float(confidence[order[end]])) for end in ends.tolist()
    ]


def scores(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> dict[str, float]:
    """Return every figure that one model's probabilities give by themselves."""
    area = auroc(labels, probabilities)
    return {
        "accuracy": accuracy(labels, probabilities),
        "balanced_accuracy": balanced_accuracy(labels, probabilities),
        "macro_f1": macro_f1(labels, probabilities),
        **({} if np.isnan(area) else {"auroc": area}),  # one class alone has no other to be told from
        # With three classes the true one is always among three.
        **({"top_3": top_k(labels, probabilities, 3)} if probabilities.shape[1] > 3 else {}),
        "ece": calibration_error(labels, probabilities),
        "brier": brier(labels, probabilities),
        "log_loss": log_loss(labels, probabilities),
    }


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Divide, with NaN for 0 / 0."""
    quotient = np.full(part.shape, np.nan)
    np.divide(part, whole, out=quotient, where=whole != 0)
    return quotient
