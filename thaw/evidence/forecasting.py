"""What more images would bring: a learning curve, continued by a power law.

The error of a classifier falls with the number n of images that it has learnt from as a + b · n^-c (Cortes et al. 1993;
Hestness et al. 2017, arXiv:1712.00409). ``learning.subsets`` measures it on validation images, so that a forecast
leaves the test images alone. How often the intervals hold: docs/evidence.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from thaw.evidence.scoring import Floats
from thaw.evidence.significance import Interval, effective, holm
from thaw.learning.subsets import Measured

EXPONENTS = (0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4)  # of all c that have been seen
DOUBT = 0.003  # of an error, by which a power law may miss it however well that is measured
RESAMPLES = 500
WEIGHTS = 2**22  # of resampled images that are in memory at a time


class Point(NamedTuple):
    """A head's accuracy on the validation images after so many training images."""

    images: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class Forecast:
    """What is measured of a learning curve, and what follows.

    Attributes:
        images: how many training images there are.
        curve: what was measured.
        doubled: what is expected of twice as many images.
        gain: by how much that is more than of these, as a share.
        interval: of the gain.
        gaining: the numbers of the classes whose recall has risen with the last doubling, by more than noise.
    """

    images: int
    curve: Sequence[Point]
    doubled: Point
    gain: float
    interval: Interval
    gaining: Sequence[int]

    def figures(self) -> dict[str, float]:
        """Return what ``figures.json`` says of it."""
        low, high = self.interval
        return {"images": self.images, "gain": self.gain, "gain_low": low, "gain_high": high}


def forecast(measured: Measured, confidence: float, seed: int) -> Forecast:
    """Continue a learning curve to twice as many images as there are.

    Its uncertainty comes from drawing the validation images, in whole groups, and the subsets again (bootstrap). All
    images make one subset only, and so would twice as many: how much chance is in one is taken from those of the size
    before. They are few, so it is Student's t that their spread is multiplied with.
    """
    random = np.random.default_rng(seed)
    errors = _resampled(measured, random)
    spread = [float(right.mean(axis=1).std(ddof=1)) for right in measured.right[:-1]]
    chance = np.hypot(spread[-1], DOUBT) * random.standard_t(len(measured.right[-2]) - 1, (2, RESAMPLES))
    errors[1:, -1] = np.clip(errors[1:, -1] + chance[0], 0, 1)
    draws = [len(right) for right in measured.right]
    deviations = np.array([*spread, spread[-1]]) / np.sqrt(draws)
    share = np.array(measured.sizes) / measured.sizes[-1]
    now = measured.images / measured.sizes[-1]
    fell = _fall(share, errors, 1 / (deviations**2 + DOUBT**2), now, 2 * now)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    gain = _rounded(np.median(fell))
    interval = Interval(*map(_rounded, np.quantile(fell[1:] + chance[1], tails)))
    points = [
        Point(size, _rounded(1 - column[0]), Interval(*map(_rounded, np.quantile(1 - column, tails))))
        for size, column in zip(measured.sizes, errors.T, strict=True)
    ]
    last = points[-1].accuracy
    within = [min(1.0, max(0.0, last + value)) for value in (gain, *interval)]
    doubled = Point(2 * measured.images, within[0], Interval(*within[1:]))
    return Forecast(measured.images, points, doubled, gain, interval, _gaining(measured, confidence))


def _resampled(measured: Measured, random: np.random.Generator) -> Floats:
    """Errors by size (columns): as they were measured (first row), then of draws and images that are drawn again."""
    images = len(measured.y)
    unit = np.arange(images) if measured.groups is None else measured.groups
    units = int(unit.max()) + 1
    each = [(~right.T).astype(np.float64) for right in measured.right]
    wrong = [[one.mean(axis=0, keepdims=True)] for one in each]
    at_once = max(1, WEIGHTS // images)
    for start in range(0, RESAMPLES, at_once):
        drawn = random.multinomial(units, np.full(units, 1 / units), min(at_once, RESAMPLES - start))
        count = np.take(drawn, unit, axis=1)
        weights = count / count.sum(axis=1, keepdims=True)
        for found, one in zip(wrong, each, strict=True):
            found.append(weights @ one)
    most = len(measured.right[0])
    heads = np.concatenate([np.arange(most)[np.newaxis], random.integers(0, most, (RESAMPLES, most))])
    columns = [
        np.take_along_axis(np.concatenate(found), heads % len(right), axis=1).mean(axis=1)
        for found, right in zip(wrong, measured.right, strict=True)
    ]
    errors: Floats = np.clip(np.stack(columns, axis=1), 0, 1)  # the weights' sum is 1 but for its last bit
    return errors


def _fall(share: Floats, errors: Floats, weights: Floats, start: float, end: float) -> Floats:
    """Fit a + b · share^-c to each row of ``errors``, with a and b at least 0; return by how much it falls to ``end``.

    Weighted least squares: for each exponent there is one solution, and the best exponent of ``EXPONENTS`` is taken.
    """
    least, fall = np.full(len(errors), np.inf), np.zeros(len(errors))
    for c in EXPONENTS:
        x = share**-c
        middle = np.average(x, weights=weights)
        level = np.average(errors, axis=1, weights=weights)
        b = (errors - level[:, np.newaxis]) @ (weights * (x - middle)) / (weights * (x - middle) ** 2).sum()
        b = np.where(level < b * middle, errors @ (weights * x) / (weights * x * x).sum(), np.maximum(b, 0))
        a = np.maximum(level - b * middle, 0)
        misfit = (errors - a[:, np.newaxis] - b[:, np.newaxis] * x) ** 2 @ weights
        better = misfit < least
        least = np.where(better, misfit, least)
        fall = np.where(better, b * (start**-c - end**-c), fall)
    return fall


def _gaining(measured: Measured, confidence: float) -> list[int]:
    """Return the classes whose recall has risen between the last two sizes by more than noise.

    One-sided z-tests over the images of a class, corrected for the number of classes (Holm). As in
    ``significance.paired``, an image that was gained and one that was lost are added; groups count for what they are
    worth; the subset of all images is one draw, with as much chance in it as there is in one of half of them.
    """
    half, whole = measured.right[-2], measured.right[-1][0]
    classes = np.unique(measured.y)
    p = []
    for number in classes:
        own = measured.y == number
        seen = whole[own] - half[:, own].mean(axis=0)
        gains = np.append(seen, [1.0, -1.0])
        worth = effective(seen, None if measured.groups is None else measured.groups[own])
        noise = gains.var() / (worth + 2) + half[:, own].mean(axis=1).var(ddof=1)
        p.append(1 - NormalDist().cdf(float(gains.mean() / np.sqrt(noise))))
    return [int(number) for number, value in zip(classes, holm(p), strict=True) if value < 1 - confidence]


def _rounded(value: np.floating | float) -> float:
    return float(f"{value:.6g}")
