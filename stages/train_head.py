"""Train the head on cached bottleneck features: the model "before" fine-tuning.

Reads artifacts/prepare/ and artifacts/extract_features/; writes artifacts/train_head/: head.h5, history.csv and
predictions.csv (validation and test probabilities). Learns on train, chooses on val.

    python -m stages.train_head
"""

import numpy as np

from thaw import heads, history, manifest, predictions, training
from thaw.artifacts import Paths, read_json
from thaw.config import Adam, Lbfgs, command
from thaw.examples import examples, rows


def run(paths: Paths, train_head: Adam | Lbfgs, seed: int) -> None:
    """Train the head with the solver that the configuration names, and predict with it."""
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    train = examples(records, classes, "train", paths.features)
    val = examples(records, classes, "val", paths.features)
    with (
        training.resumable(train_head, seed, paths.manifest, paths.features) as checkpoint,
        paths.stage("train_head", train_head=train_head, seed=seed) as out,
    ):
        if isinstance(train_head, Lbfgs):
            head, curve = heads.solve(train_head, train, val)
        else:
            head, curve = heads.descend(train_head, train, val, len(classes), seed, checkpoint)
        head.save(out / paths.head.name)
        history.write(out / "history.csv", curve)
        judged = rows(records, "val", "test")
        probabilities = heads.softmax(head.logits(np.load(paths.features, mmap_mode="r")[judged, 0]))
        predictions.write(out / "predictions.csv", classes, [records[row] for row in judged], probabilities)
    best = min(curve, key=lambda row: row["val_loss"])
    print(f"train_head: validation accuracy {best['val_accuracy']:.4f}")


if __name__ == "__main__":
    command(run)
