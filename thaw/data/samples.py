"""WebDataset's samples: files in a shard that share a name up to its first dot, an image and what is said of it.

``000123.jpg`` beside ``000123.cls`` (a number or a name), ``000123.json`` (a label, and perhaps a split, a group and
more, as in a row of a table) or ``000123.txt`` (a name, where it is no text that differs from image to image).
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from thaw.data import columns, images, shards, tables
from thaw.data.files import Listing
from thaw.data.layouts import Entry, Layout, Options, Refused, few, is_picture, split_of_shard, suffix_of

SAYING = ("cls", "json", "txt")  # the endings of what says something
NAMES = {"classes.txt", "classnames.txt"}  # beside the shards: the names of classes, by number, a line each
FEW = 3  # images of a text, on average: fewer, and the texts are no names of classes
MOST = 1000  # values of a column, but for dates: of what says more, no slices can be made


@dataclass(frozen=True, slots=True)
class _Sample:
    """An image, the files beside it that say something (``SAYING``), and other images of the same name; in ``tar``."""

    tar: str
    image: str
    beside: tuple[str, ...]
    others: tuple[str, ...]


def understand(data: Path, files: Listing, options: Options) -> Layout | None:
    """Understand shards of samples; None where less than half of the images in shards have a class beside them.

    Raises:
        UserError: several things that are said may be the class.
    """
    is_listed = bool(options.label_column)
    is_possible = not options.label_from and any(suffix_of(path)[1:] in SAYING for path in files.paths)
    found = list(_samples(files)) if is_possible else []
    if 2 * sum(bool(one.beside) for one in found) < max(1, len(found)):
        return None
    rows, dropped = _rows(data, found)
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in dropped]
    if not any(tables.is_called(name, tables.LABEL) or name == options.label_column for name in names):
        texts = [row["txt"] for row in rows if row.get("txt")]
        has_folders = any("/" in one.image[len(one.tar) + 1 :] for one in found)
        if has_folders or "txt" not in names or FEW * len({*texts}) > len(texts):
            return None  # class folders, or no texts, or captions
        options = replace(options, label_column="txt")
    for row in rows:
        for name in names:
            row.setdefault(name, "")
    said = tables.said(data / "shards", names, rows, "path", [row["path"] for row in rows], options)
    notes = ["files beside each image, of the same name, say its class", *said.notes]
    if dropped:
        notes.append(f"columns that are left out: {few(sorted(dropped))}")
    refused = [
        Refused(one.path, "no label: nothing beside it in its shard says one") if one.kind == "no label" else one
        for one in said.refused
    ]
    refused += [Refused(path, "another image of a sample") for one in found for path in one.others]
    known = {*(row["path"] for row in rows), *(one.path for one in refused)}
    known |= {path for one in found for path in one.beside}
    named = next((path for path in files.paths if PurePosixPath(path).name in NAMES and path not in known), None)
    for path in files.paths:
        if path not in known and path != named:
            outside = "no class: outside the samples"
            refused.append(Refused(path, outside if is_picture(path) else "not an image: by its name"))
    entries = _in_splits(_named(said.entries, data / named) if named else said.entries, files.shards)
    return Layout(entries, refused, notes, listed=is_listed, tables=[named] if named else [])


def _samples(files: Listing) -> Iterator[_Sample]:
    """Find the images in shards, and what is beside each; what has one name is beside each other in a sorted list."""
    tars = {*files.shards}

    def name(path: str) -> str:
        folder, slash, last = path.rpartition("/")
        return folder + slash + last.partition(".")[0]

    for stem, paths in itertools.groupby(files.paths, name):
        if not (tar := shards.tar_of(stem, tars)):
            continue
        endings = {path[len(stem) + 1 :].lower(): path for path in paths}
        pictures = [one for one in endings if f".{one.rpartition('.')[2]}" in images.SUFFIXES]
        if pictures:
            first, *others = sorted(pictures, key=lambda one: (one.count("."), one))
            yield _Sample(
                tar,
                endings[first],
                tuple(endings[ending] for ending in SAYING if ending in endings),
                tuple(endings[other] for other in others),
            )


def _rows(data: Path, found: Sequence[_Sample]) -> tuple[tables.Rows, set[str]]:
    """Read what is said of each sample, as a row of a table; and the columns that say too much to make slices.

    Equal values are one in memory, and those columns are given up as soon as they are known, so a million samples with
    their captions and addresses take no more than a million labels.
    """
    rows = tables.Rows()
    same = dict[str, str]()
    values: dict[str, set[str]] = {}
    dropped = set[str]()
    for tar, samples in itertools.groupby(found, lambda one: one.tar):
        listed = list(samples)
        names = [path[len(tar) + 1 :] for one in listed for path in one.beside]
        contents = shards.read(data / tar, names)
        for one in listed:
            row = {"path": one.image}
            for path in one.beside:
                for name, value in _said(suffix_of(path)[1:], next(contents)).items():
                    if name in dropped or name == "path":
                        continue
                    if not tables.is_called(name, f"{tables.LABEL} {tables.GROUP}") and name != "txt":
                        seen = values.setdefault(name, set())
                        if not columns.DATE.fullmatch(value):
                            seen.add(value)
                        if len(seen) > MOST or len(value) > columns.LONG:
                            dropped.add(name)
                            continue
                    row[name] = same.setdefault(value, value)
            rows.append(row)
    return rows, dropped


def _said(ending: str, content: bytes) -> dict[str, str]:
    """What a file says, by column; nothing where it cannot be read."""
    text = content.decode("utf-8", "replace").strip()
    if ending != "json":
        return {ending: text}
    with suppress(ValueError, RecursionError):
        said = json.loads(text)
        if isinstance(said, dict):
            return {str(name): tables.cell(value) for name, value in said.items()}
    return {}


def _named(entries: Sequence[Entry], file: Path) -> list[Entry]:
    """Put the names of classes in the place of their numbers."""
    names = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]

    def name(label: str) -> str:
        number = int(label) if label.isdecimal() else len(names)
        return (names[number] if number < len(names) else "") or label

    return [replace(entry, label=name(entry.label)) for entry in entries]


def _in_splits(entries: Sequence[Entry], tars: Sequence[str]) -> list[Entry]:
    """Take the split that the name of a shard says, where nothing beside the image says one."""
    of_shard = {tar: split_of_shard(tar) for tar in tars}
    splits = [entry.split or of_shard[shards.tar_of(entry.path, of_shard)] for entry in entries]
    if {*splits} <= {None, "train"}:
        return [replace(entry, split=None) for entry in entries]
    return [replace(entry, split=split or "train") for entry, split in zip(entries, splits, strict=True)]
