"""Fine-tune the top of the backbone together with the head: the model "after".

Starts from the head's exact logits. What stays frozen runs once, in the engine; Keras trains only what is above, on its
outputs, which is the same mathematics. Reads data/, artifacts/prepare/, artifacts/extract_features/features.npy and
artifacts/train_head/head.h5; writes artifacts/finetune/: model.weights.h5 (the whole classifier), model.xml and .bin
(the same for OpenVINO), history.csv, predictions.csv (validation and test probabilities) and meta.json (what the frozen
part's outputs take, which epoch was kept and how it was mixed). Learns on train, keeps the best epoch on val, resumes
after a kill.

With ``finetune: none`` nothing is learnt and no model written: the head's predictions are handed on as they are.

    python -m stages.finetune
    python -m stages.finetune finetune=none
"""

import math
import shutil
from pathlib import Path

from thaw import adaptation, engine, examples, features, finetuning, heads, history, manifest, predictions, training
from thaw.artifacts import Paths, read_json, write_json
from thaw.backbones import FrozenNetwork
from thaw.config import Augment, Backbone, Finetune, HeadOnly, command
from thaw.examples import Array
from thaw.history import Row
from thaw.inference import softmax
from thaw.live import Report, curve, silent


def run(
    paths: Paths,
    backbone: Backbone,
    augment: Augment,
    finetune: Finetune | HeadOnly,
    seed: int,
    report: Report = silent,
) -> None:
    """Unfreeze, recompile at a low rate, fit, and predict with the best epoch; step by step, each deeper.

    With ``HeadOnly``, none of it: see ``hand_on``.
    """
    if isinstance(finetune, HeadOnly):
        with paths.stage("finetune", backbone=backbone, augment=augment, finetune=finetune, seed=seed) as out:
            hand_on(paths, out)
        return
    records, classes, head = manifest.read(paths.manifest), read_json(paths.classes), heads.Head.load(paths.head)
    wanted = features.views(records, augment, seed)
    mixes = features.mixes(wanted)
    if finetune.batchnorm == "train":
        print("finetune: BatchNorm is trained as well; small batches can spoil what the network has learnt")
    with (
        training.resumable(backbone, augment, finetune, seed, paths.manifest, paths.head) as checkpoint,
        paths.stage("finetune", backbone=backbone, augment=augment, finetune=finetune, seed=seed) as out,
        finetuning.devices(finetune.devices),
    ):
        statistics = None
        if finetune.batchnorm == "adapt":
            as_they_are = [views[0] for record, views in zip(records, wanted, strict=True) if record.split == "train"]
            statistics = adaptation.statistics(backbone, as_they_are, paths.data)
        model = finetuning.classifier(backbone, head, finetune.dropout, seed, statistics, finetune.precision)
        start = finetuning.weights(model) if finetune.mix else {}
        rates = finetuning.rates(model, backbone, finetune.block_decay)
        rows: list[Row] = []
        for number, (step, first, boundary) in enumerate(finetuning.plan(model, backbone, finetune)):
            if number < checkpoint.step:
                continue  # an earlier run, which was stopped, has done it
            finetuning.unfreeze(model, first, batchnorm=finetune.batchnorm == "train")
            top = finetuning.above(model, boundary)
            below = features.frozen(*FrozenNetwork.below(model, boundary, backbone, statistics), wanted, paths.data)
            train, val = (examples.examples(records, classes, below, split, mixes) for split in ("train", "val"))
            judged = examples.inputs(records, below, "val", "test")
            if not rows and statistics is None:
                bottleneck = examples.inputs(records, Array.load(paths.features), "val", "test")
                finetuning.check_start(training.logits(top, judged), head.logits(bottleneck.take()), finetune.precision)
            batches = math.ceil(len(train.y) / finetune.batch_size)
            training.compiled(top, training.adam(step, finetune, batches, rates), finetune.label_smoothing)
            weights = examples.class_weights(finetune.class_weights, classes, train.y)
            schedule = finetune.model_copy(update={"epochs": step.epochs})
            rows = training.fit(
                top, train, val, schedule, seed, checkpoint, weights=weights, step=number, rows=rows, report=report
            )
        share = finetuning.mix(top, start, finetune.mix, val)
        scores = training.logits(top, judged)
        model.save_weights(out / paths.model.name)
        engine.save_ir(model, 1, out / paths.network.name)
        history.write(out / "history.csv", rows)
        kept = [records[row] for row in judged.rows]
        predictions.write(out / "predictions.csv", classes, kept, softmax(scores))
        best = training.best_epoch(rows, finetune.monitor)
        made = {"epoch": best, "epochs": len(rows) - 1, "share": share}
        write_json(out / paths.stored("finetune").name, features.size(wanted, below.shape) | made)
    mixed = f", mixed {share:g} to {1 - share:g} with the weights before" if share < 1 else ""
    accuracy = rows[best]["val_accuracy"]
    print(f"finetune: validation accuracy {rows[0]['val_accuracy']:.4f} → {accuracy:.4f} in epoch {best}{mixed}")


def hand_on(paths: Paths, out: Path) -> None:
    """Make the model "before" the model "after": its predictions, and a curve that is where it starts."""
    records, classes, head = manifest.read(paths.manifest), read_json(paths.classes), heads.Head.load(paths.head)
    val = examples.examples(records, classes, Array.load(paths.features), "val")
    start = history.row(0, (math.nan, math.nan), training.score(head.logits(val.take()), val.y))
    history.write(out / "history.csv", [start])
    # Copied, not computed again: another order of the same sums would be another model in the last bit.
    shutil.copyfile(paths.predictions("train_head"), out / "predictions.csv")
    write_json(out / paths.stored("finetune").name, features.size([], ()) | {"epoch": 0, "epochs": 0, "share": 0.0})
    print(f"finetune: none; validation accuracy {start['val_accuracy']:.4f} stays as it is")


if __name__ == "__main__":
    command(run, curve)
