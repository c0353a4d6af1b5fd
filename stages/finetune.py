"""Fine-tune the top of the backbone together with the head: the model "after".

Starts from the head's exact logits. What stays frozen runs once, in the engine; Keras trains only what is above, on its
outputs, which is the same mathematics. Reads data/, artifacts/prepare/, artifacts/extract_features/features.npy and
artifacts/train_head/head.h5; writes artifacts/finetune/: model.weights.h5 (the whole classifier), model.xml and .bin
(the same for OpenVINO), history.csv, predictions.csv (validation and test probabilities) and meta.json (disk that the
frozen part's outputs take, the epoch kept, the mixture). Learns on train, chooses on val, resumes after a kill.

With ``finetune: none`` nothing is learnt and no model written: the head's predictions are handed on as they are.

    python -m stages.finetune
    python -m stages.finetune finetune=none
"""

import math

from thaw.artifacts import Paths, read_json, write_json
from thaw.config.composing import command
from thaw.config.schema import Augment, Backbone, Finetune, HeadOnly
from thaw.data import manifest
from thaw.learning import curves, examples, finetuning, heads, predictions, training
from thaw.networks import adaptation, backbones, engine, features, inference, outputs, views


def run(
    paths: Paths,
    backbone: Backbone,
    augment: Augment,
    finetune: Finetune | HeadOnly,
    seed: int,
    report: curves.Report = curves.silent,
) -> None:
    """Build; unfreeze and fit at a low rate, step by step, each deeper; mix; predict with the best epoch; write.

    With ``HeadOnly``, none of it: see ``finetuning.hand_on``.
    """
    if isinstance(finetune, HeadOnly):
        with paths.stage("finetune", backbone=backbone, augment=augment, finetune=finetune, seed=seed) as out:
            finetuning.hand_on(paths, out)
        return
    records, classes, head = manifest.read(paths.manifest), read_json(paths.classes), heads.Head.load(paths.head)
    wanted = views.of(records, augment, seed)
    if finetune.batchnorm == "train":
        print("finetune: BatchNorm is trained as well; small batches can spoil what the network has learnt")
    with (
        training.resumable(backbone, augment, finetune, seed, paths.manifest, paths.head) as checkpoint,
        paths.stage("finetune", backbone=backbone, augment=augment, finetune=finetune, seed=seed) as out,
        finetuning.devices(finetune.devices),
    ):
        adapts = finetune.batchnorm == "adapt"
        statistics = adaptation.statistics(backbone, wanted, paths.data) if adapts else None
        model = finetuning.classifier(backbone, head, finetune.dropout, seed, statistics, finetune.precision)
        start = finetuning.weights(model) if finetune.mix else {}
        rates = finetuning.rates(model, backbone, finetune.block_decay)
        rows: list[curves.Row] = []  # of the learning curve
        for number, (step, first, boundary) in enumerate(finetuning.plan(model, backbone, finetune)):
            if number < checkpoint.step:
                continue  # an earlier run, which was stopped, has done it
            finetuning.unfreeze(model, first, batchnorm=finetune.batchnorm == "train")
            top = finetuning.above(model, boundary)
            network, output = backbones.FrozenNetwork.below(model, boundary, backbone, statistics)
            below = features.frozen(network, output, wanted, paths.data)
            train, val, judged = examples.of_splits(records, classes, below, views.mixes(wanted))
            if not rows and not adapts:
                bottleneck = examples.inputs(records, outputs.Array.load(paths.features), "val", "test")
                finetuning.check_start(training.logits(top, judged), head.logits(bottleneck.take()), finetune.precision)
            batches = math.ceil(len(train.y) / finetune.batch_size)
            training.compiled(top, training.adam(step, finetune, batches, rates), finetune.label_smoothing)
            weights = examples.class_weights(finetune.class_weights, classes, train.y)
            schedule = finetune.model_copy(update={"epochs": step.epochs})
            rows = training.fit(
                top, train, val, schedule, seed, checkpoint, weights=weights, step=number, rows=rows, report=report
            )
        share = finetuning.mix(top, start, finetune.mix, val)
        probabilities = inference.softmax(training.logits(top, judged))
        best = training.best_epoch(rows, finetune.monitor)
        model.save_weights(out / paths.model.name)
        engine.save_ir(model, 1, out / paths.network.name)
        curves.write(out / "history.csv", rows)
        predictions.write(out / "predictions.csv", classes, [records[row] for row in judged.rows], probabilities)
        made = {"epoch": best, "epochs": len(rows) - 1, "share": share}
        write_json(out / paths.stored("finetune").name, features.size(wanted, below.shape) | made)
    mixed = f", mixed {share:g} to {1 - share:g} with the weights before" if share < 1 else ""
    accuracy = rows[best]["val_accuracy"]
    print(f"finetune: validation accuracy {rows[0]['val_accuracy']:.4f} → {accuracy:.4f} in epoch {best}{mixed}")


if __name__ == "__main__":
    command(run, curves.live)
