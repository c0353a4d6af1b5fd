"""Train the head on cached bottleneck features: the model "before" fine-tuning.

Reads artifacts/prepare/ and artifacts/extract_features/; writes artifacts/train_head/: head.h5, history.csv,
predictions.csv and .npy (of the validation and test images). Learns on train, chooses on val.

    python -m stages.train_head
"""

from thaw.artifacts import Paths, read_json
from thaw.config.composing import command
from thaw.config.schema import Adam, Lbfgs
from thaw.data import manifest
from thaw.learning import curves, examples, heads, predictions
from thaw.networks.inference import softmax
from thaw.networks.outputs import Mixes, Saved


def run(paths: Paths, train_head: Adam | Lbfgs, seed: int, report: curves.Report = curves.silent) -> None:
    """Train the head with the solver that the configuration names, and predict with it."""
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    train, val, judged = examples.of_splits(records, classes, Saved(paths.features), Mixes.load(paths.mixes))
    with paths.stage("train_head", train_head=train_head, seed=seed) as out:
        weights = examples.class_weights(train_head.class_weights, classes, train.y)
        head, rows = heads.fit(train_head, train, val, len(classes), seed, weights, report)
        head.save(out / paths.head.name)
        curves.write(out / "history.csv", rows)
        probabilities = softmax(head.predict(judged))
        predictions.write(out / "predictions.csv", classes, [records[row] for row in judged.rows], probabilities)
    print(f"train_head: validation accuracy {rows[curves.kept(rows)]['val_accuracy']:.4f}")


if __name__ == "__main__":
    command(run, curves.live)
