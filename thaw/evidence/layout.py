"""What the report shows, laid out: the rows of its tables, and where in a plot things stand."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.data import images
from thaw.evidence import comparison, scoring
from thaw.evidence.story import Story
from thaw.evidence.wording import minus, percent, points
from thaw.learning.curves import Row

Counts = NDArray[np.int64]

GALLERY = 12  # pictures in each
CONFUSIONS = 10  # pairs of classes in the list of the most frequent confusions
PLOT = (390, 210, 40, 12, 12, 34)  # a learning curve: width, height, then its margins left, right, top and bottom

# Key of figures.json, name, meaning, whether smaller is better, whether it is a share (shown as a percentage).
_FIGURES = (
    ("accuracy", "Accuracy", "share of images whose most probable class is right", False, True),
    (
        "macro_f1",
        "Macro F1",
        "mean F1 of the {} classes with test images: a small class counts as much as a large one",
        False,
        True,
    ),
    ("top_3", "Top 3", "share of images whose true class is among the three most probable", False, True),
    ("ece", "Calibration error", "mean gap between how sure the model is and how often it is right", True, True),
    ("brier", "Brier score", "squared error of the probabilities, 0 is perfect", True, False),
    ("log_loss", "Log loss", "surprise at the true class in nats, 0 is perfect", True, False),
    ("val_accuracy", "Validation accuracy", "on the images that chose the settings, so it flatters", False, True),
)


def figure_table(metrics: Mapping[str, Any], tested: int) -> list[dict[str, Any]]:
    """Lay out the table of all figures: for each its texts before, after and of the difference, and who is better.

    Args:
        metrics: ``figures.json``.
        tested: how many classes have test images.
    """
    columns = 3 if comparison.is_tuned(metrics) else 1
    table = []
    for key, name, meaning, smaller_is_better, is_share in _FIGURES:
        if key not in metrics["head"]:
            continue
        level: Callable[[float], str] = percent if is_share else "{:.3f}".format
        change: Callable[[float], str] = points if is_share else lambda value: minus(f"{value:+.3f}")
        cells = []
        for model, show in (("head", level), ("finetuned", level), ("delta", change))[:columns]:
            ends = [show(metrics[model][f"{key}_{end}"]) for end in ("low", "high") if f"{key}_{end}" in metrics[model]]
            cells.append({"value": show(metrics[model][key]), "interval": " to ".join(ends)})
        gain = metrics["delta"][key] * (-1 if smaller_is_better else 1)
        tone = "better" if gain > 0 else "worse" if gain < 0 else "same"
        table.append({"name": name, "meaning": meaning.format(tested), "cells": cells, "tone": tone})
    return table


def tracks(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay out the dot-and-interval plots: one of both models, one of their difference with its zero line."""
    figures = {"accuracy": "Accuracy", "macro_f1": "Macro F1"}
    if not comparison.is_tuned(metrics):
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
            lambda value: minus(f"{value:+g}") if value else "0",
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


def learning_curves(curves: Mapping[str, list[Row]]) -> list[dict[str, Any]]:
    """Lay out the learning curves; the same figure has the same axis in both, so that they can be compared."""
    names = {"train_head": "Before: the head", "finetune": "After: fine-tuning"} if len(curves) > 1 else {}
    panels = []
    for stage, rows in curves.items():
        # A row of the L-BFGS solver is a candidate for the regularisation and no epoch.
        solved = "inverse_l2" in rows[0]
        labels = [f"{row['inverse_l2' if solved else 'step']:g}" for row in rows]
        # Of the head, the best epoch is kept; fine-tuning is kept as it ends, where the rate has come down to 0.
        kept = min(range(len(rows)), key=lambda place: (_or_infinity(rows[place]["val_loss"]), place))
        kept = len(rows) - 1 if stage == "finetune" else kept
        for figure in ("accuracy", "loss"):
            every = [row[key] for rs in curves.values() for row in rs for key in (figure, f"val_{figure}")]
            ticks = _ticks([value for value in every if math.isfinite(value)] or [0, 1], 4)
            series = {tone: [row[key] for row in rows] for tone, key in (("train", figure), ("val", f"val_{figure}"))}
            title = f"{names.get(stage, 'The head')}, {figure}"
            x_title = "inverse regularisation (1/λ)" if solved else "epoch"
            panels.append(_panel(title, x_title, labels, series, ticks, kept, figure == "accuracy"))
    return panels


def rungs(tried: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lay out what validation said of each rung of ``finetune: auto``: the loss by the share of the new weights.

    A bar is a standard error of the difference from the model before, image by image, to either side.
    """
    panels = []
    for rung in tried:
        found = rung["found"]
        losses, errors = ([one[key] for one in found] for key in ("loss", "error"))
        spread = [loss + sign * error for loss, error in zip(losses, errors, strict=True) for sign in (-1, 1)]
        labels = [f"{100 * one['share']:g}" for one in found]
        kept = [one["share"] for one in found].index(rung["share"])
        panel = _panel(
            f"{rung['done'][0].upper()}{rung['done'][1:]}",
            "percent of the new weights, the rest from before",
            labels,
            {"val": losses},
            _ticks(spread, 4),
            kept,
            is_share=False,
            errors=errors,
        )
        panels.append(
            panel | {"images": rung["images"], "share": f"{labels[kept]}%", "before": found[0], "after": found[kept]}
        )
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
    errors: Sequence[float] = (),
) -> dict[str, Any]:
    """Lay out a curve in the pixels of ``PLOT``; ``kept`` is the row whose model was kept, ``errors`` are of "val"."""
    width, height, left, right, top, bottom = PLOT
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
        "bars": [
            (round(x, 1), down(value - error), down(value + error))
            for x, value, error in zip(across, series["val"], errors, strict=False)
        ],
        "kept": round(across[kept], 1),
    }


def confusion_matrix(counts: Counts, classes: list[str]) -> dict[str, Any]:
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


def confusions(before: Counts, after: Counts, classes: list[str]) -> list[dict[str, Any]]:
    """Return the pairs of classes that are confused most."""
    errors = before + after
    np.fill_diagonal(errors, 0)
    worst = np.argsort(-errors, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(int(place), len(classes)) for place in worst if errors.flat[place]]
    return [
        {"true": classes[row], "taken": classes[column], "before": before[row, column], "after": after[row, column]}
        for row, column in pairs
    ]


def class_table(before: Counts, after: Counts, classes: list[str]) -> dict[str, Any]:
    """Lay out precision, recall and F1 of each class before and after; None where one is undefined."""
    models = {"before": scoring.by_class(before), "after": scoring.by_class(after)}
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


def galleries(story: Story) -> list[dict[str, Any]]:
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
    source, is_tiny = images.thumbnail(story.data / story.paths[place])
    return {
        "path": story.paths[place],
        "label": story.classes[label],
        "guesses": guesses,
        "source": source,
        "tiny": is_tiny,
    }


def notes(prepared: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[str]:
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
            f"so that new images move no old one to another split (in a small class, three at most)."
        )
    notes += [f"{note[0].upper()}{note[1:]}." for note in prepared.get("notes", [])]
    if prepared["duplicates"]:
        notes.append(f"Exact copies among the images: {prepared['duplicates']}. Copies never straddle splits.")
    return notes


def stored_size(stored: Mapping[str, Mapping[str, Any]]) -> str:
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


def split_table(counts: Mapping[str, Mapping[str, int]], classes: list[str]) -> list[dict[str, Any]]:
    """Lay out the images of each class by split; the last row is the sum."""
    rows: list[dict[str, Any]] = [
        {"name": name, **{split: by_label[name] for split, by_label in counts.items()}} for name in classes
    ]
    total = {"name": "all", **{split: sum(by_label.values()) for split, by_label in counts.items()}}
    return [{**row, "all": sum(int(row[split]) for split in counts)} for row in (*rows, total)]
