"""The answer for people: a self-contained HTML report, the model card, the table that ends ``make repro``, and the CSVs
of DVC's plots.

The report is HTML and SVG drawn by ``report.html.j2`` from what is laid out here: sharp at every size, the same bytes
for the same input (no dates, no absolute paths), and no plotting library to load. Only the photos are pixels.
"""

import base64
import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from thaw import evidence, history, images
from thaw.architectures import ARCHITECTURES
from thaw.artifacts import write_text
from thaw.evidence import Pair
from thaw.history import Row

Counts = NDArray[np.int64]

GALLERY = 12  # pictures in each
REFUSED = 100  # refused files that are listed by name
CONFUSIONS = 10  # pairs of classes in the list of the most frequent confusions
_THUMBNAIL = 240  # pixels of the longer side, for sharp screens
_PIXEL_ART = 64  # images up to this size stay as they are and are enlarged without smoothing
_PLOT = (390, 210, 40, 12, 12, 34)  # a learning curve: width, height, then its margins left, right, top and bottom

# Key of figures.json, name, meaning, whether smaller is better, whether it is a share (shown as a percentage).
_FIGURES = (
    ("accuracy", "Accuracy", "share of images whose most probable class is right", False, True),
    ("macro_f1", "Macro F1", "mean F1 of the classes: a small class counts as much as a large one", False, True),
    ("top_3", "Top 3", "share of images whose true class is among the three most probable", False, True),
    ("ece", "Calibration error", "mean gap between how sure the model is and how often it is right", True, True),
    ("brier", "Brier score", "squared error of the probabilities, 0 is perfect", True, False),
    ("log_loss", "Log loss", "surprise at the true class in nats, 0 is perfect", True, False),
    ("val_accuracy", "Validation accuracy", "on the images that chose the settings, so it flatters", False, True),
)


@dataclass(frozen=True)
class Story:
    """All that the report tells.

    Attributes:
        metrics: what ``evidence.compare`` returned.
        classes: the class names.
        paths: the test images, relative to ``data``, in the order of ``test``.
        test: both models' probabilities for them.
        curves: ``history.csv`` by stage.
        prepared: ``summary.json`` of prepare: images by split and class, refused files by kind, duplicates, splits.
        refused: rows of ``refused.csv``: path, reason.
        stored: ``meta.json`` by stage: what the network outputs that it used take in the feature store.
        config: the resolved configuration by section.
        data: the folder of the images.
    """

    metrics: Mapping[str, Any]
    classes: list[str]
    paths: list[str]
    test: Pair
    curves: Mapping[str, list[Row]]
    prepared: Mapping[str, Any]
    refused: Sequence[Mapping[str, str]]
    stored: Mapping[str, Mapping[str, Any]]
    config: Mapping[str, Any]
    data: Path

    @property
    def tuned(self) -> bool:
        """Whether there are two models to tell of; else all that is shown is "before"."""
        return evidence.is_tuned(self.metrics)


def write_html(path: Path, story: Story) -> None:
    """Write the report as one HTML file that needs nothing beside it."""
    before, after = _confusion(story)
    matrices = {"Before": _matrix(before, story.classes), "After": _matrix(after, story.classes)}
    page = _render(
        "report.html.j2",
        story,
        tracks=_tracks(story.metrics),
        curves=_curves(story.curves if story.tuned else {"train_head": story.curves["train_head"]}),
        plot=_PLOT,
        matrices=matrices if story.tuned else {"The head": matrices["Before"]},
        confusions=_confusions(before, after, story.classes),
        galleries=_galleries(story),
        kinds=story.prepared["refused"],
        refused=story.refused[:REFUSED],
        stored=_stored(story.stored),
    )
    write_text(path, page)


def card(story: Story) -> str:
    """Return the model card (Markdown; Mitchell et al. 2019, arXiv:1810.03993): data, figures, limits, licence."""
    architecture = ARCHITECTURES.get(story.config["backbone"]["network"])
    licence = {
        "imagenet": architecture and f"{architecture.licence}, as Keras distributes them",
        "bundled": "trained on Tiny ImageNet, whose terms are non-commercial research; the code is Apache-2.0",
        "random": "none: they were never trained",
    }.get(story.config["backbone"]["weights"], "that of the file, which thaw does not know")
    fewest = min(_splits(story.prepared["images"], story.classes)[:-1], key=lambda row: row["test"])
    return _render("card.md.j2", story, licence=licence, fewest=fewest)


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
    environment.filters |= {"percent": percent, "points": points, "p_value": p_value, "plain": plain}
    return environment.get_template(template).render(
        metrics=story.metrics,
        tuned=story.tuned,
        confidence=story.config["evaluate"]["confidence"],
        classes=story.classes,
        figures=_figures(story.metrics),
        by_class=_by_class(*_confusion(story), story.classes),
        notes=_notes(story.prepared, story.config["dataset"]),
        splits=_splits(story.prepared["images"], story.classes),
        keeping=keeping(story.metrics),
        config=story.config,
        **more,
    )


def _confusion(story: Story) -> tuple[Counts, Counts]:
    """Count the test images by true and predicted class, before and after."""
    before, after = (
        evidence.confusion(story.test.labels, probabilities.argmax(1), len(story.classes))
        for probabilities in (story.test.before, story.test.after)
    )
    return before, after


def write_plots(folder: Path, story: Story) -> None:
    """Write what ``dvc plots`` draws: a curve_….csv, confusion_….csv and reliability_….csv of either model."""
    folder.mkdir()
    classes, test = story.classes, story.test
    for model, probabilities, curve in (
        ("head", test.before, story.curves["train_head"]),
        ("finetuned", test.after, story.curves["finetune"]),
    ):
        history.write(folder / f"curve_{model}.csv", curve)
        pairs = zip(test.labels, probabilities.argmax(1), strict=True)
        rows = ([classes[actual], classes[predicted]] for actual, predicted in pairs)
        _write_csv(folder / f"confusion_{model}.csv", ["actual", "predicted"], rows)
        bins = evidence.reliability(test.labels, probabilities)
        values = ([f"{share:.6g}" for share in (one.confidence, one.accuracy)] + [one.images] for one in bins)
        _write_csv(folder / f"reliability_{model}.csv", ["confidence", "accuracy", "images"], values)


def summary(metrics: Mapping[str, Any], confidence: float) -> str:
    """Return the table that ends ``make repro``."""

    def row(name: str, model: str, show: Callable[[float], str], note: str = "") -> str:
        value, low, high = (show(metrics[model][key]) for key in ("accuracy", "accuracy_low", "accuracy_high"))
        return f"{name:<20}{value:>9}   {low} to {high}{note}"

    if evidence.is_tuned(metrics):
        answer = [
            row("before (head only)", "head", percent),
            row("after fine-tuning", "finetuned", percent),
            row("difference", "delta", points, " percentage points"),
            "",
            f"Verdict: {metrics['verdict']} (McNemar's exact p = {p_value(metrics['mcnemar_p'])}; "
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
            f"{metrics['n_test']} test images".ljust(20) + f"{'accuracy':>9}   {confidence:.0%} interval",
            *answer,
            f"Kept: {keeping(metrics)}",
            "",
            "The report     artifacts/evaluate/report.html",
            "The model      artifacts/evaluate/model; python -m stages.predict PHOTO uses it",
            "All runs       make ui",
            "Your photos    make data FROM=FOLDER, then make repro",
            "",
        ]
    )


def keeping(metrics: Mapping[str, Any]) -> str:
    """Say which model is kept, and why."""
    name = {"head": "the head alone", "finetuned": "the fine-tuned model"}[metrics["kept"]]
    before, after = (percent(metrics[model]["val_accuracy"]) for model in ("head", "finetuned"))
    if not evidence.is_tuned(metrics):
        return f"{name} (validation accuracy {before})"
    return f"{name} (validation accuracy {before} before, {after} after)"


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{value:.1%}"


def points(value: float) -> str:
    """Return a difference of shares in percentage points, with its sign unless it rounds to zero."""
    return _minus(f"{100 * value:+.1f}") if abs(value) >= 0.0005 else "0.0"


def p_value(value: float) -> str:
    """Return a p-value to three decimals, or its order of magnitude."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e-")


def plain(value: Any) -> str:
    """Return a configured value as people write it; of an absolute path, the last part only."""
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items() if inner is not None)
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _write_csv(path: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def _figures(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay out the table of all figures: for each its texts before, after and of the difference, and who is better."""
    columns = 3 if evidence.is_tuned(metrics) else 1
    table = []
    for key, name, meaning, smaller_is_better, is_share in _FIGURES:
        if key not in metrics["head"]:
            continue
        level: Callable[[float], str] = percent if is_share else "{:.3f}".format
        change: Callable[[float], str] = points if is_share else lambda value: _minus(f"{value:+.3f}")
        cells = []
        for model, show in (("head", level), ("finetuned", level), ("delta", change))[:columns]:
            ends = [show(metrics[model][f"{key}_{end}"]) for end in ("low", "high") if f"{key}_{end}" in metrics[model]]
            cells.append({"value": show(metrics[model][key]), "interval": " to ".join(ends)})
        gain = metrics["delta"][key] * (-1 if smaller_is_better else 1)
        tone = "better" if gain > 0 else "worse" if gain < 0 else "same"
        table.append({"name": name, "meaning": meaning, "cells": cells, "tone": tone})
    return table


def _tracks(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay out the dot-and-interval plots: one of both models, one of their difference with its zero line."""
    figures = {"accuracy": "Accuracy", "macro_f1": "Macro F1"}
    if not evidence.is_tuned(metrics):
        alone = [(name, "before", metrics["head"], key) for key, name in figures.items()]
        return [_track("On the test images", alone, percent, "{:g}%".format, [])]
    models = {"head": "before", "finetuned": "after"}
    levels = [
        (f"{name} {tone}", tone, metrics[model], key) for key, name in figures.items() for model, tone in models.items()
    ]
    changes = [(name, "change", metrics["delta"], key) for key, name in figures.items()]
    return [
        _track("On the test images", levels, percent, "{:g}%".format, []),
        _track(
            "Difference, in percentage points",
            changes,
            points,
            lambda value: _minus(f"{value:+g}") if value else "0",
            [0.0],
        ),
    ]


def _track(
    title: str,
    rows: Sequence[tuple[str, str, Mapping[str, float], str]],
    show: Callable[[float], str],
    show_tick: Callable[[float], str],
    lines: Sequence[float],
) -> dict[str, Any]:
    """Lay out rows of (name, tone, figures, key) on a common axis; positions are percentages of its width."""
    ticks = _ticks([*(figures[f"{key}_{end}"] for *_, figures, key in rows for end in ("low", "high")), *lines], 4)

    def at(value: float) -> float:
        return round(100 * (value - ticks[0]) / (ticks[-1] - ticks[0]), 2)

    return {
        "title": title,
        "ticks": [(at(tick), show_tick(round(100 * tick, 6))) for tick in ticks],
        "lines": [at(line) for line in lines],
        "rows": [
            {
                "name": name,
                "tone": tone,
                "at": at(figures[key]),
                "low": at(figures[f"{key}_low"]),
                "width": round(at(figures[f"{key}_high"]) - at(figures[f"{key}_low"]), 2),
                "text": show(figures[key]),
                "interval": f"{show(figures[f'{key}_low'])} to {show(figures[f'{key}_high'])}",
            }
            for name, tone, figures, key in rows
        ],
    }


def _ticks(values: Iterable[float], about: int) -> list[float]:
    """Return about so many round numbers that enclose ``values``: steps of 1, 2 or 5 times a power of ten."""
    values = list(values)
    low, high = min(values), max(values)
    least = max(high - low, 1e-3 * abs(high), 1e-6) / about
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _curves(curves: Mapping[str, list[Row]]) -> list[dict[str, Any]]:
    """Lay out the learning curves; the same figure has the same axis in both, so that they can be compared."""
    names = {"train_head": "Before: the head", "finetune": "After: fine-tuning"} if len(curves) > 1 else {}
    panels = []
    for stage, rows in curves.items():
        # A row of the L-BFGS solver is a candidate for the regularisation and no epoch.
        solved = "inverse_l2" in rows[0]
        labels = [f"{row['inverse_l2' if solved else 'step']:g}" for row in rows]
        kept = min(range(len(rows)), key=lambda place: (_or_infinity(rows[place]["val_loss"]), place))
        for figure in ("accuracy", "loss"):
            every = [row[key] for rs in curves.values() for row in rs for key in (figure, f"val_{figure}")]
            ticks = _ticks([value for value in every if math.isfinite(value)] or [0, 1], 4)
            series = {tone: [row[key] for row in rows] for tone, key in (("train", figure), ("val", f"val_{figure}"))}
            title = f"{names.get(stage, 'The head')}, {figure}"
            x_title = "inverse regularisation (1/λ)" if solved else "epoch"
            panels.append(_panel(title, x_title, labels, series, ticks, kept, figure == "accuracy"))
    return panels


def _or_infinity(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _panel(
    title: str,
    x_title: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    ticks: Sequence[float],
    kept: int,
    is_share: bool,
) -> dict[str, Any]:
    """Lay out one learning curve in the pixels of ``_PLOT``; ``kept`` is the row whose model was kept."""
    width, height, left, right, top, bottom = _PLOT
    across = [
        left + (width - left - right) * (0.5 if len(labels) == 1 else i / (len(labels) - 1)) for i in range(len(labels))
    ]

    def down(value: float) -> float:
        return round(top + (height - top - bottom) * (ticks[-1] - value) / (ticks[-1] - ticks[0]), 1)

    every = math.ceil(len(labels) / 7)
    dots = {
        tone: [(round(x, 1), down(value)) for x, value in zip(across, values, strict=True) if math.isfinite(value)]
        for tone, values in series.items()
    }
    return {
        "title": title,
        "x_title": x_title,
        "x": [(round(x, 1), label) for i, (x, label) in enumerate(zip(across, labels, strict=True)) if i % every == 0],
        "y": [(down(tick), f"{100 * tick:g}%" if is_share else f"{tick:g}") for tick in ticks],
        "dots": dots,
        "kept": round(across[kept], 1),
    }


def _matrix(counts: Counts, classes: list[str]) -> dict[str, Any]:
    """Lay out a confusion matrix in pixels; cells without images are left out, small cells carry no number."""
    cell = next(size for limit, size in ((6, 48), (12, 36), (25, 24), (10_000, 15)) if len(classes) <= limit)
    names = [name if len(name) <= 16 else f"{name[:15]}…" for name in classes]
    margin = 14 + round(6.4 * max(map(len, names)))
    cells = []
    for row, column in np.argwhere(counts).tolist():
        share = counts[row, column] / counts[row].sum()
        cells.append(
            {
                "x": margin + column * cell,
                "y": margin + row * cell,
                "right": row == column,
                # Even a single error among hundreds has to be seen.
                "opacity": round(0.12 + 0.88 * share, 2),
                "dark": bool(share > 0.5),
                "count": int(counts[row, column]),
                "text": f"{counts[row, column]} of {counts[row].sum()} {classes[row]}: {classes[column]}",
            }
        )
    return {
        "cell": cell,
        "margin": margin,
        "size": margin + cell * len(classes) + 8,
        "names": names,
        # Column names stand upright where they do not fit their column.
        "upright": max(map(len, names)) * 6.4 > cell,
        "numbers": cell >= 24,
        "cells": cells,
    }


def _confusions(before: Counts, after: Counts, classes: list[str]) -> list[dict[str, Any]]:
    """Return the pairs of classes that are confused most."""
    errors = before + after
    np.fill_diagonal(errors, 0)
    worst = np.argsort(-errors, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(int(place), len(classes)) for place in worst if errors.flat[place]]
    return [
        {"true": classes[row], "taken": classes[column], "before": before[row, column], "after": after[row, column]}
        for row, column in pairs
    ]


def _by_class(before: Counts, after: Counts, classes: list[str]) -> dict[str, Any]:
    """Lay out precision, recall and F1 of each class before and after; None where one is undefined."""
    models = {"before": evidence.by_class(before), "after": evidence.by_class(after)}
    every = [float(value) for figures in models.values() for value in figures.f1 if not math.isnan(value)]
    low, *_, high = _ticks(every, 4)
    rows = []
    for number, name in enumerate(classes):
        row: dict[str, Any] = {"name": name, "images": int(models["before"].images[number])}
        for model, figures in models.items():
            values = {key: float(getattr(figures, key)[number]) for key in ("precision", "recall", "f1")}
            row[model] = {key: None if math.isnan(value) else value for key, value in values.items()}
        f1 = [row["before"]["f1"], row["after"]["f1"]]
        row["change"] = None if None in f1 else f1[1] - f1[0]
        row["at"] = [] if None in f1 else [round(100 * (value - low) / (high - low), 1) for value in f1]
        rows.append(row)
    return {"low": low, "high": high, "rows": rows}


def _galleries(story: Story) -> list[dict[str, Any]]:
    """Choose the test images to look at: those that fine-tuning fixed and broke, and the surest of its errors."""
    test = story.test
    everyone = np.arange(len(test.labels))
    right_before, right_after = (model.argmax(1) == test.labels for model in (test.before, test.after))
    gain = test.after[everyone, test.labels] - test.before[everyone, test.labels]
    galleries = [
        ("Fixed", "Wrong before, right after; the largest gains first.", right_after & ~right_before, -gain),
        ("Broken", "Right before, wrong after; the largest losses first.", right_before & ~right_after, gain),
        (
            "Surest errors",
            f"Wrong{' after fine-tuning' if story.tuned else ''}; the surest first. Look here for wrong labels.",
            ~right_after,
            -test.after.max(1),
        ),
    ]
    return [
        {
            "title": title,
            "meaning": meaning,
            "total": int(chosen.sum()),
            "pictures": [
                _picture(story, int(place))
                for place in everyone[chosen][np.argsort(order[chosen], kind="stable")][:GALLERY]
            ],
        }
        for title, meaning, chosen, order in (galleries if story.tuned else galleries[-1:])
    ]


def _picture(story: Story, place: int) -> dict[str, Any]:
    """Lay out one test image with what the models say."""
    label = int(story.test.labels[place])
    guesses = []
    for tone, model in (("before", story.test.before), ("after", story.test.after))[: 2 if story.tuned else 1]:
        best = int(model[place].argmax())
        guesses.append(
            {"tone": tone, "name": story.classes[best], "sure": float(model[place, best]), "right": best == label}
        )
    source, is_tiny = _thumbnail(story.data / story.paths[place])
    return {
        "path": story.paths[place],
        "label": story.classes[label],
        "guesses": guesses,
        "source": source,
        "tiny": is_tiny,
    }


def _thumbnail(path: Path) -> tuple[str, bool]:
    """Return a small copy of an image as a data URI, and whether it is so small that its pixels are to be seen.

    An image that has gone since ``prepare`` accepted it gives an empty one: it is no reason to lose the report.
    """
    try:
        small = images.decode(path, at_least=_THUMBNAIL)
    except images.Unusable:
        return "", False
    is_tiny = max(small.size) <= _PIXEL_ART
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    kind = "png" if is_tiny else "jpeg"
    buffer = io.BytesIO()
    small.save(buffer, kind, quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", is_tiny


def _notes(prepared: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[str]:
    """Say how the split came to be."""
    origins = prepared["splits"]
    names = {"train": "training", "val": "validation", "test": "test"}
    given = [names[split] for split, origin in origins.items() if origin == "predefined"]
    drawn = [f"{names[split]} ({dataset[split]:.0%})" for split in ("val", "test") if origins[split] != "predefined"]
    notes = []
    if given:
        notes.append(f"The data predefine their {_and(given)} images.")
    if drawn:
        source = "training images" if given else "images"
        notes.append(
            f"The {_and(drawn)} images are drawn from the {source} of each class by a hash of their content or group, "
            f"so that new images never move old ones to another split."
        )
    if prepared["duplicates"]:
        notes.append(f"Exact copies among the images: {prepared['duplicates']}. Copies never straddle splits.")
    return notes


def _stored(stored: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what the feature store keeps, or would keep, for this run."""
    names = {"extract_features": "bottleneck features", "finetune": "outputs of the frozen part"}
    parts = [
        f"{one['outputs']:,} {names[stage]} take {one['bytes'] / 1e6:,.1f} MB"
        for stage, one in stored.items()
        if one["outputs"]
    ]
    return f"In the feature store, {_and(parts)}."


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _splits(counts: Mapping[str, Mapping[str, int]], classes: list[str]) -> list[dict[str, Any]]:
    """Lay out the images of each class by split; the last row is the sum."""
    rows: list[dict[str, Any]] = [
        {"name": name, **{split: by_label[name] for split, by_label in counts.items()}} for name in classes
    ]
    total = {"name": "all", **{split: sum(by_label.values()) for split, by_label in counts.items()}}
    return [{**row, "all": sum(int(row[split]) for split in counts)} for row in (*rows, total)]
