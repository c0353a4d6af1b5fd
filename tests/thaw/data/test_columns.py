"""Which columns of a table make slices, and that they survive the way from there into the manifest."""

import csv
import dataclasses
import datetime
import json
import string
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import prepare
from tests.helpers import pictures
from tests.thaw.data.test_parquet import hub, write
from thaw.artifacts import Paths
from thaw.config.schema import Dataset
from thaw.data import columns, corrections, indexing, manifest, sources, tables
from thaw.data.corrections import Correction
from thaw.data.layouts import Layout, Options

LABELS = ["a", "b"] * 50
DATASET = Dataset(val=0.2, test=0.3, min_images=2, max_megapixels=1.0)


def of(values: list[str], name: str = "x", labels: list[str] | None = None) -> tuple[list[str], list[str]]:
    """The columns that come of one; and its values then."""
    rows, left_out = columns.chosen([{name: value} for value in values], labels or LABELS[: len(values)])
    kept = list(rows[0])
    assert bool(kept) != bool(left_out)
    return kept, [row[kept[0]] for row in rows] if kept else []


def days(count: int) -> list[datetime.date]:
    return [datetime.date(2019, 3, 1) + datetime.timedelta(days=11 * number) for number in range(count)]


@pytest.mark.parametrize(
    ("values", "is_kept"),
    [
        pytest.param(["Canon", "Nikon", "Nikon", "Canon", "x"] * 20, True, id="few"),
        pytest.param(["", "yes", "yes", ""] * 25, True, id="given-or-not"),
        pytest.param([str(n % 20) for n in range(100)], True, id="twenty"),
        pytest.param([str(n % 21) for n in range(100)], False, id="twenty-one"),
        pytest.param([str(18 + n % 73) for n in range(100)], False, id="age"),
        pytest.param([str(n) for n in range(100)], False, id="identifier"),
        pytest.param(["", *(f"note {n}" for n in range(9)), *[""] * 90], False, id="seldom-and-always-different"),
        pytest.param(["same"] * 100, False, id="one-value"),
        pytest.param([""] * 100, False, id="empty"),
        pytest.param([*["cat", "dog"] * 50], False, id="the-label-in-other-words"),
        pytest.param([*["it is what it is " * 9, "no"] * 49, "no", "no"], False, id="texts"),
        pytest.param([*["a\x1b[31mb", "no"] * 49, "no", "no"], False, id="not-printable"),
    ],
)
def test_a_column_that_names_few_things_is_kept(values: list[str], is_kept: bool) -> None:
    assert of(values)[0] == (["x"] if is_kept else [])


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y:%m:%d %H:%M:%S", "%d.%m.%Y", "%Y-%m-%dT%H:%M:%S+01:00", "%m/%d/%Y"])
def test_of_many_dates_it_is_the_year(form: str) -> None:
    kept, values = of([f"{day:{form}}" for day in days(90)], "taken")
    assert kept == ["taken (year)"]
    assert values == [str(day.year) for day in days(90)]


def test_few_dates_are_days_and_other_numbers_are_none() -> None:
    assert of([f"{day:%Y-%m-%d}" for day in days(5)] * 20) == (["x"], [f"{day:%Y-%m-%d}" for day in days(5)] * 20)
    assert of([f"1.{n}" for n in range(100)])[0] == []


def test_of_columns_that_say_the_same_the_first_is_kept() -> None:
    said = [{"site": f"s{n % 3}", "site id": str(n % 3), "shore": "north" if n % 3 else "south"} for n in range(100)]
    rows, left_out = columns.chosen(said, LABELS)
    assert (list(rows[0]), left_out) == (["site", "shore"], ["site id"])


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(texts, st.lists(texts, min_size=1, max_size=4), max_size=4), st.integers(2, 80))
def test_whatever_is_said_comes_out_the_same_for_all_and_once_more(said: dict[str, list[str]], count: int) -> None:
    given_rows = [{name: values[n * n % len(values)] for name, values in said.items()} for n in range(count)]
    labels = [string.ascii_lowercase[n % 7] for n in range(count)]
    rows, left_out = columns.chosen(given_rows, labels)
    assert len({tuple(row) for row in rows}) == 1
    assert len(rows) == count
    assert len(rows[0]) + len(left_out) == len(said)
    for name in rows[0]:
        assert 2 <= len({row[name] for row in rows}) <= columns.MOST
        assert name.isprintable()
    assert columns.chosen(rows, labels) == (rows, [])


def folder_of(folder: Path, extra: dict[str, list[str]], classes: list[str], name: str = "labels.csv") -> Path:
    """Pictures beside a table with more columns."""
    for number in range(len(classes)):
        pictures.save(folder / "img" / f"{number:03}.png", number)
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", *extra])
        rows.writerows(
            [f"img/{number:03}.png", one, *(values[number] for values in extra.values())]
            for number, one in enumerate(classes)
        )
    return folder


CLASSES = ["a", "b", "c"] * 20
EXTRA = {
    "camera": ["Canon", "Nikon", "Nikon", ""] * 15,
    "site": [f"site {n % 5}" for n in range(60)],
    "age": [str(18 + n) for n in range(60)],
    "species": [f"kind {n % 4}" for n in range(60)],  # called as a label may be
    "sha256": ["x", "y"] * 30,  # as a column of the manifest is
}


def prepared(data: Path, root: Path) -> list[manifest.Record]:
    paths = Paths(data, root / "artifacts")
    prepare.run(paths, DATASET, seed=0)
    return manifest.read(paths.manifest)


def said_of(records: list[manifest.Record]) -> list[list[str]]:
    """The columns, by the number of the picture."""
    by_number = {int(Path(record.path).stem): record for record in records}
    return [[by_number[n].metadata[name] for n in sorted(by_number)] for name in records[0].metadata]


def test_columns_survive_the_way_into_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "photos", EXTRA, CLASSES)
    options = Options(label_column="label")
    layout = sources.write_images(folder / "labels.csv", tmp_path / "project" / "data", options)
    said = "slices: by camera: 3, by site: 5, by species: 4, by sha256: 2"
    assert said in layout.notes
    assert "columns that are left out: age" in layout.notes
    records = prepared(tmp_path / "project" / "data", tmp_path / "project")
    assert f"  {said}\n" in capsys.readouterr().out
    assert said_of(records) == [values for name, values in EXTRA.items() if name != "age"]
    assert records[0].sha256 not in ("x", "y")
    again = sources.write_images(tmp_path / "project" / "data", tmp_path / "again", Options())
    assert (tmp_path / "again" / tables.INDEX).read_bytes() == (
        tmp_path / "project" / "data" / tables.INDEX
    ).read_bytes()
    assert said in again.notes


def test_a_table_in_the_data_folder_is_read_as_it_is(tmp_path: Path) -> None:
    extra = {name: EXTRA[name] for name in ("camera", "site")}
    assert said_of(prepared(folder_of(tmp_path / "data", extra, CLASSES), tmp_path)) == [*extra.values()]


def test_corrections_leave_it_alone(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", {"camera": EXTRA["camera"]}, CLASSES)
    same = Correction("img/000.png", "same", "img/003.png")
    corrections.write(data / "corrections.csv", [Correction("img/001.png", "relabel", "c"), same])
    assert said_of(prepared(data, tmp_path)) == [EXTRA["camera"]]


def test_a_column_of_one_of_several_tables_is_not_given_in_the_others(tmp_path: Path) -> None:
    for start, split in ((0, "train"), (60, "test")):
        folder = folder_of(tmp_path / split, {"camera": EXTRA["camera"]} if start else {}, CLASSES, "metadata.csv")
        for number in range(60):
            (folder / "img" / f"{number:03}.png").unlink()
            pictures.save(folder / "img" / f"{number:03}.png", start + number)
    records = prepared(tmp_path, tmp_path)
    assert {record.metadata["camera"] for record in records if record.split == "train"} == {""}
    assert {record.metadata["camera"] for record in records if record.split == "test"} == {"", "Canon", "Nikon"}


def test_parquet_tables_have_columns_too(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "photos", {}, CLASSES)
    (folder / "labels.csv").unlink()
    table = {
        "image_id": [f"{number:03}" for number in range(60)],
        "label": CLASSES,
        "ward": pa.array([1, None, 2, 2] * 15),
        "dose": pa.array([0.5, float("nan")] * 30),
        "taken": days(60),
        "box": [[1, 2]] * 60,
        "embedding": pa.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]] * 20, pa.list_(pa.float32(), 2)),
        "digest": pa.array([b"ab", b"cd", b"cd"] * 20, pa.binary(2)),
    }
    pyarrow.parquet.write_table(pa.table(table), folder / "train.parquet")
    layout = sources.write_images(folder, tmp_path / "data", Options())
    assert "slices: by ward: 3, by dose: 2, by taken (year): 2" in layout.notes
    found = said_of(prepared(tmp_path / "data", tmp_path))
    assert found[:2] == [["1", "", "2", "2"] * 15, ["0.5", ""] * 30]


def test_parquet_with_images_has_columns_too(tmp_path: Path) -> None:
    count = 30
    more = {"scanner": [0, 1, 1] * 10, "site": ["x", "y"] * 15, "note": [f"{n} {n}" for n in range(count)]}
    file = write(tmp_path / "a.parquet", hub(range(count)), [0, 1, 2, 0, 1] * 6, ["cat", "cow", "dog"], **more)
    table = pyarrow.parquet.read_table(file)
    about = {
        "label": {"names": ["cat", "cow", "dog"]},
        "scanner": {"names": ["A", "B"]},
        "others": [{"dtype": "int64"}],
    }
    pyarrow.parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": about}})}), file
    )
    layout = sources.write_images(file, tmp_path / "data", Options())
    assert layout.notes[1:] == ["slices: by scanner: 2, by site: 2", "columns that are left out: note"]
    assert said_of(prepared(tmp_path / "data", tmp_path)) == [["A", "B", "B"] * 10, ["x", "y"] * 15]


def test_without_columns_nothing_is_different(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", {}, CLASSES)
    prepared(data, tmp_path)
    header = (tmp_path / "artifacts" / "prepare" / "manifest.csv").read_text(encoding="utf-8").partition("\n")[0]
    assert header == "path,label,split,sha256,width,height,group"
    layout: Layout = sources.write_images(data, tmp_path / "copy", Options())
    assert (tmp_path / "copy" / tables.INDEX).read_text(encoding="utf-8").startswith("path,label,split,group\n")
    assert not any("slices" in note for note in layout.notes)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8), max_size=4, unique=True)
)
def test_a_manifest_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    records = [
        manifest.Record(f"{n}.png", "a", "train", f"{n:064x}", 1, 1, "", {name: f"{name} {n % 2}," for name in names})
        for n in range(4)
    ]
    file = tmp_path_factory.mktemp("manifest") / "manifest.csv"
    manifest.write(file, records)
    assert manifest.read(file) == records
    assert len({*records, *(dataclasses.replace(one, metadata={}) for one in records)}) == (8 if names else 4)


def test_as_many_columns_as_faces_have(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    said = random.integers(0, 2, (5000, 40)).astype(str)
    rows = [dict(zip(map(str, range(40)), row, strict=True)) for row in said.tolist()]
    found, _ = columns.chosen(rows, ["a", "b"] * 2500)
    assert len(found[0]) == 40
    assert indexing.scan(folder_of(tmp_path, {}, CLASSES)).entries[0].metadata == {}
