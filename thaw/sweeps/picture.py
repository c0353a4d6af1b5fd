"""Pictures of a sweep: parallel coordinates, an axis for each key that varied and the last one for the figure; what
fine-tuning adds with each seed; and accuracy by what an image costs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from thaw.evidence import plots, wording
from thaw.evidence.significance import Interval
from thaw.sweeps.ranking import CONFIDENCE, digits
from thaw.sweeps.seeds import Seeds

WIDTH, HEIGHT, SIDE, TOP, BOTTOM = 180, 320, 90, 40, 24  # pixels: between axes, of an axis, and the margins
ROW, LINE, LETTER = 44, 520, 7.5  # pixels: of a configuration's row, its axis, and a letter
PHONE, LEFT, RIGHT, ENTRY, DOT = 390, 52, 20, 22, 9  # pixels: a phone's width, margins, a line of a list, a radius
NAME = 32  # letters of a name in a list, at most
LABELS = 16  # of an axis, at most: what there is room for
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1c2430;stroke:#fff;stroke-width:4px;paint-order:stroke}"
    ".key{font-weight:600}"
    "line{stroke:#667085}polyline{fill:none;stroke:#1769c2;stroke-width:1.5}polyline.best{stroke:#c0392b;stroke-width:3}"
)
DOTS = (
    ".grid{stroke:#e4e7ec}g line{stroke:#1769c2}circle{fill:#fff;stroke:#1769c2;stroke-width:1.5}"
    ".place{font-size:11px;stroke:none}.worth{fill:#c0392b;font-weight:600}"
    ".worth line,.worth circle{stroke:#c0392b}.worth circle{stroke-width:3}polyline.best{stroke-width:1.5}"
)


def picture(keys: Sequence[str], jobs: Sequence[tuple[Sequence[str], float]], figure: str) -> str:
    """Draw jobs as lines across axes.

    Args:
        keys: what varied.
        jobs: the values of each job, in the order of ``keys``, and its figure (a share); the best one first.
        figure: its name.

    Returns:
        An SVG file; the best job's line is drawn last and stands out.
    """
    axes = [_ordered([values[at] for values, _ in jobs]) for at in range(len(keys))]
    figures = [number for _, number in jobs]
    low, high = min(figures), max(figures)
    right = SIDE + WIDTH * len(keys)
    size = f"{right + SIDE} {TOP + HEIGHT + BOTTOM}"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img">', f"<style>{STYLE}</style>"]
    parts.append(f'<rect width="{right + SIDE}" height="{TOP + HEIGHT + BOTTOM}" fill="#fff"/>')
    for place, (values, number) in reversed(list(enumerate(jobs))):
        heights = [_level(axis.index(value), len(axis)) for axis, value in zip(axes, values, strict=True)]
        heights.append((number - low) / (high - low) if high > low else 0.5)
        points = " ".join(f"{SIDE + WIDTH * at},{_y(height):.1f}" for at, height in enumerate(heights))
        what = ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
        best = "" if place else ' class="best"'
        title = escape(f"{what}: {number:.1%}")
        parts.append(f'<polyline{best} points="{points}"><title>{title}</title></polyline>')
    for at, (key, axis) in enumerate(zip(keys, axes, strict=True)):
        every = math.ceil(len(axis) / LABELS)
        marks = [(value, _level(number, len(axis))) for number, value in enumerate(axis) if number % every == 0]
        parts += _axis(SIDE + WIDTH * at, key, marks)
    ends = [(f"{low:.1%}", 0.0), (f"{high:.1%}", 1.0)] if high > low else [(f"{low:.1%}", 0.5)]
    parts += [*_axis(right, figure, ends), "</svg>", ""]
    return "\n".join(parts)


def seeds(found: Seeds) -> str:
    """Draw what fine-tuning adds: a dot for each seed, their mean, and its interval.

    Returns:
        An SVG file; the axis is in percentage points, and a line marks no difference.
    """
    mean, span = sum(found.gains) / len(found.gains), found.interval
    every = [0.0, *found.gains, *span]
    low, high = min(every), max(every)
    left = SIDE
    width, bottom, y = left + LINE + SIDE, TOP + ROW, TOP + ROW // 2

    def at(value: float) -> float:
        return round(left + LINE * (value - low) / (high - low if high > low else 1), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {bottom + BOTTOM}" role="img">',
        f"<style>{STYLE}circle{{fill:#1769c2;fill-opacity:.4;stroke:#1769c2;stroke-width:1.5}}.mean{{stroke:#1c2430;stroke-width:3}}</style>",
        f'<rect width="{width:g}" height="{bottom + BOTTOM}" fill="#fff"/>',
        f'<text class="key" x="12" y="{TOP - 18}">what fine-tuning adds, in points: '
        f"a dot is a seed, the line the mean's {CONFIDENCE:.0%} interval</text>",
    ]
    ends = [end for end in (low, high) if abs(at(end) - at(0)) > 6 * LETTER]  # there is room for its text
    for value in [*ends, 0.0]:
        parts.append(f'<line x1="{at(value)}" y1="{TOP}" x2="{at(value)}" y2="{bottom}"/>')
        parts.append(f'<text text-anchor="middle" x="{at(value)}" y="{bottom + 16}">{wording.points(value)}</text>')
    told = f"{wording.points(mean)}, {wording.points(span.low)} to {wording.points(span.high)}"
    parts.append(f'<g><title>{escape(told)}</title><line x1="{at(span.low)}" y1="{y}" x2="{at(span.high)}" y2="{y}"/>')
    parts.append(f'<line class="mean" x1="{at(mean)}" y1="{y - 10}" x2="{at(mean)}" y2="{y + 10}"/></g>')
    for seed, gain in zip(found.seeds, found.gains, strict=True):
        title = escape(f"seed {seed}: {wording.points(gain)}")
        parts.append(f'<circle cx="{at(gain)}" cy="{y}" r="5"><title>{title}</title></circle>')
    return "\n".join([*parts, "</svg>", ""])


@dataclass(frozen=True)
class Point:
    """What was found of a backbone.

    Attributes:
        name: what tells it from others.
        milliseconds: that an image takes.
        accuracy: a share.
        interval: of the accuracy, if there is one.
        in_front: whether no other is both quicker and more accurate.
    """

    name: str
    milliseconds: float
    accuracy: float
    interval: Interval | None
    in_front: bool

    @property
    def said(self) -> str:
        """Its figures, for people."""
        span = f" ({self.interval.low:.1%} to {self.interval.high:.1%})" if self.interval else ""
        return f"{self.accuracy:.1%}{span}, {digits(self.milliseconds)} ms"


def cost(points: Sequence[Point], figure: str) -> str:
    """Draw accuracy by the time that an image takes, as wide as a phone, with a list of names below.

    Args:
        points: the backbones, the best first.
        figure: the name of the accuracy.

    Returns:
        An SVG file; time is on a logarithmic axis, a dot has the place of its backbone in the list, a line its
        interval, and Pareto's front stands out.
    """
    across = _decades([point.milliseconds for point in points])
    up = plots.ticks([100 * one for point in points for one in (point.accuracy, *(point.interval or ()))], 5)
    low, high = (math.log(across[end]) for end in (0, -1))
    bottom = TOP + HEIGHT
    height = bottom + 76 + ENTRY * len(points)

    def x(value: float) -> float:
        return round(LEFT + (PHONE - LEFT - RIGHT) * (math.log(value) - low) / (high - low), 1)

    def y(share: float) -> float:
        return round(bottom - HEIGHT * (100 * share - up[0]) / (up[-1] - up[0]), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PHONE} {height}" role="img">',
        f"<style>{STYLE}{DOTS}</style>",
        f'<rect width="{PHONE}" height="{height}" fill="#fff"/>',
        f'<text class="key" x="12" y="{TOP - 18}">{escape(figure)} accuracy by milliseconds an image</text>',
    ]
    for value in across:
        parts.append(f'<line class="grid" x1="{x(value)}" y1="{TOP}" x2="{x(value)}" y2="{bottom}"/>')
        parts.append(f'<text text-anchor="middle" x="{x(value)}" y="{bottom + 18}">{value:g}</text>')
    for value in up:
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{y(value / 100)}" x2="{PHONE - RIGHT}" y2="{y(value / 100)}"/>'
        )
        parts.append(f'<text text-anchor="end" x="{LEFT - 8}" y="{y(value / 100) + 4}">{value:g}%</text>')
    stairs: list[str] = []
    reached = 0.0
    for one in sorted((point for point in points if point.in_front), key=lambda point: point.milliseconds):
        stairs += [f"{x(one.milliseconds)},{y(height)}" for height in (reached or one.accuracy, one.accuracy)]
        reached = one.accuracy
    parts.append(f'<polyline class="best" points="{" ".join(stairs)}"/>')
    for place, point in reversed([*enumerate(points, 1)]):
        at, level = x(point.milliseconds), y(point.accuracy)
        tone = ' class="worth"' if point.in_front else ""
        parts.append(f"<g{tone}><title>{escape(f'{point.name}: {point.said}')}</title>")
        if point.interval:
            parts.append(f'<line x1="{at}" y1="{y(point.interval.low)}" x2="{at}" y2="{y(point.interval.high)}"/>')
        parts.append(f'<circle cx="{at}" cy="{level}" r="{DOT}"/>')
        parts.append(f'<text class="place" text-anchor="middle" x="{at}" y="{level + 4}">{place}</text></g>')
    parts.append(f'<text x="12" y="{bottom + 44}">Red: no other is both quicker and more accurate.</text>')
    for place, point in enumerate(points, 1):
        level = bottom + 48 + ENTRY * place
        tone = ' class="worth"' if point.in_front else ""
        figures = f"{point.accuracy:.1%}, {digits(point.milliseconds)} ms"
        parts.append(f'<text{tone} x="12" y="{level}">{place}. {escape(_short(point.name))}</text>')
        parts.append(f'<text{tone} text-anchor="end" x="{PHONE - RIGHT}" y="{level}">{figures}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _decades(values: Sequence[float]) -> list[float]:
    """Return the numbers 1, 2 and 5 times a power of ten that enclose some positive ones."""
    powers = range(math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(max(values))) + 1)
    marks = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    first = max(place for place, mark in enumerate(marks) if mark < min(values))
    last = next(place for place, mark in enumerate(marks) if mark > max(values))
    return marks[first : last + 1]


def _short(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def _ordered(values: Sequence[str]) -> list[str]:
    """Return the distinct values of an axis from below: numbers by size, words by the alphabet."""
    distinct = sorted({*values})
    try:
        return sorted(distinct, key=float)
    except ValueError:
        return distinct


def _level(number: int, count: int) -> float:
    return number / (count - 1) if count > 1 else 0.5


def _y(height: float) -> float:
    return TOP + (1 - height) * HEIGHT


def _axis(x: int, name: str, marks: Sequence[tuple[str, float]]) -> list[str]:
    parts = [f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{TOP + HEIGHT}"/>']
    parts.append(f'<text class="key" text-anchor="middle" x="{x}" y="{TOP - 18}">{escape(name)}</text>')
    for text, height in marks:
        parts.append(f'<text x="{x + 6}" y="{_y(height) + 4:.1f}">{escape(text)}</text>')
    return parts
