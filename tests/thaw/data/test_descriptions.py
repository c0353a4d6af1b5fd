"""Tables that name files and no labels, beside class folders: what they say goes into slices, groups and splits."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import pyarrow
import pyarrow.parquet
import pytest

from stages import prepare
from tests.helpers import pictures
from tests.thaw.data.test_columns import DATASET
from thaw.artifacts import Paths
from thaw.data import indexing, manifest, sources
from thaw.data.corrections import Correction, write
from thaw.data.layouts import Entry, Layout, Options, Refused

NAMES = [f"{label}/{letter}{number}.png" for label, letter in (("cats", "c"), ("dogs", "d")) for number in range(10)]
CAMERA = {name: ("Canon", "Nikon")[number % 2] for number, name in enumerate(NAMES)}
SLICES = "slices: by camera: 2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten cats, c0.png to c9.png, and ten dogs."""
    for number, name in enumerate(NAMES):
        pictures.save(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


def table(
    path: Path,
    columns: dict[str, Sequence[str]],
    named: Callable[[str], str] = str,
    *,
    names: Sequence[str] = NAMES,
    by: str = "file",
    delimiter: str = ",",
    encoding: str = "utf-8",
) -> None:
    """Write a table of images, which are named as ``named`` has it."""
    cells = [[by, *columns], *([named(name), *more] for name, *more in zip(names, *columns.values(), strict=True))]
    path.write_text("".join(f"{delimiter.join(row)}\n" for row in cells), encoding=encoding)


def cameras(path: Path, named: Callable[[str], str] = str, **how: str) -> None:
    """Write a table of cameras."""
    table(path, {"camera": [*CAMERA.values()]}, named, **how)


def found(layout: Layout, column: str = "camera") -> dict[str, str]:
    """What was taken of a column, by path."""
    return {entry.path: entry.metadata[column] for entry in layout.entries}


def without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


@pytest.mark.parametrize(
    ("name", "named", "how"),
    [
        pytest.param("metadata.csv", str, {}, id="path"),
        pytest.param("photos.csv", without_suffix, {}, id="path-without-suffix"),
        pytest.param("metadata.csv", lambda name: PurePosixPath(name).name, {}, id="name"),
        pytest.param("metadata.csv", lambda name: PurePosixPath(name).stem, {"by": "id"}, id="stem"),
        pytest.param("metadata.csv", lambda name: name.replace("/", "\\"), {}, id="windows"),
        pytest.param("metadata.csv", lambda name: "D:\\all\\" + name.replace("/", "\\"), {}, id="of-another-machine"),
        pytest.param("metadata.tsv", str, {"delimiter": "\t"}, id="tabs"),
        pytest.param("metadata.csv", str, {"delimiter": ";", "encoding": "utf-16"}, id="semicolons-utf-16"),
        pytest.param("metadata.csv", str, {"by": "Dateiname"}, id="a-column-called-otherwise"),
        pytest.param("index.csv", str, {}, id="called-as-our-own-list"),
        pytest.param("corrections.csv", str, {}, id="called-as-corrections"),
    ],
)
def test_a_table_beside_class_folders_describes_their_images(
    folder: Path, name: str, named: Callable[[str], str], how: dict[str, str]
) -> None:
    cameras(folder / name, named, **how)
    layout = indexing.scan(folder)
    assert found(layout) == CAMERA
    assert Counter(entry.label for entry in layout.entries) == {"cats": 10, "dogs": 10}
    by = how.get("by", "file")
    assert layout.notes == [f"{name} describes 20 images, by its column '{by}'", SLICES]
    assert layout.refused == []


def test_parquet_and_json_lines_describe_too(folder: Path) -> None:
    whole = {"file": NAMES, "site": [*CAMERA.values()], "vector": [[0.0, 1.0]] * 20}
    pyarrow.parquet.write_table(pyarrow.table(whole), folder / "sites.parquet")
    lines = (f'{{"file": "{name}", "flash": {number % 3 % 2}}}\n' for number, name in enumerate(NAMES))
    (folder / "more.jsonl").write_text("".join(lines), encoding="utf-8")
    layout = indexing.scan(folder)
    assert found(layout, "site") == CAMERA
    assert found(layout, "flash") == {name: str(number % 3 % 2) for number, name in enumerate(NAMES)}


def test_a_name_in_two_classes_names_none_of_them(folder: Path) -> None:
    for label in ("cats", "dogs"):
        pictures.save(folder / label / "same.png", 90 + (label == "dogs"))
    names = [*NAMES, "x/same.png"]
    table(
        folder / "metadata.csv",
        {"camera": [*CAMERA.values(), "Canon"]},
        lambda name: PurePosixPath(name).name,
        names=names,
    )
    layout = indexing.scan(folder)
    assert found(layout) == CAMERA | {"cats/same.png": "", "dogs/same.png": ""}
    note = "describes 20 images, by its column 'file'; without a row: 2; rows that name no image, or more than one: 1"
    assert f"metadata.csv {note}" in layout.notes


def test_rows_and_images_that_lack_each_other_are_counted(folder: Path) -> None:
    names = [*NAMES[4:], *(f"birds/b{number}.png" for number in range(50))]
    table(folder / "metadata.csv", {"camera": ["Canon", "Nikon"] * 33}, names=names)
    layout = indexing.scan(folder)
    assert found(layout) == dict.fromkeys(NAMES[:4], "") | {name: CAMERA[name] for name in NAMES[4:]}
    note = "describes 16 images, by its column 'file'; without a row: 4; rows that name no image, or more than one: 50"
    assert f"metadata.csv {note}" in layout.notes
    assert layout.refused == []


def test_of_rows_that_differ_only_what_they_agree_in_is_taken(folder: Path) -> None:
    names = [*NAMES, NAMES[0], NAMES[1]]
    more = {"camera": [*CAMERA.values(), "Canon", "Canon"], "site": ["a", "a", "b", "b"] * 5 + ["a", "a"]}
    table(folder / "metadata.csv", more, names=names)
    layout = indexing.scan(folder)
    assert found(layout) == CAMERA | {NAMES[1]: ""}
    assert [*found(layout, "site").values()] == ["a", "a", "b", "b"] * 5
    assert "with rows that differ, of which only what they agree in is taken: 1" in layout.notes[0]


def test_what_makes_no_slices_is_left_out(folder: Path) -> None:
    more = {
        "camera": [*CAMERA.values()],
        "serial": [f"n{number}" for number in range(20)],
        "age": [str(18 + number) for number in range(20)],
        "kind": [name.partition("/")[0] for name in NAMES],
        "exposures": ["1", "1", "2", "2"] * 5,
    }
    table(folder / "metadata.csv", more)
    assert indexing.scan(folder).notes[1:] == [
        "slices: by camera: 2, by exposures: 2",
        "columns that are left out: serial, age, kind",
    ]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("name,price\nflour,1\nsoap,2\n", id="of-something-else"),
        pytest.param("year,sold\n2019,1\n2020,2\n2021,9\nc1,3\n", id="a-name-by-chance"),
        pytest.param("year,sold\n" + "c1,3\n" * 40, id="one-name-in-all-rows"),
        pytest.param("file,camera\n", id="without-rows"),
        pytest.param('file,camera\n"c1', id="broken"),
        pytest.param("", id="empty"),
    ],
)
def test_a_table_that_names_no_images_is_left_as_it_was(folder: Path, content: str) -> None:
    (folder / "notes.csv").write_text(content, encoding="utf-8")
    layout = indexing.scan(folder)
    assert layout.notes == []
    assert layout.refused == [Refused("notes.csv", "not an image: by its name")]


def test_without_such_a_table_nothing_is_different(folder: Path) -> None:
    bare = indexing.scan(folder)
    assert bare.entries == [Entry(name, name.partition("/")[0]) for name in NAMES]
    (folder / "cats" / "metadata.csv").write_text("file,camera\nc1.png,Canon\n", encoding="utf-8")  # not at the top
    assert indexing.scan(folder).entries == bare.entries


def test_groups_stay_together(folder: Path) -> None:
    table(folder / "metadata.csv", {"patient": [f"p{number // 2 % 6}" for number in range(20)]})
    layout = indexing.scan(folder)
    assert [entry.group for entry in layout.entries] == [f"p{number // 2 % 6}" for number in range(20)]
    assert "the images of one 'patient' stay in one split" in layout.notes


def test_groups_that_are_the_classes_are_none(folder: Path) -> None:
    table(folder / "metadata.csv", {"person": [f"person {name[0]}" for name in NAMES]})
    layout = indexing.scan(folder)
    assert {entry.group for entry in layout.entries} == {""}
    assert layout.notes[1:] == ["columns that are left out: person"]


def test_groups_that_the_folders_splits_take_apart_make_slices_and_are_said(folder: Path) -> None:
    for name in NAMES:
        target = folder / ("test" if int(name[-5]) > 6 else "train") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(target)
    table(folder / "metadata.csv", {"patient": ["one", "two"] * 10}, lambda name: PurePosixPath(name).name)
    layout = indexing.scan(folder)
    assert {(entry.group, entry.metadata["patient"]) for entry in layout.entries} == {("", "one"), ("", "two")}
    assert "one 'patient' is in several of the splits that folders name, so that it makes slices" in layout.notes[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["train", "Validation", "test", "", "train"], ["train", "val", "test", "train", "train"], id="so"),
        pytest.param(["test"] * 5, [None] * 5, id="all-in-one"),
        pytest.param(["1", "2", "3", "4", "5"], [None] * 5, id="folds"),
    ],
)
def test_splits_that_a_table_names_are_taken(folder: Path, words: list[str], expected: list[str | None]) -> None:
    table(folder / "metadata.csv", {"split": words * 4})
    assert [entry.split for entry in indexing.scan(folder).entries] == expected * 4


def test_of_two_tables_the_first_one_that_says_it_is_believed(folder: Path) -> None:
    cameras(folder / "a.csv")
    names = NAMES[::-1]
    table(folder / "b.csv", {"camera": ["other"] * 20, "site": ["x", "x", "y", "y"] * 5}, names=names)
    layout = indexing.scan(folder)
    assert found(layout) == CAMERA
    assert [*found(layout, "site").values()] == ["y", "y", "x", "x"] * 5


def prepared(data: Path) -> dict[str, str]:
    paths = Paths(data, data.parent / "artifacts")
    prepare.run(paths, DATASET, seed=0)
    return {record.path: record.metadata["camera"] for record in manifest.read(paths.manifest)}


@pytest.mark.parametrize("place", ["", "inner"])
@pytest.mark.parametrize("link", [False, True])
def test_it_goes_along_into_the_data(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, link: bool
) -> None:
    source = folder
    if place:  # all is in one folder, with the table there
        (tmp_path / "around").mkdir()
        source = folder.rename(tmp_path / "around" / place).parent
    cameras(source / place / "metadata.csv")
    data = tmp_path / "project" / "data"
    said = sources.write_images(source, data, Options(), link=link)
    assert SLICES in said.notes
    assert sorted(path.name for path in data.iterdir()) == ["cats", "dogs", "metadata.csv"]
    write(data / "corrections.csv", [Correction("cats/c0.png", "relabel", "dogs")])
    assert prepared(data) == CAMERA
    assert "metadata.csv describes 20 images, by its column 'file'" in capsys.readouterr().out
    pictures.save(data / "cats" / "new.png", 99)  # as into any class folder
    assert prepared(data) == CAMERA | {"cats/new.png": ""}


def test_above_the_folder_that_all_is_in_it_goes_along_too(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "around").mkdir()
    source = folder.rename(tmp_path / "around" / "inner").parent
    cameras(source / "metadata.csv", lambda name: f"inner/{name}")
    sources.write_images(source, tmp_path / "project" / "data", Options())
    assert prepared(tmp_path / "project" / "data") == CAMERA


def test_where_a_list_is_written_it_holds_what_the_table_says(folder: Path, tmp_path: Path) -> None:
    cameras(folder / "metadata.csv")
    sources.write_images(folder, tmp_path / "project" / "data", Options(label_from="^([a-z]+)/"))
    assert not (tmp_path / "project" / "data" / "metadata.csv").exists()
    assert prepared(tmp_path / "project" / "data") == CAMERA
