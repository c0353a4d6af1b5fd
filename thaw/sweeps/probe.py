"""How good a backbone's features are for these images, without training a pipeline: cross-validated linear heads."""

import numpy as np

from thaw.artifacts import Paths, read_json
from thaw.config.schema import Adam, Lbfgs
from thaw.data import manifest
from thaw.errors import UserError
from thaw.learning import crossvalidation, predictions


def run(paths: Paths, train_head: Adam | Lbfgs, seed: int) -> None:
    """Predict every image but the test images with a head that has not seen it; write probe/predictions.csv and .npy.

    Raises:
        UserError: the head is not solved for, so what a fold gives would depend on when it is stopped; or there are
            too few images.
    """
    if not isinstance(train_head, Lbfgs):
        raise UserError(
            f"rank=backbone: expected train_head=lbfgs, found {train_head.solver}; add it, or compare heads: rank=head"
        )
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    rows = np.array([row for row, record in enumerate(records) if record.split != "test"])
    probabilities = crossvalidation.predict(train_head, paths.features, records, rows, classes, seed)
    if probabilities is None:
        raise UserError(
            f"rank=backbone: expected images of two classes in each of {crossvalidation.FOLDS} folds, found "
            f"{len(rows)} images in too few groups; add images, or compare whole pipelines: rank=model"
        )
    with paths.stage("probe", train_head=train_head, seed=seed) as out:
        predictions.write(out / "predictions.csv", classes, [records[row] for row in rows], probabilities)
