"""Parquet files that hold the images themselves, as data sets of the Hugging Face Hub do: a column of their bytes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from thaw.data.layouts import Entry, Layout, Refused, is_plain, split_of
from thaw.data.tables import GROUP, LABEL, PATH, cell, is_text, named
from thaw.errors import UserError

ROWS = 64  # in memory at once


def with_images(source: Path, paths: Sequence[str]) -> list[Path]:
    """Find the Parquet files that hold images: the file itself, or those of a folder whose images are nowhere else.

    Args:
        source: the file or folder.
        paths: what a folder holds.
    """
    files = [source / path for path in paths] if source.is_dir() else [source]
    found = sorted(file for file in files if file.suffix.lower() == ".parquet")
    return [file for file in found if _image_column(_schema(file))]


def unpack(files: Sequence[Path], folder: Path) -> Layout:
    """Write the images into a folder, and return what the files say of them.

    Where there are several files, their names may say the split (``train-00000-of-00002.parquet``).

    Raises:
        UserError: a file is damaged, or no column is the label.
    """
    rows = [row for file in files for row in _rows(file, folder)]
    entries = [row for row in rows if isinstance(row, Entry)]
    if {entry.split for entry in entries} <= {None, "train"}:
        entries = [replace(entry, split=None) for entry in entries]
    notes = [f"the images are in {len(files)} Parquet file{'s' * (len(files) > 1)}"]
    refused = [row for row in rows if isinstance(row, Refused)]
    return Layout(sorted(entries, key=lambda one: one.path), refused, notes, listed=True)


def _schema(file: Path) -> Any:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_schema(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{file}: expected a Parquet file, found: {' '.join(str(error).split())}; get it again"
        ) from None


def _image_column(schema: Any) -> str:
    """The column of bytes, or of bytes and a path; nothing if there is none."""
    of_images = [one.name for one in schema if str(one.type).startswith("struct") and "bytes: binary" in str(one.type)]
    of_bytes = [one.name for one in schema if str(one.type) in ("binary", "large_binary")]
    return next(iter(of_images), "") or named(of_bytes, f"{PATH} bytes imagebytes", set())


def _rows(file: Path, folder: Path) -> Iterator[Entry | Refused]:
    """Write the images of a file, and yield what is said of each."""
    import pyarrow.parquet

    schema = _schema(file)
    image = _image_column(schema)
    others = [one.name for one in schema if one.name != image]
    label, group = named(others, LABEL, set()), named(others, GROUP, set())
    if not label:
        raise UserError(f"{file}: expected a column of labels, found {', '.join(others) or 'none'}; rename it to label")
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    # What the numbers of classes stand for.
    names = {name: about["names"] for name, about in features.items() if isinstance(about, dict) and "names" in about}
    simple = [one.name for one in schema if is_text(one.type) and one.name not in (image, label, group)]
    split, number = split_of(file.stem), 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(
            ROWS, columns=[image, label, *([group] if group else []), *simple]
        ):
            for row in batch.to_pylist():
                value = row[image]
                content, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
                suffix = PurePosixPath(str(name or "")).suffix
                path = f"{file.stem}/{number:06}{suffix if is_plain(suffix) else ''}"
                number += 1
                if not content:
                    yield Refused(path, "no bytes: in a Parquet file")
                    continue
                (folder / path).parent.mkdir(exist_ok=True)
                (folder / path).write_bytes(content)
                called, *about = (_called(row[name], names.get(name)) for name in (label, *simple))
                if not called or not is_plain(called):
                    yield Refused(path, "no label: in a Parquet file")
                else:
                    of_group = str(row[group] or "") if group else ""
                    yield Entry(path, called, split, of_group, dict(zip(simple, about, strict=True)))
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{file}: expected a complete Parquet file, found: {error}; get it again") from None


def _called(value: object, names: Sequence[str] | None) -> str:
    """Return a value as a text, by its name if it is the number of a class."""
    return str(names[value]) if names and isinstance(value, int) and 0 <= value < len(names) else cell(value)
