"""The answer for people: a self-contained HTML report, the model card, the table that ends ``make repro``, and the CSVs
of DVC's plots.

The report is HTML and SVG drawn by ``report.html.j2`` from what is laid out here: sharp at every size, the same bytes
for the same input (no dates, no absolute paths), and no plotting library to load. Only the photos are pixels.
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from thaw.architectures import ARCHITECTURES, HUB, named
from thaw.artifacts import write_text
from thaw.data import images
from thaw.evidence import comparison, plots, scoring
from thaw.evidence.layout import (
    class_table,
    confusions,
    figure_table,
    galleries,
    notes,
    slice_tables,
    split_table,
    stored_size,
)
from thaw.evidence.plots import Counts, confusion_matrix
from thaw.evidence.story import Story
from thaw.evidence.suspected import pictured
from thaw.evidence.wording import (
    answered,
    audited,
    coverage,
    cross_validated,
    first_upper,
    gaining,
    intervals,
    keeping,
    lagging,
    leaks,
    luck,
    more_images,
    needed,
    next_steps,
    other_splits,
    p_value,
    percent,
    plain,
    points,
    shortfall,
    tested,
    zero_shot,
)
from thaw.learning import curves
from thaw.networks import texts

REFUSED = 100  # refused files that are listed by name


def write_html(path: Path, story: Story) -> None:
    """Write the report as one HTML file that needs nothing beside it."""
    before, after = _confusion(story)
    shown = plots.worst(before, after)
    matrices = {
        name: confusion_matrix(counts, story.classes, shown) for name, counts in (("Before", before), ("After", after))
    }
    sure = story.metrics.get("sure", {})
    prompts = story.config["backbone"].get("prompts", []) if "zero_shot" in story.metrics else []
    page = _render(
        "report.html.j2",
        story,
        tracks=plots.tracks(story.metrics),
        growth=plots.growth(story.forecast) if story.forecast else None,
        gaining=gaining(story),
        spread=story.spread,
        others=plots.other_splits(story.spread) if story.spread else None,
        forecast=story.forecast,
        risk=plots.risk(scoring.risk_coverage(*story.kept), sure.get("coverage")),
        curves=plots.learning_curves(story.curves if story.tuned else {"train_head": story.curves["train_head"]}),
        rungs=plots.rungs(story.stored["finetune"].get("tried", [])),
        plot=plots.PLOT,
        shown=shown,
        matrices=matrices if story.tuned else {"The head": matrices["Before"]},
        confusions=confusions(before, after, story.classes),
        slices=slice_tables(story.metrics, story.config["evaluate"]["confidence"])
        if "slices" in story.metrics
        else None,
        galleries=galleries(story),
        suspected=pictured(story.findings, story.data),
        kinds=story.prepared["refused"],
        refused=story.refused[:REFUSED],
        stored=stored_size(story.stored),
        prompts=prompts,
        asked=zip(story.classes, texts.asked(prompts[:1], story.classes), strict=True),
    )
    write_text(path, page)


def card(story: Story) -> str:
    """Return the model card (Markdown; Mitchell et al. 2019, arXiv:1810.03993): data, figures, limits, licence."""
    network, weights = (story.config["backbone"][key] for key in ("network", "weights"))
    architecture = ARCHITECTURES.get(network)
    unknown = (
        f"that of {weights}, which its page says" if network == HUB else "that of the file, which thaw does not know"
    )
    licence = {
        "imagenet": architecture and f"{architecture.licence}, as Keras distributes them",
        "bundled": "trained on Tiny ImageNet, whose terms are non-commercial research; the code is Apache-2.0",
        "random": "none: they were never trained",
    }.get(weights, unknown)
    tested = [row for row in split_table(story.prepared["images"], story.classes)[:-1] if row["test"]]
    fewest = min(tested, key=lambda row: row["test"])
    return _render(
        "card.md.j2",
        story,
        network=named(story.config["backbone"]),
        licence=licence,
        fewest=fewest,
        formats=images.READ,
    )


def _render(template: str, story: Story, **more: Any) -> str:
    """Fill a template with what the report and the card both tell, and ``more``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., str]] = {
        one.__name__: one for one in (percent, points, p_value, plain, first_upper)
    }
    environment.filters |= filters
    environment.globals |= {"percent": percent, "points": points}
    return environment.get_template(template).render(
        metrics=story.metrics,
        tuned=story.tuned,
        confidence=story.config["evaluate"]["confidence"],
        shortfall=shortfall(story.metrics, story.config["evaluate"]["confidence"]) if story.few else [],
        cross_validated=cross_validated(story.metrics),
        luck=luck(story.metrics),
        zero_shot=zero_shot(story.metrics, story.config["evaluate"]["confidence"]),
        intervals=intervals(story),
        coverage=coverage(story.prepared["images"]),
        classes=story.classes,
        figures=figure_table(story.metrics, tested=len(np.unique(story.test.labels))),
        by_class=class_table(*_confusion(story), story),
        needed=needed(story.metrics),
        more_images=more_images(story.forecast),
        answered=answered(story.metrics),
        leaks=leaks(story.metrics),
        lagging=lagging(story.metrics, story.config["evaluate"]["confidence"]),
        grouped=story.grouped,
        counted=comparison.counted(story.metrics),
        tested=tested(story.metrics),
        audited=audited(story.findings, story.config["evaluate"]["confidence"]),
        wanted=story.config["evaluate"]["sure_enough"],
        notes=notes(story.prepared, story.config["dataset"]),
        splits=split_table(story.prepared["images"], story.classes),
        keeping=keeping(story.metrics),
        config=story.config,
        **more,
    )


def _confusion(story: Story) -> tuple[Counts, Counts]:
    """Count the test images by true and predicted class, before and after."""
    before, after = (
        scoring.confusion(story.test.labels, probabilities.argmax(1), len(story.classes))
        for probabilities in (story.test.before, story.test.after)
    )
    return before, after


def write_plots(folder: Path, story: Story) -> None:
    """Write what ``dvc plots`` draws: a curve_….csv, confusion_….csv and reliability_….csv of either model, the
    risk_coverage.csv of the kept one, learning_curve.csv (its last row is the forecast), splits.csv (its last row is
    the run's own split) and slices.csv.
    """
    folder.mkdir()
    classes, test = story.classes, story.test
    for model, probabilities, curve in (
        ("head", test.before, story.curves["train_head"]),
        ("finetuned", test.after, story.curves["finetune"]),
    ):
        curves.write(folder / f"curve_{model}.csv", curve)
        pairs = zip(test.labels, probabilities.argmax(1), strict=True)
        rows = ([classes[actual], classes[predicted]] for actual, predicted in pairs)
        _write_csv(folder / f"confusion_{model}.csv", ["actual", "predicted"], rows)
        bins = scoring.reliability(test.labels, probabilities)
        values = ([f"{share:.6g}" for share in (one.confidence, one.accuracy)] + [one.images] for one in bins)
        _write_csv(folder / f"reliability_{model}.csv", ["confidence", "accuracy", "images"], values)
    rows = ([f"{value:.6g}" for value in one] for one in scoring.risk_coverage(*story.kept))
    _write_csv(folder / "risk_coverage.csv", ["coverage", "accuracy", "confidence"], rows)
    known = [*story.forecast.curve, story.forecast.doubled] if story.forecast else []
    measured = ([one.images, *(f"{value:.6g}" for value in (one.accuracy, *one.interval))] for one in known)
    _write_csv(folder / "learning_curve.csv", ["images", "accuracy", "low", "high"], measured)
    if slices := story.metrics.get("slices"):
        keys = [key for key in slices[0] if key not in ("column", "value")]
        named = ([f"{one['column']}: {one['value']}", *(one[key] for key in keys)] for one in slices)
        _write_csv(folder / "slices.csv", ["slice", *keys], named)
    rows = ([name, images, f"{value:.6g}"] for name, images, value in (story.spread.rows() if story.spread else []))
    _write_csv(folder / "splits.csv", ["split", "images", "accuracy"], rows)


def summary(story: Story) -> str:
    """Return the table that ends ``make repro``; of few test images, the ranges come first."""
    metrics, confidence = story.metrics, story.config["evaluate"]["confidence"]

    def row(name: str, model: str, show: Callable[[float], str], note: str = "") -> str:
        value, low, high = (show(metrics[model][key]) for key in ("accuracy", "accuracy_low", "accuracy_high"))
        return columns(name, value, f"{low} to {high}", note)

    def columns(name: str, value: str, interval: str, note: str = "") -> str:
        if story.few:
            return f"{name:<20}{interval:>16}{value:>11}{note}"
        return f"{name:<20}{value:>9}   {interval}{note}"

    untrained = [row("zero-shot (names)", "zero_shot", percent)] if "zero_shot" in metrics else []
    if story.tuned:
        answer = [
            row("before (head only)", "head", percent),
            row("after fine-tuning", "finetuned", percent),
            row("difference", "delta", points, " percentage points"),
            "",
            f"Verdict: {metrics['verdict']} ({tested(metrics)} = {p_value(metrics['mcnemar_p'])}; "
            f"{metrics['fixed']} images fixed, {metrics['broken']} broken)",
        ]
    else:
        answer = [
            row("head only", "head", percent),
            "",
            f"Verdict: {metrics['verdict']} (finetune: none), so before and after are the same model",
        ]
    return "\n".join(
        [
            *([*shortfall(metrics, confidence), ""] if story.few else []),
            *([comparison.counted(metrics)] if story.grouped else []),
            columns("" if story.grouped else comparison.counted(metrics), "accuracy", f"{confidence:.0%} interval"),
            *untrained,
            *answer,
            f"Kept: {keeping(metrics)}",
            *filter(
                None,
                [
                    zero_shot(metrics, confidence),
                    leaks(metrics),
                    *other_splits(story),
                    *_first(lagging(metrics, confidence)),
                ],
            ),
            *next_steps(story),
            *coverage(story.prepared["images"]),
            "",
            "The report     artifacts/evaluate/report.html",
            "The model      artifacts/evaluate/model; python -m stages.predict PHOTO uses it",
            "All runs       make ui",
            "Your photos    make data FROM=FOLDER, then make repro",
            "",
        ]
    )


def _first(sentences: Sequence[str]) -> list[str]:
    """Return the first sentence, with how many more there are."""
    more = len(sentences) - 1
    return [f"{sentences[0]}{f'; {more} more in the report' if more else ''}"] if sentences else []


def _write_csv(path: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
