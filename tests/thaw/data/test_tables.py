"""Tables of images as people have them: kinds, columns, paths, and what is said of them."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers import pictures
from thaw.data import indexing, sources, tables
from thaw.data.layouts import Entry, Options
from thaw.errors import UserError

ROWS = [("img/0.png", "a"), ("img/1.png", "b"), ("img/2.png", "a")]
EXPECTED = [Entry("img/0.png", "a"), Entry("img/1.png", "b"), Entry("img/2.png", "a")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures in img/."""
    for number in range(3):
        pictures.save(tmp_path / "img" / f"{number}.png", number)
    return tmp_path


def csv(header: str, delimiter: str = ",", rows: list[tuple[str, str]] = ROWS) -> str:
    return "".join(f"{line}\n" for line in (header, *(delimiter.join(row) for row in rows)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("index.csv", csv("path,label"), id="index"),
        pytest.param("labels.csv", csv("filename,class"), id="other-names"),
        pytest.param("labels.csv", csv("path;label", ";"), id="semicolon"),
        pytest.param("labels.tsv", csv("image_path\tspecies", "\t"), id="tab"),
        pytest.param("labels.csv", csv('"File Name","Class Name"'), id="quoted-and-spaced"),
        pytest.param("labels.csv", "\ufeff" + csv("path,label"), id="bom"),
        pytest.param("labels.csv", csv("path,label").encode("utf-16"), id="utf-16"),
        pytest.param("labels.csv", csv("path,label").replace("\n", "\r\n"), id="windows-lines"),
        pytest.param("labels.csv", csv("path,label").replace("/", "\\"), id="backslashes"),
        pytest.param("labels.csv", csv("path,label").replace("img/", "./img/"), id="dots"),
        pytest.param("labels.csv", csv("path,label").replace("img/", "/home/me/img/"), id="absolute"),
        pytest.param("labels.csv", csv("path,label").replace("img/", "C:\\photos\\"), id="of-another-machine"),
        pytest.param("labels.csv", csv("id,label").replace("img/", "").replace(".png", ""), id="names-without-endings"),
        pytest.param(
            "labels.csv",
            "path,width,class_id,class\nimg/0.png,8,7,a\nimg/1.png,8,9,b\nimg/2.png,8,7,a\n",
            id="in-numbers-and-words",
        ),
        pytest.param("labels.csv", "path,a,b\nimg/0.png,1,0\nimg/1.png,0,1\nimg/2.png,1,0\n", id="one-hot"),
        pytest.param(
            "labels.csv", "path,a,b\nimg/0.png,1.0,0.0\nimg/1.png,0.0,1.0\nimg/2.png,1,0\n", id="one-hot-floats"
        ),
        pytest.param(
            "metadata.jsonl",
            "".join(json.dumps({"file_name": path, "label": label}) + "\n" for path, label in ROWS),
            id="json-lines",
        ),
        pytest.param("sample_submission.csv", None, id="two-tables"),
    ],
)
def test_tables_of_every_kind(folder: Path, name: str, content: str | bytes | None) -> None:
    if content is None:
        (folder / "train.csv").write_text(csv("path,label"), encoding="utf-8")
        content = csv("path,label").replace(",b", ",a")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert indexing.scan(folder).entries == EXPECTED
    assert indexing.scan(folder).refused == [] if name != "sample_submission.csv" else True


def test_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    columns = {"image_id": [path for path, _ in ROWS], "label": [label for _, label in ROWS], "pixels": [b"x"] * 3}
    pyarrow.parquet.write_table(pa.table(columns), folder / "train.parquet")
    assert indexing.scan(folder).entries == EXPECTED


def test_a_table_of_each_split(folder: Path) -> None:
    for name, rows in (("train", [*ROWS[:2]]), ("valid", ROWS[2:])):
        (folder / f"{name}.csv").write_text(csv("path,label", rows=rows), encoding="utf-8")
    assert [entry.split for entry in indexing.scan(folder).entries] == ["train", "train", "val"]


def test_metadata_beside_the_images_of_each_split(tmp_path: Path) -> None:
    for number, (split, label) in enumerate([("train", "a"), ("train", "b"), ("test", "a")]):
        pictures.save(tmp_path / split / f"{number}.png", number)
        file = tmp_path / split / "metadata.csv"
        lines = file.read_text(encoding="utf-8") if file.exists() else "file_name,label\n"
        file.write_text(f"{lines}{number}.png,{label}\n", encoding="utf-8")
    assert indexing.scan(tmp_path).entries == [
        Entry("test/2.png", "a", "test"),
        Entry("train/0.png", "a", "train"),
        Entry("train/1.png", "b", "train"),
    ]


def test_what_a_table_says_beside_path_and_label(folder: Path) -> None:
    (folder / "labels.csv").write_text(
        "path,label,split,patient_id,width\nimg/0.png,a,Training,p1,8\nimg/1.png,b,,p2,8\nimg/2.png,a,dev,p3,8\n",
        encoding="utf-8",
    )
    found = indexing.scan(folder)
    assert [(entry.split, entry.group) for entry in found.entries] == [("train", "p1"), ("train", "p2"), ("val", "p3")]
    assert "labels.csv: the images of one 'patient_id' stay in one split" in found.notes
    assert "columns that are left out: width" in found.notes


def test_rows_and_files_that_cannot_be_used_are_refused(folder: Path) -> None:
    pictures.save(folder / "img" / "3.png", 3)
    pictures.save(folder / "unlisted.png", 4)
    (folder / "labels.csv").write_text(
        "path,label,split\nimg/0.png,a,\nimg/1.png,b,\nimg/1.png,b,\nimg/9.png,a,\n../../etc/passwd,a,\n,b,\n"
        "img/2.png,,\nimg/3.png,a,train\nimg/3.png,b,train\n",
        encoding="utf-8",
    )
    found = indexing.scan(folder)
    assert [entry.path for entry in found.entries] == ["img/0.png", "img/1.png"]
    assert {one.path: one.kind for one in found.refused} == {
        "../../etc/passwd": "no such file",
        "img/2.png": "no label",
        "img/3.png": "in two classes",
        "img/9.png": "no such file",
        "labels.csv, row 7": "no such file",
        "unlisted.png": "not in the table",
    }


def test_a_missing_file_is_never_another_one_of_its_name(tmp_path: Path) -> None:
    for number, path in enumerate(["a/0.png", "a/1.png", "b/0.png", "b/7.png"]):
        pictures.save(tmp_path / path, number)
    (tmp_path / "labels.csv").write_text("path,label\na/0.png,a\na/1.png,a\nb/0.png,b\na/7.png,a\n", encoding="utf-8")
    found = indexing.scan(tmp_path)
    assert [(entry.path, entry.label) for entry in found.entries] == [
        ("a/0.png", "a"),
        ("a/1.png", "a"),
        ("b/0.png", "b"),
    ]
    assert [(one.path, one.kind) for one in found.refused] == [
        ("a/7.png", "no such file"),
        ("b/7.png", "not in the table"),
    ]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "x,label\nimg/0.png,a\nimg/1.png,b\n",
            {},
            "expected a column of paths .* found x, label; name it: --path-column",
        ),
        ("path,x\nimg/0.png,a\nimg/1.png,b\n", {}, "expected a column of labels .* found x; name it: --label-column"),
        (
            "path,class,species\nimg/0.png,a,x\nimg/1.png,a,y\n",
            {},
            "expected a column of labels .* found class, species, which differ; name it",
        ),
        (
            "path,label\nimg/0.png,a\n",
            {"label_column": "lable"},
            "--label-column: expected one of the columns of .*'lable'",
        ),
        ("path,label\nimg/0.png,a,b\n", {}, "expected a table .*line 2 has more cells than the header"),
        ("path,label,label\nimg/0.png,a,b\n", {}, "expected a table .*the column 'label' twice"),
        ('path,label\nimg/0.png,"a"b\n', {}, "expected a table in UTF-8 or UTF-16, found: "),
        (
            "path,label\nimg/0.png,Käfer\n".encode("latin-1"),
            {},
            "expected a table in UTF-8 or UTF-16, found: 'utf-8' codec",
        ),
        ("path,label\nimg/0.png,a\nimg/1.png,a\n", {}, "expected at least two classes in .*labels.csv, found only 'a'"),
        (
            "path,label,split,group\nimg/0.png,a,train,g\nimg/1.png,b,train,\nimg/2.png,a,test,g\n",
            {},
            "expected each group in one split in .*, found the group 'g' in test and train",
        ),
    ],
)
def test_a_table_that_does_not_say_it(
    folder: Path, content: str | bytes, options: dict[str, str], message: str, tmp_path: Path
) -> None:
    table = folder / "labels.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        sources.write_images(table, tmp_path / "target", Options(**options))  # type: ignore[arg-type]


def test_named_columns_and_another_root(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "elsewhere" / "list.csv"
    table.parent.mkdir()
    table.write_text("x,y\n0.png,a\n1.png,b\n", encoding="utf-8")
    options = Options(path_column="x", label_column="y", root=folder / "img")
    target = tmp_path / "target"
    sources.write_images(table, target, options)
    assert (target / tables.INDEX).read_text(encoding="utf-8") == "path,label,split,group\n0.png,a,,\n1.png,b,,\n"
    assert indexing.scan(target).entries == [Entry("0.png", "a"), Entry("1.png", "b")]


def test_a_table_about_something_else_is_none(folder: Path) -> None:
    pictures.fill(folder, {"a": 2, "b": 2}, start=10)
    (folder / "prices.csv").write_text("name,category\nflour,food\nsoap,other\n", encoding="utf-8")
    assert Counter(entry.label for entry in indexing.scan(folder).entries) == {"a": 2, "b": 2, "img": 3}


def test_a_table_of_a_corner_says_nothing_of_the_rest(tmp_path: Path) -> None:
    pictures.fill(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "a" / "best.csv").write_text("path,label\n000.png,x\n001.png,y\n", encoding="utf-8")
    assert Counter(entry.label for entry in indexing.scan(tmp_path).entries) == {"a": 4, "b": 4}


def test_of_several_tables_one_must_be_named(folder: Path) -> None:
    for name in ("colours.csv", "kinds.csv"):
        (folder / name).write_text(csv("path,label"), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"expected one table .*, found colours.csv, kinds.csv; name the one .*colours.csv'"
    ):
        indexing.scan(folder)
