"""A picture of a sweep: parallel coordinates, an axis for each key that varied, and the last one for the figure."""

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, SIDE, TOP, BOTTOM = 180, 320, 90, 40, 24  # pixels: between axes, of an axis, and the margins
LABELS = 16  # of an axis, at most: what there is room for
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1c2430;stroke:#fff;stroke-width:4px;paint-order:stroke}"
    ".key{font-weight:600}"
    "line{stroke:#98a2b3}polyline{fill:none;stroke:#1769c2;stroke-width:1.5}polyline.best{stroke:#c0392b;stroke-width:3}"
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
