"""Contact sheets: rows of small pictures, to see at a glance what is in a data set."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from thaw import parallel
from thaw.artifacts import atomic
from thaw.data import images
from thaw.data.layouts import Layout

TITLE, LABEL, GAP = 24, 110, 4  # pixels
SHOWN, CLASSES, SIDE = 8, 100, 96  # images of a class, classes at most, pixels
CROSSED = (200, 60, 60)


def draw(folder: Path, layout: Layout, picture: Path) -> Layout:
    """Draw the contact sheet of a data set, a row for each class; return the layout, with a note of what is on it.

    Args:
        folder: of the data set.
        layout: what was understood.
        picture: the file to write (PNG).
    """
    by_class: dict[str, list[str]] = defaultdict(list)
    for entry in layout.entries:
        by_class[entry.label].append(entry.path)
    rows = [(name, paths[:: -(-len(paths) // SHOWN)]) for name, paths in sorted(by_class.items())[:CLASSES]]

    def small(path: str) -> tuple[Image.Image | None, str, tuple[int, int]]:
        try:
            return images.decode(folder / path, 100e6, at_least=SIDE), *images.about(folder / path)
        except images.Unusable:
            return None, "", (0, 0)

    found = iter(list(parallel.ahead(small, [path for _, paths in rows for path in paths])))
    pictures = [(name, [next(found) for _ in paths]) for name, paths in rows]
    shown = [one for _, of_class in pictures for one in of_class]
    known = [(kind, size) for _, kind, size in shown if kind]
    unusable = f", {len(shown) - len(known)} of them no usable images" if len(known) < len(shown) else ""
    notes = list(layout.notes)
    if known:
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(kind for kind, _ in known).most_common())
        least, most = (pick((size for _, size in known), key=math.prod) for pick in (min, max))
        sizes = f"{least[0]} x {least[1]}" + (f" to {most[0]} x {most[1]}" if least != most else "")
        notes.append(f"{len(shown)} looked at: {kinds}; {sizes} pixels{unusable}")
    more = f", the first {CLASSES}" if len(by_class) > CLASSES else ""
    title = f"{len(layout.entries):,} images in {len(by_class)} classes{more}"
    laid_out = [(f"{name} ({len(by_class[name]):,})", [one for one, *_ in of_class]) for name, of_class in pictures]
    drawn = sheet(laid_out, SIDE, title)
    with atomic(picture) as partial:
        drawn.save(partial, format="PNG")
    return replace(layout, notes=notes)


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image | None]]], side: int, title: str) -> Image.Image:
    """Lay pictures out in rows.

    Args:
        rows: the name of each, and its pictures; None is one that cannot be shown, and is crossed out.
        side: pixels of a picture's place; what is larger is made smaller.
        title: stands above.
    """
    step, columns = side + GAP, max((len(pictures) for _, pictures in rows), default=0)
    made = Image.new("RGB", (LABEL + columns * step, TITLE + len(rows) * step), "white")
    draw = ImageDraw.Draw(made)
    draw.text((GAP, GAP), title, fill="black")
    for row, (name, pictures) in enumerate(rows):
        top = TITLE + row * step
        draw.multiline_text((GAP, top + GAP), _wrapped(draw, name), fill="black")
        for column, picture in enumerate(pictures):
            left = LABEL + column * step
            if picture is None:
                draw.rectangle((left, top, left + side, top + side), outline=CROSSED)
                draw.line((left, top, left + side, top + side), fill=CROSSED)
                continue
            small = picture.copy()
            small.thumbnail((side, side))
            made.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
    return made


def _wrapped(draw: ImageDraw.ImageDraw, name: str) -> str:
    """Break a name where its column ends."""
    lines = [""]
    for letter in name:
        if draw.textlength(lines[-1] + letter) > LABEL - 2 * GAP:
            lines.append("")
        lines[-1] += letter
    return "\n".join(lines[:5])
