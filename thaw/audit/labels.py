"""Labels that are probably wrong: what heads that have not seen a picture say of it.

Confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068), as cleanlab has it, ranks the pictures and
estimates how many are mislabelled. Two judges answer, and the geometric mean of what they say is believed: a ridge
regression, whose folds cost next to nothing once the products of the features are there, and the labels of the nearest
neighbours. What one of them alone finds strange is often only hard.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.audit.neighbours import Neighbours
from thaw.learning import calibration
from thaw.learning.crossvalidation import FOLDS
from thaw.networks.inference import softmax
from thaw.networks.outputs import Labels

Floats = NDArray[np.floating[Any]]

RIDGES = (0.1, 0.3, 1.0)  # of standardised features, per picture
NEARNESS = 8.0  # how much more a neighbour counts by whose similarity is higher by 1 (nats)
DOUBT = 0.03  # of the neighbours' votes: so much is given to every class
ASKED = 5_000  # pictures, at most, that a temperature is fitted to


@dataclass(frozen=True)
class Suspects:
    """Pictures whose labels are doubtful.

    Attributes:
        rows: the most doubtful first; as many as are estimated to be wrong.
        probabilities: what unseen heads say (pictures × classes).
    """

    rows: Labels
    probabilities: Floats


def find(features: Floats, neighbours: Neighbours, y: Labels, groups: Labels, folds: Labels, classes: int) -> Suspects:
    """Rank the pictures whose label is doubtful.

    Args:
        features: pictures × features, each row of length 1.
        neighbours: those whose features are most alike.
        y: the labels that are given.
        groups: numbers of those that show the same object, which do not vouch for each other.
        folds: see ``crossvalidation.deal``; a group is in one.
        classes: how many there are.
    """
    from cleanlab.count import num_label_issues  # imports pandas and scikit-learn
    from cleanlab.rank import get_self_confidence_for_each_label

    both = np.log(regression(features, y, folds, classes)) + np.log(votes(neighbours, y, groups, classes))
    probabilities = softmax(both / 2)
    order = np.argsort(get_self_confidence_for_each_label(y, probabilities), kind="stable")
    return Suspects(order[: int(num_label_issues(y, probabilities))], probabilities)


def regression(features: Floats, y: Labels, folds: Labels, classes: int) -> Floats:
    """Probabilities (pictures × classes) of ridge regressions on 0 and 1, each asked of the fold that it has not seen.

    The products of all features are summed fold by fold, so that leaving one out is a subtraction. The scores become
    probabilities at the temperature, and with the penalty of ``RIDGES``, at which they fit the labels best.
    """
    scale = np.maximum(features.std(axis=0), 1e-6)
    known = np.concatenate([(features - features.mean(axis=0)) / scale, np.ones((len(y), 1), np.float32)], axis=1)
    truth = np.eye(classes, dtype=np.float32)[y]
    asked = [folds == fold for fold in range(FOLDS)]
    squares = np.stack([known[which].T @ known[which] for which in asked]).astype(np.float64)
    products = np.stack([known[which].T @ truth[which] for which in asked]).astype(np.float64)
    found: list[tuple[float, Floats]] = []
    for ridge in RIDGES:
        scores = np.empty((len(y), classes), np.float64)
        for fold, which in enumerate(asked):
            penalty = ridge * (~which).sum() * np.eye(known.shape[1])
            weights = np.linalg.solve(squares.sum(0) - squares[fold] + penalty, products.sum(0) - products[fold])
            scores[which] = known[which] @ weights.astype(np.float32)
        probabilities = softmax(scores)
        some = slice(None, None, -(-len(y) // ASKED))
        calm = calibration.rescaled(probabilities, calibration.temperature(y[some], probabilities[some]))
        calm = np.maximum(calm, 1e-9)
        found.append((float(-np.log(calm[np.arange(len(y)), y]).mean()), calm))
    return min(found, key=lambda one: one[0])[1]


def votes(neighbours: Neighbours, y: Labels, groups: Labels, classes: int) -> Floats:
    """Probabilities (pictures × classes) by the labels of a picture's neighbours, nearer ones counting more.

    Neighbours of the same group do not vote.
    """
    weights = np.exp(NEARNESS * neighbours.similarity) * (groups[neighbours.rows] != groups[:, np.newaxis])
    counted = np.zeros((len(y), classes))
    for voters, weight in zip(neighbours.rows.T, weights.T, strict=True):
        np.add.at(counted, (np.arange(len(y)), y[voters]), weight)
    counted += np.maximum(DOUBT * counted.sum(axis=1, keepdims=True), 1e-9)
    found: Floats = counted / counted.sum(axis=1, keepdims=True)
    return found
