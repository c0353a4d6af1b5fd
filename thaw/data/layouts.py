"""What a data folder says of its files: the class, and perhaps the split and the group of each. Opens no image.

A data folder has one of three layouts:

- class folders: ``<class>/…/<image>``;
- predefined splits: ``train/<class>/…``, ``val/<class>/…`` (or ``valid``, ``validation``) and ``test/<class>/…``;
- ``index.csv`` in the folder, with the columns path and label and optionally split and group.
"""

import csv
import glob
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath

from thaw.data import images
from thaw.data.images import SUFFIXES
from thaw.data.manifest import Split
from thaw.errors import UserError

# In the order of their use; an image that stands in two of them stays in the later one.
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
INDEX = "index.csv"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a layout says about a file: no ``split`` if it predefines none at all, ``""`` if it names no group."""

    path: str
    label: str
    split: Split | None = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that is not used, and why: a kind, and often ``: `` and the details."""

    path: str
    reason: str

    @property
    def kind(self) -> str:
        """The reason without its details, for counting."""
        return self.reason.partition(":")[0]


def scan(data: Path) -> tuple[list[Entry], list[Refused]]:
    """Read the layout of a data folder, without opening any image.

    Returns:
        The files that belong to a class, and those that lie outside the class folders; both by path.

    Raises:
        UserError: the folder is missing or empty, or its layout is not one of those of this module, or contradicts
            itself; the message says where.
    """
    if not data.is_dir():
        raise UserError(
            f"expected images in the folder {data}, found no such folder; "
            "bring some with 'python -m stages.get_data digits' or 'python -m stages.get_data folder PATH'"
        )
    paths = visible(data)
    if not paths:
        raise UserError(f"expected images in {data}, found no file; add a folder of images for each class")
    entries, outside = (read_index(data / INDEX), []) if INDEX in paths else _scan_folders(data, paths)
    require_coherence(data, entries)
    return entries, outside


def visible(folder: Path) -> list[str]:
    """List every file below ``folder`` that is not hidden, relative and '/'-separated, sorted.

    Raises:
        UserError: a subfolder cannot be read, or a name could not stand in a CSV file.
    """

    def stop(error: OSError) -> None:
        raise UserError(f"{error.filename}: expected a readable folder, found: {error.strerror}; mend or remove it")

    found = []
    for root, names, files in os.walk(folder, onerror=stop, followlinks=True):
        names[:] = [name for name in names if not _hidden(name)]
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in files if not _hidden(name)]
    for path in found:
        _require_plain(path, f"in {folder}", "rename it")
    return sorted(found)


def read_index(file: Path) -> list[Entry]:
    """Read a CSV file with the columns path and label and optionally split and group, sorted by path.

    Paths are relative to the file's folder. Where some rows name a split, the others are train.

    Raises:
        UserError: a column, a path or a split word is not as expected; the message names the line.
    """
    columns = [field.name for field in fields(Entry)]
    entries: dict[str, Entry] = {}
    for line, row in _rows(file, columns):
        path = posixpath.normpath(row["path"].replace(os.sep, "/"))  # on Windows, people write backslashes
        label, group = row["label"].strip(), row.get("group", "").strip()
        if not row["path"] or not label:
            raise UserError(f"{file}, line {line}: expected a path and a label, found {row}; fill in both")
        for value in (path, label, group):
            _require_plain(value, f"in {file}, line {line}", "correct it")
        if PurePosixPath(path).is_absolute() or Path(path).drive or path.split("/")[0] == "..":
            raise UserError(
                f"{file}, line {line}: expected a path inside {file.parent}, found {row['path']!r}; "
                "move the image there, and give its path relative to that folder"
            )
        if not (file.parent / path).is_file():
            raise UserError(
                f"{file}, line {line}: expected an image at {file.parent / path}, found no such file; "
                "correct the path (relative to the CSV file's folder) or remove the line"
            )
        if path in entries:
            raise UserError(f"{file}, line {line}: expected each image once, found {path!r} again; remove one of both")
        word = row.get("split", "").strip()
        if word and word.lower() not in SPLIT_WORDS:
            raise UserError(
                f"{file}, line {line}: expected a split out of {', '.join(SPLIT_WORDS)} or nothing, found {word!r}; "
                "correct it"
            )
        entries[path] = Entry(path, label, SPLIT_WORDS[word.lower()] if word else None, group)
    if not entries:
        raise UserError(f"{file}: expected one line per image below the header, found none; add them")
    rest: Split | None = "train" if any(entry.split for entry in entries.values()) else None
    return [replace(entries[path], split=entries[path].split or rest) for path in sorted(entries)]


def require_coherence(place: Path, entries: list[Entry]) -> None:
    """Stop at what no decoding can mend: contradictions between classes, groups and predefined splits.

    Args:
        place: the folder or file to name in an error.

    Raises:
        UserError: there is a single class, or a class that train does not hold, or a group in two splits.
    """
    labels = {entry.label for entry in entries}
    if len(labels) < 2:
        inner = any(entry.path.count("/") > 1 for entry in entries)
        raise UserError(
            f"expected at least two classes in {place}, found only {quoted(labels)}; "
            + ("if the classes are folders inside it, move them up" if inner else "add images of another class")
        )
    used: dict[Split, set[str]] = {split: set() for split in SPLITS}
    groups = defaultdict(set)
    for entry in entries:
        used[entry.split or "train"].add(entry.label)
        if entry.group:
            groups[entry.group].add(entry.split or "train")
    for split in SPLITS:
        if unknown := sorted(used[split] - used["train"]):
            raise UserError(
                f"expected every class of {split} in train too in {place}, found {quoted(unknown)} in {split} only; "
                "add training images of it, or correct its name"
            )
    for group, splits in sorted(groups.items()):
        if len(splits) > 1:
            raise UserError(
                f"expected each group in one split in {place}, found the group {group!r} in "
                f"{' and '.join(sorted(splits))}; give all its images the same split"
            )


def _scan_folders(data: Path, paths: list[str]) -> tuple[list[Entry], list[Refused]]:
    folders = _folders(data)
    if not folders:
        raise UserError(
            f"expected a folder for each class in {data}, found {len(paths)} files and no folder; "
            "sort the images into class folders, or list them in index.csv with the columns path,label"
        )
    named = [name for name in folders if name.lower() in SPLIT_WORDS]
    # A folder 'train' that holds images and stands beside 'bus' is a class; one that holds folders is a split.
    splits = named if any(_folders(data / name) for name in named) else []
    if len(splits) < len(named) == len(folders):
        raise UserError(
            f"expected a folder for each class inside {data / named[0]}, found only files; sort them into some"
        )
    if splits and len(splits) < len(folders):
        other = next(name for name in folders if name not in splits)
        raise UserError(
            f"expected either split folders or class folders in {data}, found {splits[0]!r} beside {other!r}; "
            "move one kind away, or rename the class"
        )
    depth = 1 if splits else 0
    entries, outside = [], []
    for path in paths:
        parts = path.split("/")
        if len(parts) > depth + 1:
            entries.append(Entry(path, parts[depth], SPLIT_WORDS[parts[0].lower()] if splits else None))
        elif PurePosixPath(path).suffix.lower() in images.SUFFIXES:
            raise UserError(f"expected every image in a class folder, found {path!r} outside; move or remove it")
        else:
            outside.append(Refused(path, "outside the class folders"))
    filled = {data.joinpath(*entry.path.split("/")[: depth + 1]) for entry in entries}
    tops = [data / split for split in splits] or [data]
    for folder in (top / name for top in tops for name in _folders(top)):
        if folder not in filled:
            raise UserError(f"expected images in the class folder {folder}, found none; add some or remove the folder")
    return entries, outside


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not _hidden(path.name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # what zip archives made on a Mac hold besides the files


def _rows(file: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the cells of each row of a CSV file that has the right columns."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:  # spreadsheets write a byte-order mark
            rows = csv.DictReader(text, restval="", strict=True)
            header = rows.fieldnames or []
            # An unknown column may be a misspelt 'group', and images of one group in two splits spoil every figure.
            if not {"path", "label"} <= set(header) <= set(columns) or len(set(header)) < len(header):
                raise UserError(
                    f"{file}: expected the columns path,label and optionally split,group, found {','.join(header)!r}; "
                    "correct its first line"
                )
            for row in rows:
                if None in row:
                    raise UserError(
                        f"{file}, line {rows.line_num}: expected {len(header)} cells, found more; "
                        "put double quotes around a cell that holds a comma"
                    )
                yield rows.line_num, row
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(f"{file}: expected a comma-separated file in UTF-8, found: {error}; save it as one") from None


def _require_plain(text: str, place: str, remedy: str) -> None:
    # Control characters break CSV rows; lone surrogates are how Python shows bytes that are not UTF-8.
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", text):
        raise UserError(f"expected names of printable characters in UTF-8 {place}, found {text!a}; {remedy}")


def quoted(names: Iterable[str]) -> str:
    return " and ".join(repr(name) for name in sorted(names))


def find_pictures(names: Sequence[str]) -> list[Path]:
    """Return the files that are meant, each once: those named, those in folders named, those that patterns match.

    Raises:
        UserError: a name means nothing.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        # Path.glob takes no absolute patterns.
        matches = [path] if path.exists() else [Path(one) for one in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        files = [file for match in matches for file in _inside(match)]
        if not files:
            raise UserError(f"expected a picture, a folder of them or a pattern, found nothing at {name}; correct it")
        found |= dict.fromkeys(files)
    return list(found)


def _inside(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [path / file for file in visible(path) if Path(file).suffix.lower() in SUFFIXES]
