"""Data sets whose images are listed in a table: CSV, TSV and their kin, JSON lines, Parquet.

A table has a row for each image: a path, a label, and perhaps a split, a group and more. The columns are found by the
names that people give them; which of several is the path, by what names files.
"""

import csv
import io
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from thaw.data import shards
from thaw.data.layouts import Entry, Layout, Options, Refused, few, is_picture, is_plain, quoted, split_of, suffix_of
from thaw.data.manifest import BY, Split
from thaw.errors import UserError

INDEX = "index.csv"  # the list that ``get_data`` writes: path, label, split, group, and what makes slices
SUFFIXES = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"}
# How people call the columns, without case, spaces, _ and -; the likeliest first.
PATH = (
    "path filepath filename imagepath imgpath imagefile imagename imgname file image img photo picture imageid imgid "
    "id name"
)
LABEL = "label labels class classname classlabel category categoryname target labelname species breed diagnosis cls y"
GROUP = "group groupid patient patientid subject subjectid person personid individual individualid"
SPLIT = "split set subset fold partition phase"

Rows = list[dict[str, str]]


def inside(data: Path, paths: Sequence[str], options: Options) -> Layout | None:
    """Understand a folder by a table in it; None if it has none that is about its images.

    Args:
        data: the folder.
        paths: the files in it.
        options: what a person says.

    Raises:
        UserError: several tables are, and nothing says which; or see ``understand``.
    """
    if options.label_from:
        return None
    tables = [path for path in paths if suffix_of(path) in SUFFIXES]
    if not tables:
        return None
    if INDEX in tables and any(is_called(name, LABEL) for name in read(data / INDEX)[0]):
        return _merged([(INDEX, understand(data, data / INDEX, paths, options))], paths)
    named = [path for path in tables if PurePosixPath(path).stem.lower() == "metadata"]  # Hugging Face's image folders
    pictures = [path for path in paths if is_picture(path)]

    def is_above(table: str) -> bool:
        """Whether most of the images lie beside or below it: others are about something else."""
        folder = table.rpartition("/")[0]
        return 2 * sum(path.startswith(f"{folder}/" if folder else "") for path in pictures) > len(pictures)

    candidates = named or [path for path in tables if is_above(path) and "submission" not in path.lower()]
    found = [(path, layout) for path in candidates if (layout := _tried(data, path, paths, options))]
    splits = {split_of(PurePosixPath(path).stem) for path, _ in found} - {None}
    if len(found) > 1 and not named and len(splits) < len(found):
        raise UserError(
            f"expected one table of the images in {data}, found {few(path for path, _ in found)}; name the one that is "
            f"meant: 'python -m stages.get_data folder {data / found[0][0]}'"
        )
    return _merged(found, paths) if found else None


def _tried(data: Path, table: str, paths: Sequence[str], options: Options) -> Layout | None:
    """Understand a table, if it is about images of its folder: at least half of its rows must name one."""
    try:
        layout = understand(data, data / table, paths, options)
    except UserError:
        if options.path_column or options.label_column:
            raise
        return None
    missing = sum(one.kind == "no such file" for one in layout.refused)
    return layout if len(layout.entries) + len(layout.refused) >= 2 * missing else None


def _merged(found: Sequence[tuple[str, Layout]], paths: Sequence[str]) -> Layout:
    """Put the tables of a data set together; a table's name may say the split of its images."""
    entries: dict[str, Entry] = {}
    refused, notes = list[Refused](), list[str]()
    several = len(found) > 1
    for table, layout in found:
        notes += [f"{table}: {note}" for note in layout.notes]
        refused += layout.refused
        of_all = split_of(PurePosixPath(table).stem) or (split_of(table.split("/")[0]) if "/" in table else None)
        for entry in layout.entries:
            entries[entry.path] = replace(entry, split=entry.split or (of_all if several else None))
    if any(entry.split for entry in entries.values()):
        entries = {path: replace(entry, split=entry.split or "train") for path, entry in entries.items()}
    known = {*entries, *(one.path for one in refused), *(table for table, _ in found)}
    for path in (one for one in paths if one not in known):
        refused.append(Refused(path, "not in the table" if is_picture(path) else "not an image: by its name"))
    return Layout(sorted(entries.values(), key=lambda one: one.path), refused, notes, listed=True)


def understand(data: Path, table: Path, paths: Sequence[str], options: Options) -> Layout:
    """Understand a table of images.

    Args:
        data: the folder that the paths of the result are relative to.
        table: the file.
        paths: the files below ``data``.
        options: what a person says; ``root`` is where the table's paths start.

    Raises:
        UserError: it is no table, or does not say which columns are the path and the label.
    """
    columns, rows = read(table)
    base = table.parent.relative_to(data).as_posix() if table.is_relative_to(data) else ""
    places = Places(paths, "" if base == "." else base)
    by_path, meant = _path_column(table, rows, columns, places, options.path_column)
    return said(table, columns, rows, by_path, meant, options)


def said(
    table: Path, columns: Sequence[str], rows: Rows, by_path: str, meant: Sequence[str], options: Options
) -> Layout:
    """Say what rows say of files.

    Args:
        table: the file to name.
        columns: what the rows say.
        rows: one for each image.
        by_path: the column that names the file.
        meant: the file of each row; ``""`` where there is none.
        options: what a person says.

    Raises:
        UserError: the rows do not say which column is the label.
    """
    notes: list[str] = []
    hot = [] if options.label_column else _one_hot(rows, [name for name in columns if name != by_path])
    by_label = "" if hot else _label_column(table, rows, [name for name in columns if name != by_path], options)
    by_split = named(columns, SPLIT, {by_path, by_label})
    words = {row[by_split].strip() for row in rows} - {""} if by_split else set[str]()
    if words and not any(map(split_of, words)):
        by_split = ""  # the numbers of folds, or somebody's own words
    by_group = named(columns, GROUP, {by_path, by_label, by_split})
    if (by_path, by_label) != ("path", "label"):
        what = f"{len(hot)} columns of 0 and 1" if hot else repr(by_label)
        notes.append(f"the column {by_path!r} is the path, {what} the label")
    if by_group and by_group != "group":
        notes.append(f"the images of one {by_group!r} stay in one split")
    others = [name for name in columns if name not in (by_path, by_label, by_split, by_group, *hot)]
    entries: dict[str, Entry] = {}
    refused: dict[str, Refused] = {}
    for number, (row, path) in enumerate(zip(rows, meant, strict=True), start=2):
        named_so = row[by_path].strip()
        label = next((name for name in hot if float(row[name] or 0) == 1), "") if hot else row[by_label].strip()
        shown = path or (named_so if is_plain(named_so) else ascii(named_so)[1:-1]) or f"{table.name}, row {number}"
        if not path:
            refused[shown] = Refused(shown, f"no such file: row {number} of {table.name}")
            continue
        word = row[by_split].strip() if by_split else ""
        split: Split | None = split_of(word)
        group = row[by_group].strip() if by_group else ""
        if not label or not is_plain(label + group):
            refused[path] = Refused(path, f"no label: row {number} of {table.name}")
        elif word and not split:
            refused[path] = Refused(path, f"no such split: {word!a} in row {number} of {table.name}")
        elif path in entries and entries[path].label != label:
            refused[path] = Refused(path, f"in two classes: {table.name} says {quoted({label, entries[path].label})}")
        else:
            entries[path] = Entry(path, label, split, group, {name.removeprefix(BY): row[name] for name in others})
    kept = [entry for path, entry in sorted(entries.items()) if path not in refused]
    if any(entry.split for entry in kept):
        kept = [replace(entry, split=entry.split or "train") for entry in kept]
    return Layout(kept, list(refused.values()), notes, listed=True)


def read(table: Path) -> tuple[list[str], Rows]:
    """Read a table as texts, whatever its kind: its columns, and its rows but for those that are blank.

    Raises:
        UserError: it is none.
    """
    try:
        columns: list[str] = []
        match table.suffix.lower():
            case ".parquet":
                rows = _read_parquet(table)
            case ".jsonl" | ".ndjson":
                lines = (json.loads(line) for line in _text(table).splitlines() if line.strip())
                rows = [{str(key): cell(value) for key, value in one.items()} for one in lines]
            case _:
                columns, rows = _read_csv(_text(table))
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{table}: expected a table in UTF-8 or UTF-16, found: {reason}; save it as one") from None
    columns = [*dict.fromkeys([*columns, *(key for row in rows for key in row)])]
    return columns, [{key: row.get(key, "") for key in columns} for row in rows]


def _text(table: Path) -> str:
    with shards.opened(table) as file:
        content = file.read()
    is_wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")  # what spreadsheets call Unicode text
    return content.decode("utf-16" if is_wide else "utf-8-sig")


def _read_csv(text: str) -> tuple[list[str], Rows]:
    """Read lines of cells; what separates them is what the header is cut by most."""
    first = re.search(r"[^\r\n]*[^ \t\r\n,;|][^\r\n]*", text)
    delimiter = max(",;\t|", key=first[0].count if first else text.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines = ((table.line_num, cells) for cells in table if any(cell.strip() for cell in cells))
    columns = [name.strip() for _, names in itertools.islice(lines, 1) for name in names]
    if len({*columns}) < len(columns):
        raise ValueError(f"the column {max(columns, key=columns.count)!r} twice")
    rows = []
    for number, cells in lines:
        if len(cells) > len(columns):
            raise ValueError(f"line {number} has more cells than the header; put double quotes around a comma")
        rows.append(dict(itertools.zip_longest(columns, cells, fillvalue="")))
    return columns, rows


def _read_parquet(table: Path) -> Rows:
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(table)
    texts = [field.name for field in schema if is_text(field.type)]
    read = pyarrow.parquet.read_table(table, columns=texts)
    return [{key: cell(value) for key, value in row.items()} for row in read.to_pylist()]


def is_text(kind: object) -> bool:
    """Whether the values of a Parquet column of that type can be read as a text."""
    nested = ("struct", "list", "large_list", "fixed_size_list", "map", "extension")
    return not str(kind).startswith((*nested, "binary", "large_binary", "fixed_size_binary"))


def cell(value: object) -> str:
    """Return a value as a text; what is missing, also among numbers, is empty."""
    return "" if value is None or value != value else str(value)  # only NaN is not itself


def is_called(name: str, words: str) -> bool:
    """Whether a column is called by one of some words."""
    return _plain(name) in words.split()


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


def named(columns: Sequence[str], words: str, taken: set[str]) -> str:
    """Return the column that is called by the likeliest of some words; nothing if none is."""
    by_word = {_plain(name): name for name in reversed(columns) if name not in taken}
    return next((by_word[word] for word in words.split() if word in by_word), "")


def _path_column(
    table: Path, rows: Rows, columns: Sequence[str], places: "Places", given: str | None
) -> tuple[str, list[str]]:
    """The column that names files, and those files: of the columns that are called so, the one that names most."""
    called = [_given(table, "--path-column", given, columns)] if given else []
    called = called or [name for name in columns if is_called(name, PATH)]
    called.sort(key=lambda name: given or PATH.split().index(_plain(name)))
    found = {name: places.find([row[name] for row in rows]) for name in called}
    if not found:
        raise UserError(
            f"{table}: expected a column of paths ({', '.join(PATH.split()[:5])} …), found {few(columns) or 'none'}; "
            "name it: --path-column NAME"
        )
    return max(found.items(), key=lambda one: sum(map(bool, one[1])))


def _label_column(table: Path, rows: Rows, columns: Sequence[str], options: Options) -> str:
    """The column of labels; of two that say the same in words and in numbers, the words."""
    if options.label_column:
        return _given(table, "--label-column", options.label_column, columns)
    called = [name for name in columns if is_called(name, LABEL)]
    called.sort(key=lambda name: (all(_is_number(row[name]) for row in rows), LABEL.split().index(_plain(name))))
    same = [name for name in called if called and _alike(rows, called[0], name)]
    if not called or len(same) < len(called):
        found = f"{few(called)}, which differ" if called else few(columns) or "none"
        raise UserError(
            f"{table}: expected a column of labels ({', '.join(LABEL.split()[:5])} …), found {found}; name it: "
            "--label-column NAME"
        )
    return called[0]


def _given(table: Path, option: str, name: str, columns: Sequence[str]) -> str:
    if name not in columns:
        raise UserError(
            f"{option}: expected one of the columns of {table} ({few(columns, 20)}), found {name!r}; correct it"
        )
    return name


def _alike(rows: Rows, one: str, other: str) -> bool:
    """Whether two columns divide the rows in the same way."""
    pairs = {(row[one], row[other]) for row in rows}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"\s*-?\d+([.,]\d+)?\s*", text))


def _one_hot(rows: Rows, columns: Sequence[str]) -> list[str]:
    """The columns of 0 and 1 of which each row has one 1; none if a column is called a label, or they are not so."""
    if any(is_called(name, LABEL) for name in columns):
        return []
    hot = [name for name in columns if all(row[name].strip() in ("0", "1", "0.0", "1.0") for row in rows)]
    is_so = len(hot) > 1 and all(sum(float(row[name]) for name in hot) == 1 for row in rows)
    return hot if is_so and rows else []


class Places:
    """Files, found by what a table says of them: a path, the end of one, or either without its ending.

    Absolute paths, and folders that are not there, are cut off at the front: as much for all rows as finds most files.
    """

    def __init__(self, paths: Sequence[str], base: str) -> None:
        self._base, self._paths = base, set(paths)

    @cached_property
    def _ends(self) -> dict[str, list[str]]:
        ends: dict[str, list[str]] = defaultdict(list)
        for path in filter(is_picture, self._paths):
            parts = path.split("/")
            for begin in range(len(parts)):
                end = "/".join(parts[begin:])
                ends[end].append(path)
                if suffix := PurePosixPath(end).suffix:
                    ends[end[: -len(suffix)]].append(path)
        return ends

    def find(self, all_said: Sequence[str]) -> list[str]:
        """Return the file that is meant in each row; nothing where none is, or several may be."""
        if not self._base and self._paths.issuperset(all_said):  # as in a list of a million that ``get_data`` wrote
            return [*all_said]
        split = [self._parts(said) for said in all_said]
        deepest = max((len(parts) for parts in split), default=0)
        tries = ([self._one(parts[cut:]) for parts in split] for cut in range(max(1, deepest)))
        return max(tries, key=lambda found: sum(map(bool, found)))

    def _parts(self, said: str) -> list[str]:
        return [part for part in said.strip().replace("\\", "/").split("/") if part not in ("", ".")]

    def _one(self, parts: Sequence[str]) -> str:
        end = "/".join(parts)
        here = f"{self._base}/{end}" if self._base else end
        if here in self._paths:
            return here
        found = self._ends.get(end, [])
        near = [path for path in found if path.startswith(f"{self._base}/")]
        return (near or found)[0] if len(near or found) == 1 else ""


def write(path: Path, entries: Sequence[Entry]) -> None:
    """Write ``index.csv``."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        by = list(entries[0].metadata) if entries else []  # all have the same
        rows.writerow(["path", "label", "split", "group", *(f"{BY}{name}" for name in by)])
        rows.writerows(
            [one.path, one.label, one.split or "", one.group, *(one.metadata[name] for name in by)] for one in entries
        )
