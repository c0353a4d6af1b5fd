"""Fine-tune the top of the backbone together with the head: the model "after".

Starts from the head's exact logits. What stays frozen runs once, in the engine; Keras trains only what is above, on its
outputs, which is the same mathematics. Reads data/, artifacts/prepare/, artifacts/extract_features/features.npy and
artifacts/train_head/head.h5; writes artifacts/finetune/: model.weights.h5 (the whole classifier), model.xml and .bin
(the same for OpenVINO), history.csv, predictions.csv and .npy (of the validation and test images) and meta.json (disk
that the frozen part's outputs take, what was tried and kept). Learns on train, chooses on val, resumes after a kill.

With ``finetune: none`` nothing is learnt and no model written: the head's predictions are handed on as they are.

    python -m stages.finetune
    python -m stages.finetune finetune=none
"""

from thaw.artifacts import Paths, read_json, write_json
from thaw.config.composing import command
from thaw.config.schema import Augment, Auto, Backbone, Finetune, HeadOnly
from thaw.data import manifest
from thaw.learning import curves, examples, finetuning, heads, lora, policy, predictions, training
from thaw.networks import adaptation, backbones, cutting, engine, features, inference, outputs, views


def run(
    paths: Paths,
    backbone: Backbone,
    augment: Augment,
    finetune: Finetune | Auto | HeadOnly,
    seed: int,
    report: curves.Report = curves.silent,
) -> None:
    """Build; unfreeze and fit, rung by rung, each deeper; keep of each what validation asks for; predict; write.

    With ``HeadOnly``, none of it: see ``finetuning.hand_on``.
    """
    if isinstance(finetune, HeadOnly):
        with paths.stage("finetune", backbone=backbone, augment=augment, finetune=finetune, seed=seed) as out:
            finetuning.hand_on(paths, out)
        return
    records, classes, head = manifest.read(paths.manifest), read_json(paths.classes), heads.Head.load(paths.head)
    wanted = views.of(records, augment, seed)
    with (
        training.resumable(backbone, augment, finetune, seed, paths.manifest, paths.head) as checkpoint,
        paths.stage("finetune", backbone=backbone, augment=augment, finetune=finetune, seed=seed) as out,
        finetuning.devices(finetune.devices),
    ):
        adapts = finetune.batchnorm == "adapt"
        statistics = adaptation.statistics(backbone, wanted, paths.data) if adapts else None
        model = finetuning.classifier(backbone, head, finetune.dropout, seed, statistics, finetune.precision)
        images = sum(record.split == "train" for record in records)
        story = checkpoint.story or {"rung": 0, "steps": 0, "rows": [], "tried": []}
        for number, planned in enumerate(policy.rungs(finetune, model, backbone, images)):
            if number < story["rung"]:
                continue  # an earlier run, which was stopped, has done it
            first = cutting.first_layer(model, backbone, planned.unfreeze)
            boundary = cutting.cut(model, first, finetune.batchnorm == "train")
            finetuning.unfreeze(model, first, finetune.batchnorm == "train", finetune.lora, seed)
            top = finetuning.above(model, boundary)
            network, output = backbones.FrozenNetwork.below(model, boundary, backbone, statistics)
            below = features.frozen(network, output, wanted, paths.data)
            train, chosen_by, judged = examples.of_splits(records, classes, below, views.mixes(wanted))
            val = training.Validation(chosen_by)
            if not story["rows"] and not adapts:
                bottleneck = examples.inputs(records, outputs.Saved(paths.features), "val")
                finetuning.check_start(top, chosen_by, head, bottleneck, finetune.precision)
            rung = policy.paced(planned, finetune, top, train, seed, story)
            rates = finetuning.rates(model, backbone, finetune.block_decay)
            optimizer = training.adam(rung, rates, finetune.weight_decay)
            before = training.fit(
                top, optimizer, train, val, rung, seed, checkpoint, story,
                label_smoothing=finetune.label_smoothing,
                class_weights=examples.class_weights(finetune.class_weights, classes, train.y), report=report,
            )  # fmt: skip
            before = lora.merge(top, before)
            if isinstance(finetune, Auto):
                story["tried"].append(policy.settle(top, before, val, rung))
                if not story["tried"][-1]["share"]:
                    break
            story |= {"rung": number + 1, "steps": 0}
        probabilities = inference.softmax(val.logits_among(top, judged))
        model.save_weights(out / paths.model.name)
        engine.save_ir(model, 1, out / paths.network.name)
        curves.write(out / "history.csv", story["rows"])
        predictions.write(out / "predictions.csv", classes, [records[row] for row in judged.rows], probabilities)
        made = {"epochs": len(story["rows"]) - 1, "tried": story["tried"]}
        write_json(out / paths.stored("finetune").name, features.size(wanted, below.shape) | made)
    print(f"finetune: {policy.outcome(story)}")


if __name__ == "__main__":
    command(run, curves.live)
