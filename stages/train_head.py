"""Train the head on cached bottleneck features: the model "before" fine-tuning.

Reads artifacts/prepare/ and artifacts/extract_features/; writes artifacts/train_head/: head.h5, history.csv and
predictions.csv (validation and test probabilities). Learns on train, chooses on val.

    python -m stages.train_head
"""

from thaw import heads, history, manifest, predictions
from thaw.artifacts import Paths, read_json
from thaw.config import Adam, Lbfgs, command
from thaw.examples import Array, Mixes, class_weights, examples, inputs
from thaw.inference import softmax
from thaw.live import Report, curve, silent


def run(paths: Paths, train_head: Adam | Lbfgs, seed: int, report: Report = silent) -> None:
    """Train the head with the solver that the configuration names, and predict with it."""
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    features = Array.load(paths.features)
    mixes = Mixes.load(paths.mixes)
    train, val = (examples(records, classes, features, split, mixes) for split in ("train", "val"))
    judged = inputs(records, features, "val", "test")
    with paths.stage("train_head", train_head=train_head, seed=seed) as out:
        weights = class_weights(train_head.class_weights, classes, train.y)
        if isinstance(train_head, Lbfgs):
            head, rows = heads.solve(train_head, train, val, weights, report)
        else:
            head, rows = heads.descend(train_head, train, val, len(classes), seed, weights, report)
        head.save(out / paths.head.name)
        history.write(out / "history.csv", rows)
        probabilities = softmax(head.logits(judged.take()))
        predictions.write(out / "predictions.csv", classes, [records[row] for row in judged.rows], probabilities)
    best = min(rows, key=lambda row: row["val_loss"])
    print(f"train_head: validation accuracy {best['val_accuracy']:.4f}")


if __name__ == "__main__":
    command(run, curve)
