"""What the report draws: where in a plot things stand, in percentages of an axis or in the pixels of a drawing."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.evidence import comparison
from thaw.evidence.forecasting import Forecast
from thaw.evidence.scoring import Answered
from thaw.evidence.splits import Spread
from thaw.evidence.wording import minus, percent, points
from thaw.learning.curves import Row, kept

Counts = NDArray[np.int64]
Places = Sequence[tuple[float, float]]  # on the axis across (0 to 1), and on the one upwards, in its own unit

PLOT = (390, 210, 40, 20, 12, 34)  # a curve: width, height, then its margins left, right, top and bottom
MATRIX = 20  # classes that a confusion matrix has room for


def tracks(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay out the dot-and-interval plots: one of all models, one of the difference with its zero line."""
    figures = {"accuracy": "Accuracy", "macro_f1": "Macro F1"}
    untrained = {"zero_shot": (" zero-shot", "untrained")} if "zero_shot" in metrics else {}
    if not comparison.is_tuned(metrics):
        models = untrained | {"head": (" of the head" if untrained else "", "before")}
    else:
        models = untrained | {"head": (" before", "before"), "finetuned": (" after", "after")}
    levels = [
        (f"{name}{which}", tone, metrics[model], key)
        for key, name in figures.items()
        for model, (which, tone) in models.items()
    ]
    if not comparison.is_tuned(metrics):
        return [_track("On the test images", levels, percent, "{:g}%".format, [])]
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
    axis = ticks([*(figures[f"{key}_{end}"] for *_, figures, key in rows for end in ("low", "high")), *lines], 4)

    def at(value: float) -> float:
        return round(100 * (value - axis[0]) / (axis[-1] - axis[0]), 2)

    return {
        "title": title,
        "ticks": [(at(tick), show_tick(round(100 * tick, 6))) for tick in axis],
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


def other_splits(spread: Spread) -> dict[str, Any]:
    """Lay out the accuracies of other splits on one axis, where one more is to be expected, and the run's own split."""
    own = [spread.own[1]] if spread.own else []
    low, high = (min(1.0, max(0.0, end)) for end in spread.expected)
    axis = ticks([*spread.accuracies, *own, low, high], 4)

    def at(value: float) -> float:
        return round(100 * (value - axis[0]) / (axis[-1] - axis[0]), 2)

    return {
        "ticks": [(at(tick), f"{round(100 * tick, 6):g}%") for tick in axis],
        "dots": [at(value) for value in spread.accuracies],
        "low": at(low),
        "width": round(at(high) - at(low), 2),
        "mean": at(spread.accuracy),
        "text": percent(spread.accuracy),
        "interval": f"{percent(low)} to {percent(high)}",
        "own": [(at(value), percent(value)) for value in own],
    }


def ticks(values: Iterable[float], about: int) -> list[float]:
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
    for stage, every_row in curves.items():
        # The L-BFGS solver has candidates for the regularisation and no epochs; the last row is the best one again.
        solved = "inverse_l2" in every_row[0]
        by_candidate = {row.get("inverse_l2", row["step"]): row for row in every_row}
        rows = [by_candidate[key] for key in sorted(by_candidate)]
        labels = [f"{row['inverse_l2' if solved else 'step']:g}" for row in rows]
        across = _evenly(len(rows))
        for figure in ("accuracy", "loss"):
            every = [row[key] for rs in curves.values() for row in rs for key in (figure, f"val_{figure}")]
            series = {
                tone: list(zip(across, (row[key] for row in rows), strict=True))
                for tone, key in (("train", figure), ("val", f"val_{figure}"))
            }
            panel = _panel(
                f"{names.get(stage, 'The head')}, {figure}",
                "inverse regularisation (1/λ)" if solved else "epoch",
                _thinned(across, labels),
                series,
                ticks([value for value in every if math.isfinite(value)] or [0, 1], 4),
                across[kept(rows)],
                is_share=figure == "accuracy",
            )
            panels.append(panel)
    return panels


def rungs(tried: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lay out what validation said of each rung of ``finetune: auto``: Brier scores by the share of the new weights.

    A bar is a standard error of the difference from the model before, image by image, to either side.
    """
    panels = []
    for rung in tried:
        found = rung["found"]
        across, labels = _evenly(len(found)), [f"{100 * one['share']:g}" for one in found]
        bars = [
            (x, one["brier"] - one["error"], one["brier"] + one["error"]) for x, one in zip(across, found, strict=True)
        ]
        kept = [one["share"] for one in found].index(rung["share"])
        panel = _panel(
            f"{rung['done'][0].upper()}{rung['done'][1:]}",
            "percent of the new weights, the rest from before",
            _thinned(across, labels),
            {"val": list(zip(across, (one["brier"] for one in found), strict=True))},
            ticks([end for _, *ends in bars for end in ends], 4),
            across[kept],
            is_share=False,
            bars=bars,
        )
        panels.append(
            panel | {"images": rung["images"], "share": f"{labels[kept]}%", "before": found[0], "after": found[kept]}
        )
    return panels


def growth(forecast: Forecast) -> dict[str, Any]:
    """Lay out the accuracy by the number of training images, on a logarithmic axis, and its continuation."""
    known = [*forecast.curve, forecast.doubled]
    start, end = (math.log(one.images) for one in (known[0], known[-1]))
    across = [round((math.log(one.images) - start) / (end - start), 4) for one in known]
    dots = [(x, one.accuracy) for x, one in zip(across, known, strict=True)]
    return _panel(
        "Accuracy by the number of training images",
        "training images",
        [(x, f"{one.images:,}") for x, one in zip(across, known, strict=True)],
        {"val": dots[:-1], "next": dots[-2:]},
        ticks([end for one in known for end in one.interval], 4),
        round((math.log(forecast.images) - start) / (end - start), 4),
        is_share=True,
        bars=[(x, *one.interval) for x, one in zip(across, known, strict=True)],
    )


def risk(answered: Sequence[Answered], coverage: float | None) -> dict[str, Any]:
    """Lay out how often answers are right by how many images are answered; ``coverage`` is that of the threshold."""
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    return _panel(
        "Accuracy of the surest answers",
        "share of the test images that are answered, the surest first",
        [(share, f"{share:.0%}") for share in shares],
        {"val": [(one.coverage, one.accuracy) for one in answered]},
        ticks([1.0, *(one.accuracy for one in answered)], 4),
        coverage,
        is_share=True,
    )


def _evenly(count: int) -> list[float]:
    return [0.5 if count == 1 else place / (count - 1) for place in range(count)]


def _thinned(across: Sequence[float], labels: Sequence[str]) -> list[tuple[float, str]]:
    """Leave out so many labels that there is room for the others."""
    return list(zip(across, labels, strict=True))[:: math.ceil(len(labels) / 7)]


def _panel(
    title: str,
    x_title: str,
    labels: Sequence[tuple[float, str]],
    series: Mapping[str, Places],
    axis: Sequence[float],
    kept: float | None,
    is_share: bool,
    bars: Sequence[tuple[float, float, float]] = (),
) -> dict[str, Any]:
    """Lay out curves in the pixels of ``PLOT``: what is across is from 0 to 1, what is upwards within ``axis``.

    Args:
        title, x_title: of the drawing, and of its axis across.
        labels: below that axis.
        series: by tone; what is not finite is left out.
        axis: the ticks of the axis upwards.
        kept: where a line marks what was chosen; None for none.
        is_share: whether the axis upwards is in percent.
        bars: across, low and high.
    """
    width, height, left, right, top, bottom = PLOT

    def at(share: float) -> float:
        return round(left + (width - left - right) * share, 1)

    def down(value: float) -> float:
        return round(top + (height - top - bottom) * (axis[-1] - value) / (axis[-1] - axis[0]), 1)

    return {
        "title": title,
        "x_title": x_title,
        "x": [(at(x), label) for x, label in labels],
        "y": [(down(tick), f"{100 * tick:g}%" if is_share else f"{tick:g}") for tick in axis],
        "dots": {tone: [(at(x), down(y)) for x, y in dots if math.isfinite(y)] for tone, dots in series.items()},
        "bars": [(at(x), down(low), down(high)) for x, low, high in bars],
        "kept": None if kept is None else at(kept),
    }


def worst(before: Counts, after: Counts) -> list[int]:
    """Return the classes that a confusion matrix shows: all, or the ``MATRIX`` that are confused most, worst first."""
    if len(before) <= MATRIX:
        return list(range(len(before)))
    errors = before + after
    np.fill_diagonal(errors, 0)
    return list(map(int, np.argsort(-(errors.sum(0) + errors.sum(1)), kind="stable")[:MATRIX]))


def confusion_matrix(counts: Counts, classes: list[str], shown: Sequence[int]) -> dict[str, Any]:
    """Lay out a confusion matrix of some classes in pixels; cells without images are left out."""
    cell = next(size for limit, size in ((6, 48), (12, 36), (MATRIX, 24)) if len(shown) <= limit)
    names = [name if len(name) <= 16 else f"{name[:15]}…" for name in (classes[number] for number in shown)]
    margin = 14 + round(6.4 * max(map(len, names)))
    cells = []
    for y, x in np.argwhere(counts[np.ix_(shown, shown)]).tolist():
        row, column = shown[y], shown[x]
        share = counts[row, column] / counts[row].sum()
        cells.append(
            {
                "x": margin + x * cell,
                "y": margin + y * cell,
                "right": row == column,
                # Even a single error among hundreds has to be seen, and the number on all of a row has to be read.
                "opacity": round(0.12 + 0.42 * share, 2),
                "count": int(counts[row, column]),
                "text": f"{counts[row, column]} of {counts[row].sum()} {classes[row]}: {classes[column]}",
            }
        )
    return {
        "cell": cell,
        "margin": margin,
        "size": margin + cell * len(shown) + 8,
        "names": names,
        # Column names stand upright where they do not fit their column.
        "upright": max(map(len, names)) * 6.4 > cell,
        "cells": cells,
    }
