"""How sure a model is: made as sure as it is right, and judged as if it were."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.learning.predictions import blocks
from thaw.networks.inference import softmax
from thaw.networks.outputs import Labels

Probabilities = NDArray[np.floating[Any]]


def temperature(labels: Labels, probabilities: Probabilities) -> float:
    """Return the temperature that makes a model as sure as it is right: softmax(ln(probabilities) / temperature).

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599), fitted to validation images: it changes how sure a model
    is, and never which class it names. As in Platt (1999), a label counts as (n + 1) / (n + 2) true: where every
    validation image is right, that keeps the model from being made infinitely sure.
    """
    n, classes = probabilities.shape
    logits = _logits(probabilities)
    own, every = logits[np.arange(n), labels].sum(), logits.sum()
    wanted = (own * (n + 1) + (every - own) / (classes - 1)) / (n + 2)  # what the labels make of the logits
    # The loss is convex in 1 / temperature, so its slope is zero in one place: between these ends, if anywhere.
    low, high = math.log(1 / 50), math.log(50)
    for _ in range(40):  # halves them to 1e-11
        middle = (low + high) / 2
        found = sum(float((softmax(logits[rows], math.exp(-middle)) * logits[rows]).sum()) for rows in blocks(logits))
        low, high = (low, middle) if found > wanted else (middle, high)
    return math.exp(-(low + high) / 2)


def rescaled(probabilities: Probabilities, temperature: float) -> NDArray[np.float64]:
    """Return probabilities (images × classes) at a temperature."""
    found = np.empty(probabilities.shape)
    for rows in blocks(probabilities):
        found[rows] = softmax(_logits(probabilities[rows]), temperature)
    return found


def threshold(labels: Labels, probabilities: Probabilities, wanted: float) -> float | None:
    """Return how sure a model must be of an image for what it then says to be right so often.

    Of all thresholds at which so many of the answered validation images are right, the one that answers the most. One
    more answer counts as wrong than is: a threshold that was chosen flatters where it was chosen (Angelopoulos et al.
    2022, arXiv:2208.02814, conformal risk control). It lies midway between two images, so that rounding moves none
    across it; 0 answers all.

    Returns:
        None where no threshold does it, or the images are too few to say so.
    """
    sure = probabilities.max(axis=1).astype(np.float64)
    order = np.argsort(-sure, kind="stable")
    wrong = np.cumsum((probabilities.argmax(axis=1) != labels)[order]) + 1
    below = np.append(sure[order][1:], -sure[order][-1])
    allowed = (1 - wanted) * (np.arange(len(labels)) + 2) + 1e-9  # for 90%, 9 images are enough, and 0.1 is not exact
    (ends,) = np.nonzero((wrong <= allowed) & (below < sure[order]))
    return float(sure[order][ends[-1]] + below[ends[-1]]) / 2 if len(ends) else None


def calibrated_brier_scores(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """Return the Brier score of each image, at the temperature that is best for all of them: what models are chosen by.

    So models are compared by what they know, where one of them has been taught to be unsure (label smoothing); by more
    than whether they are right, for of few images an accuracy says little; and no image counts for much more than
    another, as it does in a cross-entropy, where what a network is wrong of and sure outweighs all else.
    """
    return brier_scores(labels, rescaled(probabilities, temperature(labels, probabilities)))


def brier_scores(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """Return Σ (probability - truth)² over the classes of each image, from 0 to 2 (Brier 1950)."""
    found = np.empty(len(labels))
    for rows in blocks(probabilities):
        errors = np.array(probabilities[rows], np.float64)
        errors[np.arange(len(errors)), labels[rows]] -= 1
        found[rows] = np.square(errors).sum(axis=1)
    return found


def _logits(probabilities: Probabilities) -> NDArray[np.float64]:
    """Logits that have these probabilities."""
    logits = np.maximum(probabilities, np.finfo(np.float32).tiny, dtype=np.float64)
    return np.log(logits, out=logits)
