"""What the report shows, laid out: the rows of its tables, its galleries and its notes; ``plots`` has the drawings."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from thaw.data import images
from thaw.evidence import comparison, heatmaps, scoring, significance
from thaw.evidence.heatmaps import Heat
from thaw.evidence.plots import Counts, ticks
from thaw.evidence.story import Story
from thaw.evidence.wording import minus, percent, points

GALLERY = 12  # pictures in each
CONFUSIONS = 200  # pairs of classes in the list of the most frequent confusions

# Key of figures.json, name, meaning, whether smaller is better, whether it is a share (shown as a percentage).
_FIGURES = (
    ("accuracy", "Accuracy", "share of images whose most probable class is right", False, True),
    (
        "balanced_accuracy",
        "Balanced accuracy",
        "mean recall of the {} classes with test images: a small class counts as much as a large one",
        False,
        True,
    ),
    (
        "macro_f1",
        "Macro F1",
        "mean F1 of the {} classes with test images: what is wrongly taken for a class counts too",
        False,
        True,
    ),
    ("auroc", "AUROC", "how often an image of a class is given more of it than one of another class", False, True),
    ("top_3", "Top 3", "share of images whose true class is among the three most probable", False, True),
    ("ece", "Calibration error", "mean gap between how sure the model is and how often it is right", True, True),
    ("brier", "Brier score", "squared error of the probabilities, 0 is perfect", True, False),
    ("log_loss", "Log loss", "surprise at the true class in nats, 0 is perfect", True, False),
    ("val_accuracy", "Validation accuracy", "on the images that chose the settings, so it flatters", False, True),
)


def figure_table(metrics: Mapping[str, Any], tested: int) -> list[dict[str, Any]]:
    """Lay out the table of all figures: for each its texts before, after and of the difference, and who is better.

    Those of zero-shot stand first, where there is such a thing.

    Args:
        metrics: ``figures.json``.
        tested: how many classes have test images.
    """
    columns = ["zero_shot", "head", *(["finetuned", "delta"] if comparison.is_tuned(metrics) else [])]
    table = []
    for key, name, meaning, smaller_is_better, is_share in _FIGURES:
        if key not in metrics["head"]:
            continue
        level: Callable[[float], str] = percent if is_share else "{:.3f}".format
        change: Callable[[float], str] = points if is_share else lambda value: minus(f"{value:+.3f}")
        cells = []
        for model in columns[0 if "zero_shot" in metrics else 1 :]:
            show = change if model == "delta" else level
            ends = [show(metrics[model][f"{key}_{end}"]) for end in ("low", "high") if f"{key}_{end}" in metrics[model]]
            cells.append({"value": show(metrics[model][key]), "interval": " to ".join(ends)})
        gain = metrics["delta"][key] * (-1 if smaller_is_better else 1)
        tone = "better" if gain > 0 else "worse" if gain < 0 else "same"
        table.append({"name": name, "meaning": meaning.format(tested), "cells": cells, "tone": tone})
    return table


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


def class_table(before: Counts, after: Counts, story: Story) -> dict[str, Any]:
    """Lay out precision, recall and F1 of each class before and after, None where one is undefined; of the change of
    recall, its interval and whether it holds where so many classes are looked at (``significance.by_class``).
    """
    confidence = story.config["evaluate"]["confidence"]
    changes = significance.by_class(story.test, confidence) if story.tuned else {}
    models = {"before": scoring.by_class(before), "after": scoring.by_class(after)}
    every = [float(value) for figures in models.values() for value in figures.f1 if not math.isnan(value)]
    low, *_, high = ticks(every, 4)
    rows = []
    for number, name in enumerate(story.classes):
        row: dict[str, Any] = {"name": name, "images": int(models["before"].images[number])}
        for model, figures in models.items():
            values = {key: float(getattr(figures, key)[number]) for key in ("precision", "recall", "f1")}
            row[model] = {key: None if math.isnan(value) else value for key, value in values.items()}
        f1 = [row["before"]["f1"], row["after"]["f1"]]
        row["change"] = None if None in f1 else f1[1] - f1[0]
        change = changes.get(number)
        row["recall"] = change and {
            "change": points(change.recall),
            "interval": " to ".join(map(points, change.interval)),
            "holds": change.p < 1 - confidence,
        }
        row["at"] = [] if None in f1 else [round(100 * (value - low) / (high - low), 1) for value in f1]
        rows.append(row)
    return {"low": low, "high": high, "rows": rows}


def slice_tables(metrics: Mapping[str, Any], confidence: float) -> dict[str, Any]:
    """Lay out the slices, a table for each column: texts, and on one scale both accuracies and the kept one's range.

    Args:
        metrics: ``figures.json``.
        confidence: below which complement a p-value says that a slice is worse than the rest.
    """
    rows: Sequence[Mapping[str, Any]] = metrics.get("slices", [])
    models = ("before", "after") if comparison.is_tuned(metrics) else ("before",)
    kept = "before" if metrics["kept"] == "head" else "after"
    low, *_, high = ticks([row[f"{model}_{end}"] for row in rows for model in models for end in ("low", "high")], 4)

    def at(value: float) -> float:
        return round(100 * (value - low) / (high - low), 1)

    def cell(row: Mapping[str, Any], key: str, show: Callable[[float], str]) -> dict[str, str]:
        return {"value": show(row[key]), "interval": " to ".join(show(row[f"{key}_{end}"]) for end in ("low", "high"))}

    tables: dict[str, list[dict[str, Any]]] = {row["column"]: [] for row in rows}
    for row in rows:
        start, end = (at(row[f"{kept}_{end}"]) for end in ("low", "high"))
        tables[row["column"]].append(
            {
                "name": row["value"],
                "images": row["images"],
                "at": {model: at(row[model]) for model in models},
                "range": (start, round(end - start, 1)),
                "cells": [cell(row, model, percent) for model in models]
                + ([cell(row, "difference", points)] if "difference" in row else []),
                "worse": row["p"] < 1 - confidence,
            }
        )
    return {"low": low, "high": high, "tables": tables, "count": len(rows)}


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
    shown = [
        everyone[chosen][np.argsort(order[chosen], kind="stable")][:GALLERY].tolist()
        for _, _, chosen, order in galleries
    ]
    maps = heatmaps.look(story, sorted({place for places in shown for place in places}))
    laid_out = [
        {
            "title": title,
            "meaning": meaning,
            "total": int(chosen.sum()),
            "pictures": [_picture(story, place, maps.get(place, [])) for place in places],
        }
        for (title, meaning, chosen, _), places in zip(galleries, shown, strict=True)
    ]
    return laid_out if story.tuned else laid_out[-1:]


def _picture(story: Story, place: int, maps: Sequence[Heat]) -> dict[str, Any]:
    """Lay out one test image with what the models say and where they look."""
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
        "maps": maps,
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
