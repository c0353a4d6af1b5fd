"""Cross-validation of the head: every image is asked once, by a head that has not seen it.

It works on cached features, in folds (Stone 1974), and needs no TensorFlow. What it says is of the head alone: to
fine-tune in every fold would take five times as long.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thaw.config.schema import Adam, Lbfgs
from thaw.data.manifest import Record
from thaw.learning import heads
from thaw.learning.examples import Examples, class_weights, labels
from thaw.networks.inference import softmax
from thaw.networks.outputs import Array, Floats, Labels

FOLDS = 5


def predict(
    config: Adam | Lbfgs, features: Path, records: Sequence[Record], rows: Labels, classes: list[str], seed: int
) -> Floats | None:
    """Return the probabilities (rows × classes) that heads give to images which they have not seen.

    The head that answers for a fold has learnt on three others and chosen its regularisation, or its epoch, on the
    fourth, so that nothing flatters the answers. It is trained as ``train_head`` would train it, but images count as
    they are, without augmented views. A class that is not among its training images has probability 0.

    Args:
        config: how a head is trained.
        features: the file of all images' features.
        records: the manifest.
        rows: which images of the manifest have a part in it.
        classes: the class names.
        seed: of the folds, and of a head that is not solved for.

    Returns:
        None where the images, or their groups, are too few: a fold has less than two classes to learn, or none of
        them to choose by.
    """
    source = Array(np.load(features, mmap_mode="r")[:, :1])
    known = [records[row] for row in rows]
    y, folds = labels(known, classes), deal(known, seed)
    probabilities = np.zeros((len(rows), len(classes)), np.float32)
    for fold in range(FOLDS):
        place = (folds - fold) % FOLDS
        asked, learns = place == 0, place > 1
        learnt = np.unique(y[learns])
        chooses = (place == 1) & np.isin(y, learnt)
        if len(learnt) < 2 or not chooses.any():
            return None
        number = np.searchsorted(learnt, y)  # of a class among those that this head knows
        train, val = (Examples(source, rows[which], number[which]) for which in (learns, chooses))
        weights = class_weights(config.class_weights, classes, y[learns])
        head, _ = heads.fit(config, train, val, len(learnt), seed, None if weights is None else weights[learnt])
        probabilities[np.ix_(asked, learnt)] = softmax(head.logits(source.take(rows[asked], 0)))
    return probabilities


def deal(records: Sequence[Record], seed: int) -> NDArray[np.int64]:
    """Return the fold of each image; a group, and copies of an image, are in one; each class is dealt out evenly."""
    groups: dict[str, list[int]] = {}
    for row, record in enumerate(records):
        groups.setdefault(record.unit, []).append(row)
    dealt = sorted(groups.values())
    np.random.default_rng(seed).shuffle(dealt)
    folds = np.empty(len(records), np.int64)
    for number, group in enumerate(
        sorted(dealt, key=lambda group: records[group[0]].label)
    ):  # keeps the order of equals
        folds[group] = number % FOLDS
    return folds
