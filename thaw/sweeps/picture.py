"""Pictures of a sweep: parallel coordinates, an axis for each key that varied and the last one for the figure; and what
fine-tuning adds with each seed.
"""

import math
from collections.abc import Sequence
from html import escape

from thaw.evidence import wording
from thaw.sweeps.ranking import CONFIDENCE
from thaw.sweeps.seeds import Seeds

WIDTH, HEIGHT, SIDE, TOP, BOTTOM = 180, 320, 90, 40, 24  # pixels: between axes, of an axis, and the margins
ROW, LINE, LETTER = 44, 520, 7.5  # pixels: of a configuration's row, its axis, and a letter
LABELS = 16  # of an axis, at most: what there is room for
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1c2430;stroke:#fff;stroke-width:4px;paint-order:stroke}"
    ".key{font-weight:600}"
    "line{stroke:#667085}polyline{fill:none;stroke:#1769c2;stroke-width:1.5}polyline.best{stroke:#c0392b;stroke-width:3}"
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
