"""What the test images prove: the metrics of both models, their intervals, and whether fine-tuning made a difference.

Everything is computed from saved probabilities with NumPy alone; ``evaluate`` writes it down. "Before" is the frozen
backbone with the trained head, "after" the fine-tuned model. Both have seen the very same test images, so all that is
said about their difference is paired.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thaw.inference import softmax

Floats = NDArray[np.float64]
Labels = NDArray[np.intp]
Verdict = Literal["fine-tuning helped", "fine-tuning hurt", "no difference shown", "nothing was fine-tuned"]

NOTHING: Verdict = "nothing was fine-tuned"
CALIBRATION_BINS = 15
# Resamples held in memory at once: with 10,000 distinct outcomes a block is 20 MB.
_BLOCK = 256


@dataclass(frozen=True)
class Pair:
    """Both models' probabilities (images × classes) for the same images, whose classes have the numbers ``labels``."""

    labels: Labels
    before: NDArray[np.floating[Any]]
    after: NDArray[np.floating[Any]]


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


class McNemar(NamedTuple):
    """Test images that only one of two models gets right, and how likely such an imbalance is by chance."""

    fixed: int
    broken: int
    p: float


class Bin(NamedTuple):
    """The images whose highest probability lies in one bin: how sure the model is on average, and how often right."""

    confidence: float
    accuracy: float
    images: int


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


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
    return ByClass(_ratio(right, predicted), _ratio(right, true), _ratio(2 * right, true + predicted), true)


def macro_f1(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> float:
    """Return the mean F1 of the classes that occur among the labels or the predictions."""
    return float(np.nanmean(by_class(confusion(labels, probabilities.argmax(1), probabilities.shape[1])).f1))


def top_k(labels: Labels, probabilities: NDArray[np.floating[Any]], k: int) -> float:
    """Return the share of images whose true class is among the ``k`` most probable; ties favour the lower number."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(1).mean())


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
    """Return the mean over images of Σ (probability - truth)² over classes, from 0 to 2 (Brier 1950)."""
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(1).mean())


def log_loss(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> float:
    """Return the mean of -ln(probability of the true class), in nats.

    Probabilities are kept at or above float32's resolution, so that one confident error costs 16 nats and not ∞.
    """
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(chosen, np.finfo(np.float32).eps, 1)).mean())


def scores(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> dict[str, float]:
    """Return every figure that one model's probabilities give by themselves."""
    return {
        "accuracy": accuracy(labels, probabilities),
        "macro_f1": macro_f1(labels, probabilities),
        # With three classes the true one is always among three.
        **({"top_3": top_k(labels, probabilities, 3)} if probabilities.shape[1] > 3 else {}),
        "ece": calibration_error(labels, probabilities),
        "brier": brier(labels, probabilities),
        "log_loss": log_loss(labels, probabilities),
    }


def bootstrap(test: Pair, *, confidence: float, resamples: int, seed: int) -> dict[str, dict[str, Interval]]:
    """Return percentile intervals of accuracy and macro F1 for ``head``, ``finetuned`` and ``delta`` (after - before).

    Images are drawn with replacement and both models are scored on the same draw (paired bootstrap; Efron & Tibshirani
    1993, chapters 13 and 16). Only an image's (label, before, after) matters to either figure, so a draw of n images is
    a multinomial draw over the distinct outcomes: the same distribution, and every score becomes a matrix product.
    """
    n, classes = test.before.shape
    outcomes, counts = np.unique(
        np.stack([test.labels, test.before.argmax(1), test.after.argmax(1)]), axis=1, return_counts=True
    )
    label, predicted = outcomes[0], {"head": outcomes[1], "finetuned": outcomes[2]}
    # Each outcome as a one-hot row: its true class, and for either model its predicted class and its class if right.
    hot = np.eye(classes)
    random = np.random.default_rng(seed)
    drawn: dict[str, list[Floats]] = {"head": [], "finetuned": []}
    for start in range(0, resamples, _BLOCK):
        weights = random.multinomial(n, counts / n, size=min(_BLOCK, resamples - start)).astype(np.float64)
        true = weights @ hot[label]
        for model, guess in predicted.items():
            right = weights @ (hot[label] * (guess == label)[:, None])
            f1 = np.nanmean(_ratio(2 * right, true + weights @ hot[guess]), axis=1)
            drawn[model].append(np.stack([right.sum(1) / n, f1]))
    samples = {model: np.concatenate(blocks, axis=1) for model, blocks in drawn.items()}
    samples["delta"] = samples["finetuned"] - samples["head"]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {
        model: {
            figure: Interval(*map(float, np.quantile(row, tails)))
            for figure, row in zip(("accuracy", "macro_f1"), rows, strict=True)
        }
        for model, rows in samples.items()
    }


def mcnemar(test: Pair) -> McNemar:
    """Return the images that fine-tuning fixed and broke, and the exact two-sided p-value of their imbalance.

    If both models are equally good, an image that only one gets right is as likely the one's as the other's: the
    number fixed is Binomial(fixed + broken, ½) (McNemar 1947, in its exact form).
    """
    # scipy.stats.binomtest gives the same number and takes half a second longer to import.
    from scipy.special import bdtr

    before = test.before.argmax(1) == test.labels
    after = test.after.argmax(1) == test.labels
    fixed, broken = int((after & ~before).sum()), int((before & ~after).sum())
    return McNemar(fixed, broken, min(1.0, 2 * float(bdtr(min(fixed, broken), fixed + broken, 0.5))))


def wilson(share: float, images: int, confidence: float) -> Interval:
    """Return the interval of a share of so many images (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def verdict(p: float, difference: Interval, confidence: float) -> Verdict:
    """Say what may be said: a change only if McNemar's test and the difference's interval both show it."""
    if p < 1 - confidence and difference.low > 0:
        return "fine-tuning helped"
    if p < 1 - confidence and difference.high < 0:
        return "fine-tuning hurt"
    return "no difference shown"


def kept(val: Pair, candidates: Sequence[str]) -> str:
    """Choose the model to keep: the higher accuracy on the validation images, of equals the lower cross-entropy.

    Fine-tuning that hurts is so not passed on; the test images have no say in it.
    """

    def rank(model: str) -> tuple[float, float]:
        found = scores(val.labels, val.before if model == "head" else val.after)
        return -found["accuracy"], found["log_loss"]

    return min(candidates, key=rank)


def temperature(labels: Labels, probabilities: NDArray[np.floating[Any]]) -> float:
    """Return the temperature that makes a model as sure as it is right: softmax(ln(probabilities) / temperature).

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599), fitted to validation images: it changes how sure a model
    is, and never which class it names. As in Platt (1999), a label counts as (n + 1) / (n + 2) true: where every
    validation image is right, that keeps the model from being made infinitely sure.
    """
    n, classes = probabilities.shape
    logits = _logits(probabilities)
    targets = np.full((n, classes), 1 / (n + 2) / (classes - 1))
    targets[np.arange(n), labels] = (n + 1) / (n + 2)
    # The loss is convex in 1 / temperature, so its slope is zero in one place: between these ends, if anywhere.
    low, high = math.log(1 / 50), math.log(50)
    for _ in range(60):
        middle = (low + high) / 2
        slope = ((softmax(logits, math.exp(-middle)) - targets) * logits).sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def rescaled(probabilities: NDArray[np.floating[Any]], temperature: float) -> Floats:
    """Return probabilities (images × classes) at a temperature."""
    return softmax(_logits(probabilities), temperature)


def compare(
    val: Pair,
    test: Pair,
    *,
    confidence: float,
    resamples: int,
    seed: int,
    keep_best_of: Sequence[str],
    tuned: bool = True,
) -> dict[str, Any]:
    """Return the content of ``figures.json``.

    ``head``, ``finetuned`` and ``delta`` (after - before) hold the same keys: accuracy and macro_f1 with their
    intervals (…_low, …_high), top_3 (with more than three classes), ece, brier, log_loss, all of the test images, and
    val_accuracy. Beside them stand mcnemar_p, fixed, broken, n_test, verdict, kept (the model), the temperature that
    calibrates it, and as ``calibrated`` its ece, brier and log_loss on the test images at that temperature. Shares are
    between 0 and 1. Six significant digits are left, so that the last bit of a sum, which may differ between machines,
    does not show.

    Where nothing was ``tuned``, before and after are one model: the keys are the same, and the head is kept, whatever
    ``keep_best_of`` says.
    """
    intervals = bootstrap(test, confidence=confidence, resamples=resamples, seed=seed)
    points = {
        model: scores(test.labels, after) | {"val_accuracy": accuracy(val.labels, val_after)}
        for model, after, val_after in (("head", test.before, val.before), ("finetuned", test.after, val.after))
    }
    points["delta"] = {key: points["finetuned"][key] - value for key, value in points["head"].items()}
    fixed, broken, p = mcnemar(test)
    best = kept(val, keep_best_of if tuned else ["head"])
    warmth = _rounded(temperature(val.labels, val.before if best == "head" else val.after))
    calm = scores(test.labels, rescaled(test.before if best == "head" else test.after, warmth))
    return {
        **{model: _with_intervals(figures, intervals[model]) for model, figures in points.items()},
        "mcnemar_p": _rounded(p),
        "fixed": fixed,
        "broken": broken,
        "n_test": len(test.labels),
        "verdict": verdict(p, intervals["delta"]["accuracy"], confidence) if tuned else NOTHING,
        "kept": best,
        "temperature": warmth,
        "calibrated": {key: _rounded(calm[key]) for key in ("ece", "brier", "log_loss")},
    }


def metrics(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the few of all ``figures`` that a person compares, for ``metrics.json``: as many as a table has room for.

    ``before`` and ``after`` are accuracies on the test images, ``gain`` is their difference with its interval,
    ``p`` McNemar's, ``val_kept`` the validation accuracy of the model that is kept. Shares between 0 and 1.
    """
    head, tuned, delta = figures["head"], figures["finetuned"], figures["delta"]
    shares = {
        "before": head["accuracy"],
        "after": tuned["accuracy"],
        "gain": delta["accuracy"],
        "gain_low": delta["accuracy_low"],
        "gain_high": delta["accuracy_high"],
    }
    found = {key: round(value, 4) for key, value in shares.items()} | {"p": float(f"{figures['mcnemar_p']:.2g}")}
    return found | {"val_kept": round(figures[figures["kept"]]["val_accuracy"], 4)}


def is_tuned(metrics: Mapping[str, Any]) -> bool:
    """Whether there is a model after fine-tuning: what ``compare`` returned says so by its verdict."""
    return bool(metrics["verdict"] != NOTHING)


def _with_intervals(figures: Mapping[str, float], intervals: Mapping[str, Interval]) -> dict[str, float]:
    """Put each interval's ends behind its figure."""
    row = {}
    for key, value in figures.items():
        row[key] = _rounded(value)
        if key in intervals:
            row |= {f"{key}_{end}": _rounded(bound) for end, bound in intervals[key]._asdict().items()}
    return row


def _logits(probabilities: NDArray[np.floating[Any]]) -> Floats:
    """Logits that have these probabilities."""
    return np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Divide, with NaN for 0 / 0."""
    quotient = np.full(part.shape, np.nan)
    np.divide(part, whole, out=quotient, where=whole != 0)
    return quotient
