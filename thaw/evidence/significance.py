"""How sure one may be of a figure, or of a difference: intervals and tests.

Both models have seen the very same test images, so all that is said about their difference is paired.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from thaw.evidence.scoring import Floats, Pair, ratio

Verdict = Literal["fine-tuning helped", "fine-tuning hurt", "no difference shown", "nothing was fine-tuned"]

NOTHING: Verdict = "nothing was fine-tuned"
UNDECIDED: Verdict = "no difference shown"
POWER = 0.8  # how often a difference is to be shown where there is one: the usual choice (Cohen 1988)
# Resamples held in memory at once: with 10,000 distinct outcomes a block is 20 MB.
_BLOCK = 256


class McNemar(NamedTuple):
    """Test images that only one of two models gets right, and how likely such an imbalance is by chance."""

    fixed: int
    broken: int
    p: float


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Change(NamedTuple):
    """By how much the recall of a class has changed, between what bounds, and the p-value of that."""

    recall: float
    interval: Interval
    p: float


def bootstrap(test: Pair, *, confidence: float, resamples: int, seed: int) -> dict[str, dict[str, Interval]]:
    """Return percentile intervals of accuracy and macro F1 for ``head``, ``finetuned`` and ``delta`` (after - before).

    Images are drawn with replacement and both models are scored on the same draw (paired bootstrap; Efron & Tibshirani
    1993, chapters 13 and 16). Only an image's (label, before, after) matters to either figure, so a draw of n images is
    a multinomial draw over the distinct outcomes: the same distribution, and every score becomes a matrix product.
    Macro F1 is that of the classes among the labels, as in ``scoring.macro_f1``.
    """
    n, classes = test.before.shape
    outcomes, counts = np.unique(
        np.stack([test.labels, test.before.argmax(1), test.after.argmax(1)]), axis=1, return_counts=True
    )
    label, predicted = outcomes[0], {"head": outcomes[1], "finetuned": outcomes[2]}
    # Each outcome as a one-hot row: its true class, and for either model its predicted class and its class if right.
    hot = np.eye(classes)
    tested = np.unique(label)
    random = np.random.default_rng(seed)
    drawn: dict[str, list[Floats]] = {"head": [], "finetuned": []}
    for start in range(0, resamples, _BLOCK):
        weights = random.multinomial(n, counts / n, size=min(_BLOCK, resamples - start)).astype(np.float64)
        true = weights @ hot[label]
        for model, guess in predicted.items():
            right = weights @ (hot[label] * (guess == label)[:, None])
            f1 = np.nanmean(ratio(2 * right, true + weights @ hot[guess])[:, tested], axis=1)
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


def paired(fixed: int, broken: int, images: int, confidence: float) -> Interval:
    """Return the interval of the difference of two shares of the same images (Bonett and Price 2012, adjusted Wald).

    One image is added to those that were fixed and one to those that were broken. So it holds for few images, and has
    a width where no answer has changed: the bootstrap has none there, as if both models were certain to stay alike.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    gained, lost = (fixed + 1) / (images + 2), (broken + 1) / (images + 2)
    half = z * math.sqrt((gained + lost - (gained - lost) ** 2) / (images + 2))
    return Interval(max(-1.0, gained - lost - half), min(1.0, gained - lost + half))


def needed(fixed: int, broken: int, images: int, confidence: float) -> int | None:
    """Return how many test images would show a difference of the size seen, ``POWER`` of the time.

    If so large a share is fixed, and so large a share broken, by McNemar's test (Connor 1987, Biometrics 43:207). None
    where as many are fixed as broken: no number of images shows that there is no difference.
    """
    if fixed == broken:
        return None
    normal = NormalDist()
    apart, difference = (fixed + broken) / images, abs(fixed - broken) / images
    spread = normal.inv_cdf((1 + confidence) / 2) * math.sqrt(apart)
    spread += normal.inv_cdf(POWER) * math.sqrt(apart - difference**2)
    return math.ceil((spread / difference) ** 2)


def by_class(test: Pair, confidence: float) -> dict[int, Change]:
    """Return what fine-tuning has changed in each class that has test images.

    Whoever looks at many classes finds a change somewhere: p-values are McNemar's, corrected for that (Holm 1979), so
    that where nothing has changed, any of them is below 1 - confidence as seldom as the p of one class alone.
    """
    found = {}
    for number in np.unique(test.labels).tolist():
        own = test.labels == number
        fixed, broken, p = mcnemar(Pair(test.labels[own], test.before[own], test.after[own]))
        interval = paired(fixed, broken, int(own.sum()), confidence)
        found[number] = Change((fixed - broken) / int(own.sum()), interval, p)
    corrected = holm([change.p for change in found.values()])
    return {number: change._replace(p=p) for (number, change), p in zip(found.items(), corrected, strict=True)}


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values as they are after looking at all of them (Holm 1979, Scand. J. Statist. 6:65)."""
    order = sorted(range(len(p)), key=p.__getitem__)
    corrected, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = largest
    return corrected


def another(values: Sequence[float], confidence: float) -> Interval:
    """Return where one more figure is to be expected beside some of its kind (Student's prediction interval)."""
    from scipy.special import stdtrit

    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * deviation * math.sqrt(1 + 1 / len(values))
    return Interval(mean - half, mean + half)


def resplit(values: Sequence[float], ratio: float, confidence: float) -> Interval:
    """Return the interval of the mean of a figure over random splits of the same images.

    Such splits share most of their training images, so that their figures say less than as many independent ones:
    Student's t, with the variance of Nadeau and Bengio (2003, Machine Learning 52:239).

    Args:
        values: the figure of each split.
        ratio: test images by training images, on average; 0 where all have the same test images, and the interval is of
            other training on other training images alone.
        confidence: of the interval.
    """
    from scipy.special import stdtrit

    mean, variance = float(np.mean(values)), float(np.var(values, ddof=1))
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * math.sqrt((1 / len(values) + ratio) * variance)
    return Interval(mean - half, mean + half)


def least_fixed(confidence: float) -> int:
    """Return the fewest images that have to be fixed, or broken, before a difference can be shown at all.

    If k images were fixed and none broken, McNemar's exact p is 2 / 2ᵏ, and no difference of k images has a smaller
    one. So n test images can show no difference below k / n, whatever the models are.
    """
    return math.floor(1 - math.log2(1 - confidence)) + 1


def verdict(p: float, difference: Interval, confidence: float) -> Verdict:
    """Say what may be said: a change only if McNemar's test and the difference's interval both show it."""
    if p < 1 - confidence and difference.low > 0:
        return "fine-tuning helped"
    if p < 1 - confidence and difference.high < 0:
        return "fine-tuning hurt"
    return UNDECIDED
