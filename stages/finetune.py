"""Fine-tune the top of the backbone together with the head: the model "after".

Starts from the head's exact logits. What stays frozen runs once, in the engine; Keras trains only what is above, on its
outputs, which is the same mathematics. Reads data/, artifacts/prepare/, artifacts/extract_features/features.npy and
artifacts/train_head/head.h5; writes artifacts/finetune/: model.weights.h5 (the whole classifier), history.csv,
predictions.csv (validation and test probabilities) and meta.json (what the frozen part's outputs take). Learns on
train, keeps the best epoch on val, resumes after a kill.

    python -m stages.finetune
"""

import math

from thaw import backbones, features, finetuning, heads, history, manifest, predictions, training
from thaw.artifacts import Paths, read_json, write_json
from thaw.backbones import FrozenNetwork
from thaw.config import Augment, Backbone, Finetune, command
from thaw.examples import Array, examples, inputs


def run(paths: Paths, backbone: Backbone, augment: Augment, finetune: Finetune, seed: int) -> None:
    """Unfreeze, recompile at a low rate, fit, and predict with the best epoch."""
    records, classes, head = manifest.read(paths.manifest), read_json(paths.classes), heads.Head.load(paths.head)
    model = finetuning.classifier(backbone, head, finetune.dropout, seed)
    first = backbones.first_layer(model, backbone, finetune.unfreeze)
    finetuning.unfreeze(model, first)
    boundary = backbones.cut(model, first)
    batches = math.ceil(sum(record.split == "train" for record in records) / finetune.batch_size)
    decay_steps = batches * finetune.epochs if finetune.decay == "cosine" else None
    top = finetuning.above(model, boundary)
    training.compiled(top, finetune.learning_rate, decay_steps, finetune.label_smoothing)

    with (
        training.resumable(backbone, augment, finetune, seed, paths.manifest, paths.head) as checkpoint,
        paths.stage("finetune", backbone=backbone, augment=augment, finetune=finetune, seed=seed) as out,
    ):
        wanted = features.views(records, augment, seed)
        below = features.frozen(*FrozenNetwork.below(model, boundary, backbone), wanted, paths.data)
        write_json(out / paths.stored("finetune").name, features.size(wanted, below.shape))
        train, val = (examples(records, classes, below, split) for split in ("train", "val"))
        judged, bottleneck = (inputs(records, source, "val", "test") for source in (below, Array.load(paths.features)))
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
