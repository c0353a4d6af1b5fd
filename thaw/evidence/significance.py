"""How sure one may be of a figure, or of a difference: intervals and tests.

Both models have seen the very same test images, so all that is said about their difference is paired. Images of one
group (a patient, a burst, copies) are right or wrong together: where there are groups, they are what is counted.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thaw.evidence.scoring import Floats, Labels, Pair, ratio

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

    Of images in groups, whole groups are drawn (Field & Welsh 2007, J. R. Statist. Soc. B 69:369).
    """
    from scipy.sparse import csr_array  # imported where it is needed, as it takes a while

    classes = test.before.shape[1]
    outcomes = np.stack([test.labels, test.before.argmax(1), test.after.argmax(1)])
    if test.groups is None:
        outcomes, counts = np.unique(outcomes, axis=1, return_counts=True)
        unit, draws = np.arange(len(counts)), len(test.labels)
    else:
        unit = np.unique(test.groups, return_inverse=True)[1]
        draws = test.units
        counts = np.ones(draws, np.int64)
    label, predicted = outcomes[0], {"head": outcomes[1], "finetuned": outcomes[2]}

    def summed(numbers: Labels, which: NDArray[Any]) -> csr_array:
        """How many images have which class (row), of each that is drawn (column)."""
        return csr_array((which.astype(np.float64), (numbers, unit)), (classes, len(counts)))

    # For either model: how many are right, and how many are taken for which class.
    everyone = np.ones(len(label))
    truth = summed(label, everyone)
    answers = {model: (summed(label, guess == label), summed(guess, everyone)) for model, guess in predicted.items()}
    tested = np.unique(label)
    random = np.random.default_rng(seed)
    drawn: dict[str, list[Floats]] = {"head": [], "finetuned": []}
    for start in range(0, resamples, _BLOCK):
        weights = random.multinomial(draws, counts / draws, size=min(_BLOCK, resamples - start)).T
        weights = weights.astype(np.float64, order="C")
        true = truth @ weights
        for model, (rights, taken) in answers.items():
            right = rights @ weights
            f1 = np.nanmean(ratio(2 * right, true + taken @ weights)[tested], axis=0)
            drawn[model].append(np.stack([right.sum(0) / true.sum(0), f1]))
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

    Of images in groups, the models are swapped in whole groups (Fisher's randomisation test, 1935; why McNemar's own
    will not do there: Durkalski et al. 2003, Statist. Med. 22:2417). The p-value is the share of all ways of doing so
    which set as many more images right in one model than in the other as was seen, or still more; without groups that
    is McNemar's.
    """
    # scipy.stats.binomtest gives the same number and takes half a second longer to import.
    from scipy.special import bdtr

    before = test.before.argmax(1) == test.labels
    after = test.after.argmax(1) == test.labels
    fixed, broken = int((after & ~before).sum()), int((before & ~after).sum())
    if test.groups is not None:
        return McNemar(fixed, broken, _swapped(np.bincount(test.groups, after.astype(np.float64) - before)))
    return McNemar(fixed, broken, min(1.0, 2 * float(bdtr(min(fixed, broken), fixed + broken, 0.5))))


def _swapped(changes: NDArray[Any]) -> float:
    """Return how often the sum of some whole numbers is so far from 0 if each has either sign, as a share."""
    sizes = [int(size) for size in np.abs(changes) if size]
    total, seen = sum(sizes), abs(int(changes.sum()))
    chance = np.zeros(2 * total + 1)  # of the sums from -total to total
    chance[total] = 1
    for size in sizes:  # nothing is lost at the ends: no sum is beyond them
        chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2
    return min(1.0, float(chance[np.abs(np.arange(-total, total + 1)) >= seen].sum()))


def effective(values: NDArray[Any], groups: Labels | None) -> float:
    """Return how many images by themselves would tell as much of the mean of ``values`` as images in groups do.

    n / (1 + (m - 1) r), where m is the size of the group that an image is in, on average over images, and r how much
    alike the images of a group are: the intraclass correlation by analysis of variance, between 0 and 1 (Kish 1965;
    Rao & Scott 1992, Biometrics 48:577). Where r cannot be known, as there is one group alone or all values are the
    same, it is taken to be 1: then a group is worth one image.
    """
    images = len(values)
    if groups is None or len(np.unique(groups)) == images:
        return images
    unit, size = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    mean = np.bincount(unit, values) / size
    alike = 1.0
    if len(size) > 1 and (values != values[0]).any():
        between = (size * (mean - values.mean()) ** 2).sum() / (len(size) - 1)
        within = ((values - mean[unit]) ** 2).sum() / (images - len(size))
        typical = (images - (size**2).sum() / images) / (len(size) - 1)
        alike = min(1.0, max(0.0, (between - within) / (between + (typical - 1) * within)))
    return float(images / (1 + ((size**2).sum() / images - 1) * alike))


def share(right: NDArray[np.bool_], groups: Labels | None, confidence: float) -> Interval:
    """Return Wilson's interval of how often images are right; of images in groups, for as many as they are worth."""
    return wilson(float(right.mean()), effective(right.astype(np.float64), groups), confidence)


def change(test: Pair, confidence: float) -> Interval:
    """Return the interval of the difference of accuracies (``paired``); groups count for as much as they are worth."""
    after, before = (model.argmax(1) == test.labels for model in (test.after, test.before))
    gains = after.astype(np.float64) - before
    worth = effective(gains, test.groups) / len(gains)
    fixed, broken = int((gains > 0).sum()), int((gains < 0).sum())
    return paired(fixed * worth, broken * worth, len(gains) * worth, confidence)


def wilson(share: float, images: float, confidence: float) -> Interval:
    """Return the interval of a share of so many images (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def paired(fixed: float, broken: float, images: float, confidence: float) -> Interval:
    """Return the interval of the difference of two shares of the same images (Bonett and Price 2012, adjusted Wald).

    One image is added to those that were fixed and one to those that were broken. So it holds for few images, and has
    a width where no answer has changed: the bootstrap has none there, as if both models were certain to stay alike.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    gained, lost = (fixed + 1) / (images + 2), (broken + 1) / (images + 2)
    half = z * math.sqrt((gained + lost - (gained - lost) ** 2) / (images + 2))
    return Interval(max(-1.0, gained - lost - half), min(1.0, gained - lost + half))


def needed(fixed: int, broken: int, images: int, confidence: float, worth: float = 1) -> int | None:
    """Return how many test images would show a difference of the size seen, ``POWER`` of the time.

    If so large a share is fixed, and so large a share broken, by McNemar's test (Connor 1987, Biometrics 43:207). None
    where as many are fixed as broken: no number of images shows that there is no difference. ``worth`` is the share of
    the images that would tell as much if each were by itself (``effective``).
    """
    if fixed == broken:
        return None
    normal = NormalDist()
    apart, difference = (fixed + broken) / images, abs(fixed - broken) / images
    spread = normal.inv_cdf((1 + confidence) / 2) * math.sqrt(apart)
    spread += normal.inv_cdf(POWER) * math.sqrt(apart - difference**2)
    return math.ceil((spread / difference) ** 2 / worth)


def by_class(test: Pair, confidence: float) -> dict[int, Change]:
    """Return what fine-tuning has changed in each class that has test images.

    Whoever looks at many classes finds a change somewhere: p-values are McNemar's, corrected for that (Holm 1979), so
    that where nothing has changed, any of them is below 1 - confidence as seldom as the p of one class alone.
    """
    found = {}
    for number in np.unique(test.labels).tolist():
        own = test.of(test.labels == number)
        fixed, broken, p = mcnemar(own)
        found[number] = Change((fixed - broken) / len(own.labels), change(own, confidence), p)
    corrected = holm([one.p for one in found.values()])
    return {number: one._replace(p=p) for (number, one), p in zip(found.items(), corrected, strict=True)}


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values as they are after looking at all of them (Holm 1979, Scand. J. Statist. 6:65)."""
    order = sorted(range(len(p)), key=p.__getitem__)
    corrected, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = largest
    return corrected


def another(values: Sequence[float], confidence: float) -> Interval:
    """Return where one more share is to be expected beside some of its kind (Student's prediction interval)."""
    from scipy.special import stdtrit

    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * deviation * math.sqrt(1 + 1 / len(values))
    return Interval(max(0.0, mean - half), min(1.0, mean + half))


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
    one. So n test images can show no difference below k / n, whatever the models are. The same holds for k groups.
    """
    return math.floor(1 - math.log2(1 - confidence)) + 1


def verdict(p: float, difference: Interval, confidence: float) -> Verdict:
    """Say what may be said: a change only if McNemar's test and the difference's interval both show it."""
    if p < 1 - confidence and difference.low > 0:
        return "fine-tuning helped"
    if p < 1 - confidence and difference.high < 0:
        return "fine-tuning hurt"
    return UNDECIDED
