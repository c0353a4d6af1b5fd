"""Fine-tune the top of the backbone together with the head: the model "after".

Starts from the head's exact logits. What stays frozen runs once, in the engine; Keras trains only what is above, on its
outputs, which is the same mathematics. Reads data/, artifacts/prepare/, artifacts/extract_features/features.npy and
artifacts/train_head/head.h5; writes artifacts/finetune/: model.weights.h5 (the whole classifier), history.csv and
predictions.csv (validation and test probabilities). Learns on train, keeps the best epoch on val, resumes after a kill.

    python -m stages.finetune
"""

import math
import tempfile
from pathlib import Path

from thaw import features, finetuning, heads, history, manifest, predictions, training
from thaw.artifacts import Paths, cache, read_json
from thaw.backbones import FrozenNetwork
from thaw.config import Augment, Backbone, Finetune, command
from thaw.examples import examples, inputs


def run(paths: Paths, backbone: Backbone, augment: Augment, finetune: Finetune, seed: int) -> None:
    """Unfreeze, recompile at a low rate, fit, and predict with the best epoch."""
    records, classes, head = manifest.read(paths.manifest), read_json(paths.classes), heads.Head.load(paths.head)
    model = finetuning.classifier(backbone, head, finetune.dropout, seed)
    finetuning.unfreeze(model, backbone, finetune.unfreeze)
    boundary = finetuning.cut(model)
    batches = math.ceil(sum(record.split == "train" for record in records) / finetune.batch_size)
    decay_steps = batches * finetune.epochs if finetune.decay == "cosine" else None
    top = training.compiled(finetuning.above(model, boundary), finetune.learning_rate, decay_steps)

    with (
        tempfile.TemporaryDirectory(dir=cache()) as scratch,
        training.resumable(backbone, augment, finetune, seed, paths.manifest, paths.head) as checkpoint,
        paths.stage("finetune", backbone=backbone, augment=augment, finetune=finetune, seed=seed) as out,
    ):
        below = Path(scratch, "below.npy")
        wanted = features.views(records, augment, seed)
        features.extract(FrozenNetwork(backbone, boundary), wanted, paths.data, below, "frozen part")
        train, val = (examples(records, classes, below, split) for split in ("train", "val"))
        judged, bottleneck = (inputs(records, file, "val", "test") for file in (below, paths.features))
        finetuning.check_start(training.logits(top, judged), head.logits(bottleneck.take()))

        curve = training.fit(top, train, val, finetune, seed, checkpoint)
        probabilities = heads.softmax(training.logits(top, judged))
        model.save_weights(out / paths.model.name)
        history.write(out / "history.csv", curve)
        predictions.write(out / "predictions.csv", classes, [records[row] for row in judged.rows], probabilities)
    best = min(curve[1:], key=lambda row: row["val_loss"])
    print(f"finetune: validation accuracy {curve[0]['val_accuracy']:.4f} → {best['val_accuracy']:.4f}")


if __name__ == "__main__":
    command(run)
