"""Spurious cues: what a picture is by itself, and not what it shows, may tell its class.

A network learns a frame, a camera or a size as readily as a flower. Each feature is asked alone, in folds: how often is
a class right that only it names?
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.audit.pictures import Look
from thaw.learning.crossvalidation import FOLDS
from thaw.networks.outputs import Labels

BINS = 16  # of a feature that is a number, with as many pictures in each
OFTEN = 5  # pictures that a value must have to be one of its own
ERRORS = 4.0  # standard errors by which a feature has to be right more often than the most frequent class is

# And how much more often a feature has to be right to be named, one of the file and one of the picture: the sky is
# brighter than a forest, and that is no flaw.
FILE, PICTURE = 0.1, 0.4
FEATURES: Mapping[str, tuple[float, Callable[[Look], Any]]] = {
    "image size": (FILE, lambda one: (one.width, one.height)),
    "aspect ratio": (FILE, lambda one: one.width / one.height),
    "file format": (FILE, lambda one: one.kind),
    "camera": (FILE, lambda one: one.camera),
    "bytes per pixel": (PICTURE, lambda one: one.size / (one.width * one.height)),
    "brightness": (PICTURE, lambda one: one.brightness),
    "contrast": (PICTURE, lambda one: one.contrast),
    "colour": (PICTURE, lambda one: one.colour),
    "sharpness": (PICTURE, lambda one: one.sharpness),
}


@dataclass(frozen=True)
class Cue:
    """A feature that tells the class.

    Attributes:
        feature: its name.
        right: the share of pictures whose class it names, in folds.
        majority: the share of the most frequent class.
        label: the class that it tells best (by F1), by its number.
    """

    feature: str
    right: float
    majority: float
    label: int


def find(looks: Sequence[Look], y: Labels, folds: Labels, classes: int) -> list[Cue]:
    """Find the features that tell the class on their own, the best first."""
    majority = float(np.bincount(y, minlength=classes).max() / len(y))
    error = (majority * (1 - majority) / len(y)) ** 0.5
    found = []
    for feature, (gain, of) in FEATURES.items():
        told = _told(_values([of(one) for one in looks]), y, folds, classes)
        right = float((told == y).mean())
        if right < majority + max(gain, ERRORS * error):
            continue
        hits, given, named = (np.bincount(rows, minlength=classes) for rows in (y[told == y], y, told))
        found.append(Cue(feature, right, majority, int((hits / np.maximum(given + named, 1)).argmax())))
    return sorted(found, key=lambda cue: -cue.right)


def _values(values: Sequence[Any]) -> NDArray[np.int64]:
    """Number the values of a feature: a number by its bin, anything else by what it is, if there are several such."""
    if isinstance(values[0], float):
        numbers = np.array(values)
        return np.searchsorted(np.unique(np.quantile(numbers, np.arange(1, BINS) / BINS)), numbers, side="right")
    names: dict[Any, int] = {}
    numbered = np.array([names.setdefault(value, len(names)) for value in values])
    return np.where(np.bincount(numbered)[numbered] >= OFTEN, numbered, len(names))


def _told(values: NDArray[np.int64], y: Labels, folds: Labels, classes: int) -> Labels:
    """The most frequent class among pictures of other folds that have the same value."""
    counts = np.zeros((FOLDS, values.max() + 1, classes), np.int64)
    np.add.at(counts, (folds, values, y), 1)
    others = counts.sum(axis=0) - counts
    found: Labels = others.argmax(axis=2)[folds, values]
    return found
