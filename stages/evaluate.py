"""Compare the models before and after fine-tuning: the only stage that looks at the labels of the test images.

Reads artifacts/prepare/, both predictions and learning curves, what every stage was configured with, and of data/ the
images to show. Writes artifacts/evaluate/: metrics.json (the few figures that people compare), figures.json (all),
plots/ and environment.json, which are small and belong in Git; report.html, summary.txt and model/ (the model that is
kept, ready to use). Then publishes the finished run to MLflow and prints the summary. Needs no TensorFlow.

    python -m stages.evaluate
"""

import csv
from collections.abc import Mapping

import numpy as np

from thaw import evidence, examples, history, machine, manifest, portable, predictions, report, tracking
from thaw.artifacts import Paths, read_json, write_json, write_text
from thaw.config import Evaluate, command, recorded
from thaw.errors import UserError
from thaw.evidence import Pair
from thaw.heads import Head
from thaw.manifest import Record, Split
from thaw.portable import Facts
from thaw.predictions import Predictions

MODELS = ("train_head", "finetune")


def run(paths: Paths, evaluate: Evaluate, seed: int) -> None:
    """Compare, write, publish, and say what came out.

    Raises:
        UserError: the stages before do not fit together, or MLflow's address is unusable.
    """
    tracking.store()  # a wrong address is said before the work, not after it
    config = recorded(paths, evaluate=evaluate, seed=seed)
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    predicted = {stage: predictions.read(paths.predictions(stage)) for stage in MODELS}
    val, test = (pair(predicted, records, classes, split) for split in ("val", "test"))
    tuned = config["finetune"]["unfreeze"] != "none"
    figures = evidence.compare(val, test, seed=seed, tuned=tuned, **evaluate.model_dump())
    summary = report.summary(figures, evaluate.confidence)
    with paths.refused.open(newline="", encoding="utf-8") as file:
        refused = list(csv.DictReader(file))
    story = report.Story(
        metrics=figures,
        classes=classes,
        paths=[record.path for record in records if record.split == "test"],
        test=test,
        curves={stage: history.read(paths.history(stage)) for stage in MODELS},
        prepared=read_json(paths.manifest.with_name("summary.json")),
        refused=refused,
        stored={stage: read_json(paths.stored(stage)) for stage in ("extract_features", "finetune")},
        config=config,
        data=paths.data,
    )
    with paths.stage("evaluate", evaluate=evaluate, seed=seed) as out:
        write_json(out / paths.figures.name, figures)
        write_json(out / paths.metrics.name, evidence.metrics(figures))
        write_json(out / paths.environment.name, machine.environment())
        report.write_plots(out / "plots", story)
        report.write_html(out / paths.report.name, story)
        write_text(out / paths.summary.name, summary)
        backbone = config["backbone"]
        facts = Facts(classes, backbone["input_size"], backbone["precision"], figures["temperature"])
        card = report.card(story)
        if figures["kept"] == "head":
            portable.write(out / paths.finished.name, paths.backbone, facts, card, Head.load(paths.head).layers)
        else:
            portable.write(out / paths.finished.name, paths.network, facts, card)
    tracking.publish(paths, config)
    print(summary, end="")


def pair(predicted: Mapping[str, Predictions], records: list[Record], classes: list[str], split: Split) -> Pair:
    """Bring both models' probabilities for the images of ``split`` into the manifest's order.

    Raises:
        UserError: predictions are of other images or classes than the manifest's, or are no numbers.
    """
    chosen = [record for record in records if record.split == split]
    expected = {record.path for record in chosen}
    probabilities = []
    for stage, of_stage in predicted.items():
        rows = {path: row for row, path in enumerate(of_stage.paths) if of_stage.splits[row] == split}
        if of_stage.classes != classes or set(rows) != expected:
            differing = set(rows) ^ expected
            raise UserError(
                f"{stage}/predictions.csv: expected the {len(expected)} {split} images and the {len(classes)} classes "
                f"of prepare, found {len(rows)} images and {len(of_stage.classes)} classes"
                f"{f' (only one of both has {min(differing)!r})' if differing else ''}; run 'dvc repro'"
            )
        values = of_stage.probabilities[[rows[record.path] for record in chosen]]
        if not np.isfinite(values).all():
            raise UserError(
                f"{stage}/predictions.csv: expected probabilities, found values that are no numbers: training has "
                f"diverged; lower the learning_rate in conf/{stage}/ and run 'dvc repro'"
            )
        probabilities.append(values)
    return Pair(examples.labels(chosen, classes), *probabilities)


if __name__ == "__main__":
    command(run)
