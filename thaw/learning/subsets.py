"""Heads on parts of the training images: how right they are on validation images, by how many images they have learnt.

It works on cached features and needs no TensorFlow. The heads are logistic regressions, whatever head is configured:
they are the fastest, and it is the shape of the curve that is wanted. The test images have no part in it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thaw.config.schema import ClassWeights, Lbfgs
from thaw.data.manifest import Record
from thaw.learning import curves, heads
from thaw.learning.examples import Examples, class_weights, examples, groups
from thaw.networks.outputs import Labels, Saved

SHARES = (1 / 8, 1 / 4, 1 / 2, 1)  # of the images that are learnt from
DRAWS = 5  # of each share but the last
CANDIDATES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]  # of the inverse regularisation
LEAST = 40  # training images, and validation images: of fewer, nothing is asked
# Images × features × classes that are learnt from at most: some 20 s on one core. Of more images, as many are left out.
WORK = 2e9


class Measured(NamedTuple):
    """What heads on subsets have said of the validation images.

    Attributes:
        sizes: of the subsets, in images; each holds the one before.
        right: for each size, whether a head was right: draws × validation images.
        y: the classes of the validation images.
        images: how many training images there are: more than the largest subset where that was too much work.
        groups: of the validation images, see ``examples.groups``.
    """

    sizes: list[int]
    right: list[NDArray[np.bool_]]
    y: Labels
    images: int
    groups: Labels | None = None


def measure(
    features: Path,
    records: Sequence[Record],
    classes: list[str],
    weighted: ClassWeights,
    seed: int,
    within: float = 1,
) -> Measured | None:
    """Train heads on nested subsets of the training images, and ask them about the validation images.

    A subset has the same shares of classes as the whole, and takes groups of images together. The regularisation is
    that which is best for the largest subset: as an inverse it is the width of a prior, which does not depend on how
    many images there are.

    Args:
        features: the file of all images' features; augmented views have no part in it.
        records: the manifest.
        classes: the class names.
        weighted: what images of each class count in the loss.
        seed: of the draws.
        within: the share of the training images that there are to draw from: less than 1 to see how it would have been.

    Returns:
        None where the images are too few.
    """
    source = Saved(features, views=1)
    train, val = (examples(records, classes, source, split) for split in ("train", "val"))
    random = np.random.default_rng(seed)
    units = [records[row].unit for row in train.rows]
    every = ordered(train.y, units, random)[: round(within * len(train.y))]
    largest = min(len(every), int(WORK / (math.prod(source.shape) * len(classes))))
    if min(largest, len(val.y)) < LEAST or len(np.unique(train.y[every[: largest // 8]])) < 2:
        return None
    sizes = [round(share * largest) for share in SHARES]
    chosen, whole = judged(train, val, every[:largest], CANDIDATES, weighted, classes)
    right: list[list[NDArray[np.bool_]]] = [[] for _ in sizes[:-1]]
    for _ in range(DRAWS):
        order = every[ordered(train.y[every], [units[place] for place in every], random)]
        for size, found in zip(sizes, right, strict=False):
            found.append(judged(train, val, order[:size], [chosen], weighted, classes)[1])
    together = groups([records[row] for row in val.rows])
    return Measured(sizes, [*(np.stack(found) for found in right), whole[np.newaxis]], val.y, len(every), together)


def ordered(y: Labels, groups: Sequence[str] | NDArray[np.str_], random: np.random.Generator) -> Labels:
    """Return an order of images whose every beginning has about the shares of classes, and whole groups but for one."""
    _, unit = np.unique(groups, return_inverse=True)
    drawn = random.permutation(unit.max() + 1)[unit]
    order = np.lexsort((drawn, y))
    count = np.bincount(y)
    rank = np.arange(len(y)) - (np.cumsum(count) - count)[y[order]]
    place = (rank + random.random(len(count))[y[order]]) / count[y[order]]
    return order[np.argsort(place, kind="stable")]


def judged(
    train: Examples, val: Examples, which: Labels, candidates: list[float], weighted: ClassWeights, classes: list[str]
) -> tuple[float, NDArray[np.bool_]]:
    """Train a head on some of the training images; return its regularisation, and where it is right.

    Of several candidates, the images that are asked choose the regularisation. A class that is not among the images is
    never named, so where there is no other one among those that are asked, no answer is right.
    """
    y = train.y[which]
    learnt = np.unique(y)
    number = np.full(len(classes), -1)
    number[learnt] = np.arange(len(learnt))
    chooses = np.isin(val.y, learnt)
    if not chooses.any():
        return candidates[0], chooses
    config = Lbfgs(solver="lbfgs", class_weights="none", inverse_l2=candidates)
    weights = class_weights(weighted, classes, y)
    head, rows = heads.solve(
        config,
        Examples(train.source, train.rows[which], number[y]),
        Examples(val.source, val.rows[chooses], number[val.y[chooses]]),
        len(learnt),
        None if weights is None else weights[learnt],
    )
    return rows[curves.kept(rows)]["inverse_l2"], learnt[head.predict(val).argmax(axis=1)] == val.y
