"""Compare the models before and after fine-tuning: the only stage that judges models by the test images.

Reads artifacts/prepare/, the audit's findings, both predictions and learning curves, what every stage was configured
with, of data/ the images to show, and the features: heads on parts of them say what more images would bring, and heads
on other splits whether this one was lucky. Writes artifacts/evaluate/: metrics.json (the few figures that people
compare), figures.json (all), plots/ and environment.json, which are small and belong in Git; report.html, summary.txt
and model/ (the model that is kept, ready to use). Then publishes the finished run to MLflow and prints the summary.
Needs no TensorFlow.

    python -m stages.evaluate
"""

import numpy as np

from thaw import machine
from thaw.artifacts import Paths, read_json, write_json, write_text
from thaw.config.composing import command, recorded
from thaw.config.schema import Evaluate
from thaw.data import corrections, manifest
from thaw.evidence import comparison, forecasting, report, slices, splits, zeroshot
from thaw.evidence.story import tell
from thaw.learning import predictions, subsets
from thaw.learning.heads import Head
from thaw.models import portable
from thaw.models.portable import Facts
from thaw.runs import publishing, store

MODELS = ("train_head", "finetune")


def run(paths: Paths, evaluate: Evaluate, seed: int) -> None:
    """Compare, write, publish, and say what came out.

    Raises:
        UserError: the stages before do not fit together, or MLflow's address is unusable.
    """
    store.address()  # a wrong address is said before the work, not after it
    config = recorded(paths, evaluate=evaluate, seed=seed)
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    grouped = corrections.group(records, corrections.read(paths.copies))  # so that no copy answers for another
    predicted = {stage: predictions.read(paths.predictions(stage)) for stage in MODELS}
    val, test = (comparison.pair(predicted, grouped, classes, split) for split in ("val", "test"))
    tuned = config["finetune"]["unfreeze"] != "none"
    figures = comparison.compare(val, test, seed=seed, tuned=tuned, **evaluate.model_dump(exclude={"splits"}))
    figures |= zeroshot.measured(paths, grouped, val, test, evaluate, seed)
    spread = splits.measure(paths, grouped, classes, config)
    figures |= {"cross_validated": spread.figures()} if spread else {}
    measured = subsets.measure(paths.features, grouped, classes, config["train_head"]["class_weights"], seed)
    forecast = measured and forecasting.forecast(measured, evaluate.confidence, seed)
    figures |= {"forecast": forecast.figures()} if forecast else {}
    leaked = set(read_json(paths.findings)["leaked"])
    alone = np.array([one.path not in leaked for one in records if one.split == "test"])
    figures |= {} if alone.all() else {"without_copies": comparison.among(test, alone, evaluate.confidence)}
    figures |= slices.measured(test, records, figures, evaluate.confidence)
    story = tell(paths, classes, records, test, figures, forecast, spread, config)
    summary = report.summary(story)
    with paths.stage("evaluate", evaluate=evaluate, seed=seed) as out:
        write_json(out / paths.figures.name, figures)
        write_json(out / paths.metrics.name, comparison.metrics(figures))
        write_json(out / paths.environment.name, machine.environment())
        report.write_plots(out / "plots", story)
        report.write_html(out / paths.report.name, story)
        write_text(out / paths.summary.name, summary)
        backbone = config["backbone"]
        sure = figures.get("sure", {"threshold": None})["threshold"]
        how = (backbone["input_size"], backbone["precision"], figures["temperature"], backbone["fit"], sure)
        facts = Facts(classes, *how)
        is_head = figures["kept"] == "head"
        network, layers = (paths.backbone, Head.load(paths.head).layers) if is_head else (paths.network, [])
        portable.write(out / paths.finished.name, network, facts, report.card(story), layers)
    paths.verification.unlink(missing_ok=True)  # of another result; 'make repro' and 'make verify' draw it anew
    publishing.publish(paths, config)
    print(summary, end="")


if __name__ == "__main__":
    command(run)
