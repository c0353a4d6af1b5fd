"""How good a backbone's features are for these images, without training a pipeline: cross-validated linear heads."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thaw.artifacts import Paths, read_json
from thaw.config.schema import Adam, Lbfgs
from thaw.data import manifest
from thaw.data.manifest import Record
from thaw.errors import UserError
from thaw.learning import heads, predictions
from thaw.learning.examples import Examples, labels
from thaw.networks.inference import softmax
from thaw.networks.outputs import Array

FOLDS = 5


def run(paths: Paths, train_head: Adam | Lbfgs, seed: int) -> None:
    """Predict every image but the test images with a head that has not seen it; write probe/predictions.csv.

    The head that answers for a fold has learnt on the others, but for one, on which it has chosen its regularisation:
    nothing flatters the answers. Images count as they are, without augmented views.

    Raises:
        UserError: the head is not solved for, so what a fold gives would depend on when it is stopped.
    """
    if not isinstance(train_head, Lbfgs):
        raise UserError(
            f"rank=backbone: expected train_head=lbfgs, found {train_head.solver}; add it, or compare heads: rank=head"
        )
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    rows = np.array([row for row, record in enumerate(records) if record.split != "test"])
    known = [records[row] for row in rows]
    features, y, folds = Array(np.load(paths.features, mmap_mode="r")[:, :1]), labels(known, classes), deal(known, seed)
    probabilities = np.empty((len(rows), len(classes)), np.float32)
    for fold in range(FOLDS):
        place = (folds - fold) % FOLDS
        train, val, asked = (Examples(features, rows[which], y[which]) for which in (place > 1, place == 1, place == 0))
        head, _ = heads.solve(train_head, train, val)
        probabilities[place == 0] = softmax(head.logits(asked.take()))
    with paths.stage("probe", train_head=train_head, seed=seed) as out:
        predictions.write(out / "predictions.csv", classes, known, probabilities)


def deal(records: Sequence[Record], seed: int) -> NDArray[np.int64]:
    """Return the fold of each image; images of one group are in one fold, and each class is dealt out evenly."""
    groups: dict[str, list[int]] = {}
    for row, record in enumerate(records):
        groups.setdefault(record.group or record.path, []).append(row)
    dealt = sorted(groups.values())
    np.random.default_rng(seed).shuffle(dealt)
    folds = np.empty(len(records), np.int64)
    for number, group in enumerate(
        sorted(dealt, key=lambda group: records[group[0]].label)
    ):  # keeps the order of equals
        folds[group] = number % FOLDS
    return folds
