"""Columns of a table that say what kind of image it is: the camera, the site, the year. Each value is a slice.

Kept are those that name few things. What is different for almost every image (an identifier, a free text, an age) makes
no slices, and nothing is binned, but for dates: where there are many, their years.
"""

import re
from array import array
from collections.abc import Mapping, Sequence

MOST = 20  # values of a column
LEAST = 5  # images for each value, on average: fewer, and it is an identifier or a free text
LONG = 60  # characters of a name or a value: longer ones are a text
DATE = re.compile(r"(\d{4})[-/.:]\d{1,2}[-/.:]\d{1,2}(\D.*)?|\d{1,2}[-/.]\d{1,2}[-/.](\d{4})(\D.*)?")

Said = Mapping[str, str]  # what a row says, by column


def chosen(rows: Sequence[Said], labels: Sequence[str]) -> tuple[list[Said], list[str]]:
    """Return of each row what makes slices, and the names of the columns that make none.

    All rows come out with the same columns; a value that is not given is ``""``.

    Args:
        rows: one for each image.
        labels: the classes of these; a column that divides the images as they do, or as one before it does, is left
            out.
    """
    kept: dict[str, list[str]] = {}
    left_out, divisions = [], {_division(labels)}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [" ".join(row.get(name, "").split()) for row in rows]
        shown = " ".join(name.split())
        if len({*values}) > MOST and all(DATE.fullmatch(value) for value in values if value):
            values, shown = [_year(value) for value in values], f"{shown} (year)"
        if _names_few(shown, values) and shown not in kept and (division := _division(values)) not in divisions:
            kept[shown] = values
            divisions.add(division)
        else:
            left_out.append(name)
    return [{name: values[row] for name, values in kept.items()} for row in range(len(rows))], left_out


def _names_few(name: str, values: Sequence[str]) -> bool:
    given = [value for value in values if value]
    return (
        2 <= len({*values}) <= MOST
        and len(given) >= LEAST * len({*given})
        and all(text.isprintable() and len(text) <= LONG for text in (name, *{*given}))
        and bool(name)
    )


def _division(values: Sequence[str]) -> bytes:
    """Return how values divide the images, whatever they are called: their numbers in the order of appearance."""
    numbers: dict[str, int] = {}
    return array("L", (numbers.setdefault(value, len(numbers)) for value in values)).tobytes()


def _year(date: str) -> str:
    match = DATE.fullmatch(date)
    return (match.group(1) or match.group(3)) if match else ""
