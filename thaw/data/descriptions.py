"""Tables beside images whose classes others say: they describe these (a camera, a site, a patient), and label none."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from thaw.data import tables
from thaw.data.layouts import Entry, Layout, is_plain, split_of, suffix_of
from thaw.data.manifest import BY, Split
from thaw.errors import UserError

Said = Mapping[str, str]  # what a table says of an image, by column


def added(data: Path, layout: Layout, paths: Sequence[str]) -> Layout:
    """Add what tables say to images that folders or names have given a class: a group, a split, what makes slices.

    Such tables lie in the data folder, or in the one in it that all is in. One that names no image, or that cannot be
    read, is left as what it was.

    Args:
        data: the folder.
        layout: what was understood without the tables.
        paths: the files in the folder.
    """
    for table in paths:
        folder, _, name = table.rpartition("/")
        is_table = suffix_of(name) in tables.SUFFIXES and "submission" not in name.lower()
        is_new = name not in [PurePosixPath(one).name for one in layout.tables]
        if is_table and is_new and folder in ("", layout.top):
            layout = _with(data, table, layout, paths)
    return layout


def _with(data: Path, table: str, layout: Layout, paths: Sequence[str]) -> Layout:
    """Add what one table says, and how much of it is about the images."""
    try:
        columns, rows = tables.read(data / table)
    except UserError:
        return layout
    labels = {entry.path: entry.label for entry in layout.entries}
    by_path, meant = _images(columns, rows, tables.Places(paths, table.rpartition("/")[0]), labels)
    if not by_path:
        return layout
    others = [name for name in columns if name != by_path]
    by_image = defaultdict[str, list[Said]](list)
    for row, path in zip(rows, meant, strict=True):
        by_image[path].append({name: row[name].strip() for name in others})
    unmatched = len(by_image.pop("", []))
    said = {path: {name: _agreed([one[name] for one in rows]) for name in others} for path, rows in by_image.items()}
    by_group, divided = _group(others, said, labels), ""
    if _in_several_splits(by_group, said, layout.entries):
        by_group, divided = "", by_group
    by_split, splits = _splits(others, said, layout.entries)

    def described(entry: Entry) -> Entry:
        row = said.get(entry.path, {})
        group = row[by_group] if row and by_group else ""
        about = {name.removeprefix(BY): row[name] for name in row if name not in (by_group, by_split)}
        return replace(
            entry,
            split=splits.get(entry.path, entry.split),
            group=entry.group or (group if is_plain(group) else ascii(group)[1:-1]),
            metadata={**entry.metadata, **{name: about[name] for name in about if not entry.metadata.get(name)}},
        )

    note = f"{table} describes {len(said):,} images, by its column {by_path!r}"
    if bare := len(labels) - len(said):
        note += f"; without a row: {bare:,}"
    if unmatched:
        note += f"; rows that name no image, or more than one: {unmatched:,}"
    if differing := sum(any(one != rows[0] for one in rows) for rows in by_image.values()):
        note += f"; with rows that differ, of which only what they agree in is taken: {differing:,}"
    if divided:
        note += (
            f"; one {divided!r} is in several of the splits that folders name, so that it makes slices and no groups"
        )
    return replace(
        layout,
        entries=[described(entry) for entry in layout.entries],
        refused=[one for one in layout.refused if one.path != table],
        notes=[*layout.notes, note, *([f"the images of one {by_group!r} stay in one split"] if by_group else [])],
        tables=[*layout.tables, table],
    )


def _images(
    columns: Sequence[str], rows: tables.Rows, places: tables.Places, there: Collection[str]
) -> tuple[str, list[str]]:
    """Return the column that names most images, and the one that each row names, ``""`` where it names none of them.

    A column that is not called as one of paths must name another image in at least half of the rows: numbers and years
    may be the names of some images by chance.
    """
    best: tuple[str, list[str]] = "", []
    most = 0
    for name in sorted(columns, key=lambda name: not tables.is_called(name, tables.PATH)):
        found = [path if path in there else "" for path in places.find([row[name] for row in rows])]
        count = len({*found} - {""})
        if count > most and (tables.is_called(name, tables.PATH) or 2 * count >= len(rows)):
            best, most = (name, found), count
    return best


def _agreed(values: Sequence[str]) -> str:
    """Return what all rows of an image say; nothing if they differ."""
    return values[0] if len({*values}) == 1 else ""


def _group(columns: Sequence[str], said: Mapping[str, Said], labels: Mapping[str, str]) -> str:
    """Return the column of groups; none if it says the classes once more, as no class could be split then."""
    name = tables.named(columns, tables.GROUP, set())
    pairs = {(row[name], labels[path]) for path, row in said.items()} if name else set()
    is_class = len(pairs) == len({group for group, _ in pairs}) == len({label for _, label in pairs})
    return "" if is_class else name


def _in_several_splits(column: str, said: Mapping[str, Said], entries: Sequence[Entry]) -> bool:
    """Whether images with the same value in a column are in more than one of the splits that folders name."""
    pairs = {(said.get(entry.path, {}).get(column, ""), entry.split) for entry in entries if entry.split}
    values = [value for value, _ in pairs if value]
    return len({*values}) < len(values)


def _splits(
    columns: Sequence[str], said: Mapping[str, Said], entries: Sequence[Entry]
) -> tuple[str, Mapping[str, Split]]:
    """Return the column of splits, and the split of each image, in train where none is said.

    Nothing where the images have splits already, or where all would be in the same one or none in train.
    """
    name = tables.named(columns, tables.SPLIT, set())
    if not name or any(entry.split for entry in entries):
        return "", {}
    found: dict[str, Split] = {
        entry.path: split_of(said.get(entry.path, {}).get(name, "")) or "train" for entry in entries
    }
    return (name, found) if {"train"} < {*found.values()} else ("", {})
