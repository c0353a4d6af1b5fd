"""Contact sheets: rows of small pictures, to see at a glance what is in a data set."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

TITLE, LABEL, GAP = 24, 110, 4  # pixels
CROSSED = (200, 60, 60)


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
