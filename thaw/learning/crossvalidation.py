"""Cross-validation of the head: every image is asked by a head that has not seen it.

It works on cached features, in folds (Stone 1974), and needs no TensorFlow. What it says is of the head alone: to
fine-tune in every fold would take five times as long. ``predict`` asks every image once, of the head as it is
configured; ``repeat`` asks again and again, of heads that are cheap, because each fold is another split of the data.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thaw.config.schema import Adam, ClassWeights, Lbfgs
from thaw.data.manifest import Record
from thaw.learning import heads
from thaw.learning.examples import Examples, Inputs, class_weights, examples, labels
from thaw.learning.subsets import judged, ordered
from thaw.networks.inference import softmax
from thaw.networks.outputs import Floats, Labels, Saved

FOLDS = 5
# Images × features × classes that a head of ``repeat`` learns from at most: some 2 s on one core.
WORK = 5e8


class Repeated(NamedTuple):
    """What heads have said of images that they have not seen, in one cross-validation after the other.

    Attributes:
        right: whether they were right: repetitions × images.
        folds: the fold that each image was in: repetitions × images.
        here: whether such a head was right about this run's own test images; None where its split is none of the kind
            that folds make.
        images: how many each has learnt from.
    """

    right: NDArray[np.bool_]
    folds: NDArray[np.int64]
    here: NDArray[np.bool_] | None
    images: int


def repeat(
    features: Path,
    records: Sequence[Record],
    classes: list[str],
    weighted: ClassWeights,
    candidates: list[float],
    seed: int,
    splits: int,
    drawn: bool,
) -> Repeated | None:
    """Cross-validate until there are ``splits`` other splits than the run's own, or a few more.

    A fold is the test set of another split. Where the run's test images were drawn, folds are as large, and every head
    learns from as many images as the run's own training images are, so that their accuracies are what other seeds would
    have given. Heads are logistic regressions on images as they are, all with one regularisation, which the run's own
    validation images choose: it does not depend on the split, and to choose it anew takes five times as long.

    Args:
        features: the file of all images' features; augmented views have no part in it.
        records: the manifest.
        classes: the class names.
        weighted: what images of each class count in the loss.
        candidates: of the inverse regularisation.
        seed: of the folds.
        splits: how many, at least.
        drawn: whether the run's test images were drawn from all images, and not named by the data.

    Returns:
        None where the images, or their groups, are too few: a fold has less than two classes to learn.
    """
    source = Saved(features, views=1)
    train, val, test = (examples(records, classes, source, split) for split in ("train", "val", "test"))
    everyone = Examples(source, np.arange(len(records)), labels(records, classes))
    count = round(len(records) / len(test.rows))
    units = np.array([record.unit for record in records])
    alike = drawn and 2 <= count <= min(splits, len(np.unique(units)))  # fewer units than folds leave folds empty
    count = count if alike else FOLDS
    most = min(len(train.rows), int(WORK / (math.prod(source.shape) * len(classes))))
    random = np.random.default_rng(seed)

    def learns(rows: Labels) -> Labels:
        return rows[ordered(everyone.y[rows], units[rows], random)[:most]]

    folds = np.stack([deal(records, (seed, number), count) for number in range(math.ceil(splits / count))])
    right = np.zeros(folds.shape, np.bool_)
    own = learns(train.rows)
    if len(np.unique(everyone.y[own])) < 2:
        return None
    if len(candidates) > 1:
        candidates = [judged(everyone, val, own, candidates, weighted, classes)[0]]
    here = judged(everyone, test, own, candidates, weighted, classes)[1] if alike else None
    for number, fold in np.ndindex(len(folds), count):
        asked = folds[number] == fold
        known = learns(np.flatnonzero(~asked))
        if len(np.unique(everyone.y[known])) < 2:
            return None
        held_out = Examples(source, np.flatnonzero(asked), everyone.y[asked])
        right[number, asked] = judged(everyone, held_out, known, candidates, weighted, classes)[1]
    return Repeated(right, folds, here, len(own))


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
    source = Saved(features, views=1)
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
        probabilities[np.ix_(asked, learnt)] = softmax(head.predict(Inputs(source, rows[asked])))
    return probabilities


def deal(records: Sequence[Record], seed: int | Sequence[int], count: int = FOLDS) -> NDArray[np.int64]:
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
        folds[group] = number % count
    return folds
