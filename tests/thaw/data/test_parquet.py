"""Parquet files with the images inside, as the Hugging Face Hub has them."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from tests.helpers import pictures
from thaw.data import indexing, sources
from thaw.data.layouts import Options
from thaw.errors import UserError


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pictures.pixels(number)).save(buffer, "PNG")
    return buffer.getvalue()


def write(file: Path, images: list[Any], labels: list[Any], names: list[str] | None = None, **more: list[Any]) -> Path:
    """Write a Parquet file as the Hub does; ``names`` are those of the numbers of labels."""
    table = pa.table({"image": images, "label": labels, **more})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file)
    return file


def hub(numbers: range) -> list[dict[str, Any]]:
    return [{"bytes": encoded(number), "path": f"{number}.png"} for number in numbers]


def test_a_file_with_numbers_for_labels(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", hub(range(6)), [0, 1, 0, 1, None, 0], ["cat", "dog"])
    layout = sources.write_images(file, tmp_path / "target", Options())
    assert Counter(entry.label for entry in layout.entries) == {"cat": 3, "dog": 2}
    assert [one.kind for one in layout.refused] == ["no label"]
    assert layout.notes == ["the images are in 1 Parquet file"]
    found = [(entry.path, entry.label) for entry in indexing.scan(tmp_path / "target").entries]
    assert found[:2] == [("a/000000.png", "cat"), ("a/000001.png", "dog")]
    assert (tmp_path / "target" / "a" / "000001.png").read_bytes() == encoded(1)


def test_a_folder_of_files_says_the_splits(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "data"
    write(folder / "train-00000-of-00002.parquet", hub(range(4)), list("abab"), patient_id=[1, 2, 3, 4])
    write(folder / "train-00001-of-00002.parquet", [encoded(n) for n in range(4, 6)], list("ab"))
    write(folder / "test-00000-of-00001.parquet", hub(range(6, 8)), list("ab"))
    (tmp_path / "set" / "README.md").write_text("about", encoding="utf-8")
    layout = sources.write_images(tmp_path / "set", tmp_path / "target", Options())
    assert Counter(entry.split for entry in layout.entries) == {"train": 6, "test": 2}
    assert {entry.group for entry in layout.entries} == {"", "1", "2", "3", "4"}
    assert indexing.scan(tmp_path / "target").entries == layout.entries


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a.parquet: expected a Parquet file, found: "):
        sources.write_images(tmp_path / "a.parquet", tmp_path / "target", Options())
    pyarrow.parquet.write_table(pa.table({"image": hub(range(2)), "x": [1, 2]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b.parquet: expected a column of labels, found x; rename it to label"):
        sources.write_images(tmp_path / "b.parquet", tmp_path / "target", Options())
    assert not (tmp_path / "target").exists()
    assert not (tmp_path / "target.unpacked").exists()
