"""The manifest: which image is of what, and in which split it is. ``prepare`` writes it, every later stage reads it."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from operator import attrgetter
from pathlib import Path
from sys import intern
from typing import Literal, cast

from thaw.artifacts import atomic

Split = Literal["train", "val", "test"]
SAME = "same/"  # begins the name of a group that corrections have made; the content hash of one of its images follows
NOTHING: Mapping[str, str] = {}  # one for all images of which nothing more is said
BY = "by "  # begins the name of a column that makes slices, so that it can be called as it likes


@dataclass(frozen=True, slots=True)
class Record:
    """One usable image: ``path`` relative to the data folder ('/'-separated), size in pixels after EXIF rotation.

    ``metadata`` is what the data say of it that makes slices (see ``columns``), ``""`` where they do not say it.
    """

    path: str
    label: str
    split: Split
    sha256: str
    width: int
    height: int
    group: str
    metadata: Mapping[str, str] = field(default_factory=lambda: NOTHING, hash=False)

    @property
    def unit(self) -> str:
        """What it shares a split with, named by what decides which: its group, or its content and so its copies.

        A group that corrections have made has the place of one of its images, which therefore does not move.
        """
        if self.group.startswith(SAME):
            return f"image/{self.group.removeprefix(SAME)}"
        return f"group/{self.group}" if self.group else f"image/{self.sha256}"


COLUMNS = [one.name for one in fields(Record)][:-1]  # and then those of the metadata


def write(path: Path, records: list[Record]) -> None:
    """Write the manifest, one row per record, in the order given."""
    by = list(records[0].metadata) if records else []  # all have the same
    cells = attrgetter(*COLUMNS)
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*COLUMNS, *(f"{BY}{name}" for name in by)])
        rows.writerows([*cells(record), *(record.metadata[name] for name in by)] for record in records)


def read(path: Path) -> list[Record]:
    """Read the manifest that ``prepare`` wrote.

    What many records say (class, group, size, metadata) is in memory once: of a million, that halves what they take.
    """
    number = cache(int)
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        by = [name.removeprefix(BY) for name in next(rows)[len(COLUMNS) :]]
        said = cache(lambda *values: dict(zip(by, map(intern, values), strict=True)))
        return [
            Record(
                name,
                intern(label),
                cast(Split, intern(split)),
                sha256,
                number(width),
                number(height),
                intern(group),
                said(*more),
            )
            for name, label, split, sha256, width, height, group, *more in rows
        ]
