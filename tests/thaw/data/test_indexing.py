"""Layouts, refusals, conflicts and splits."""

import os
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import pictures
from thaw.config.schema import Dataset
from thaw.data import indexing, layouts, manifest
from thaw.data.layouts import Entry, Refused
from thaw.data.manifest import Record
from thaw.errors import UserError

DATASET = Dataset(val=0.3, test=0.3, min_images=2, max_megapixels=1.0)
SHARES: dict[manifest.Split, float] = {"test": 0.2, "val": 0.3}

# A file or folder name: anything but what ends a path, breaks a line, is hidden or has a meaning.
NAMES = st.text(
    st.characters(exclude_characters="/\x7f", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12
).filter(lambda name: not name.startswith(".") and name.lower() not in {"index.csv", "__macosx", *layouts.SPLIT_WORDS})


def record(number: int = 0, group: str = "") -> Record:
    return Record(f"{number}.png", "a", "train", f"{number:064x}", 1, 1, group)


def index(folder: Path, text: str) -> Path:
    """Three pictures and an index.csv."""
    for number in range(3):
        pictures.save(folder / f"{number}.png", number)
    (folder / "index.csv").write_text(text, encoding="utf-8")
    return folder


def test_records_survive_the_file_whatever_their_names(tmp_path: Path) -> None:
    records = [replace(record(), path=f'a "b", c/é ü {name}.png', label=name) for name in ("x", "naïve, '日本'", '"')]
    manifest.write(tmp_path / "manifest.csv", records)
    assert manifest.read(tmp_path / "manifest.csv") == records


def test_class_folders(tmp_path: Path) -> None:
    for path in ("b/1.png", "b/deeper/2.png", "a/3.png", "a/.hidden.png", ".trash/4.png", "__MACOSX/5.png"):
        pictures.save(tmp_path / path)
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "a" / "notes.txt").write_text("about")
    assert layouts.scan(tmp_path) == (
        [Entry("a/3.png", "a"), Entry("a/notes.txt", "a"), Entry("b/1.png", "b"), Entry("b/deeper/2.png", "b")],
        [Refused("README.md", "outside the class folders")],
    )


@pytest.mark.parametrize("validation", ["val", "valid", "Validation"])
def test_predefined_splits(tmp_path: Path, validation: str) -> None:
    for split in ("train", validation, "test"):
        pictures.fill(tmp_path / split, {"a": 1, "b": 1})
    entries, _ = layouts.scan(tmp_path)
    assert [
        (entry.label, entry.split) for entry in sorted(entries, key=lambda entry: (entry.split or "", entry.label))
    ] == [(label, split) for split in ("test", "train", "val") for label in ("a", "b")]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    pictures.fill(tmp_path, {"train": 1, "bus": 1})
    assert [(entry.label, entry.split) for entry in layouts.scan(tmp_path)[0]] == [("bus", None), ("train", None)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "path,label\n1.png,b\n./0.png, a \n", [Entry("0.png", "a"), Entry("1.png", "b")], id="paths-and-labels"
        ),
        pytest.param(
            "\ufefflabel,group,path\r\na,g,0.png\r\nb,,1.png\r\n",
            [Entry("0.png", "a", None, "g"), Entry("1.png", "b")],
            id="spreadsheet",
        ),
        pytest.param(
            "path,label,split\n0.png,a,train\n1.png,b,\n2.png,a,Valid\n",
            [Entry("0.png", "a", "train"), Entry("1.png", "b", "train"), Entry("2.png", "a", "val")],
            id="the-rest-is-train",
        ),
    ],
)
def test_index_file(tmp_path: Path, text: str, expected: list[Entry]) -> None:
    assert layouts.scan(index(tmp_path, text)) == (expected, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path;label\n", "expected the columns path,label and optionally split,group, found 'path;label'"),
        ("path,label,grup\n", "optionally split,group, found 'path,label,grup'"),
        ("path,label,label\n", "found 'path,label,label'"),
        ("", "found ''"),
        ("path,label\n", "expected one line per image below the header, found none"),
        ("path,label\n0.png,a\n7.png,a\n", "line 3: expected an image at .*7.png, found no such file"),
        ("path,label\n../0.png,a\n", r"line 2: expected a path inside .*, found '\.\./0\.png'"),
        ("path,label\na/../../0.png,a\n", "line 2: expected a path inside"),
        ("path,label\n/etc/passwd,a\n", "line 2: expected a path inside"),
        ("path,label\n0.png,\n", "line 2: expected a path and a label"),
        ("path,label\n0.png\n", "line 2: expected a path and a label"),
        ("path,label\n0.png,a,b\n", "line 2: expected 2 cells, found more; put double quotes"),
        ("path,label\n0.png,a\n./0.png,b\n", "line 3: expected each image once, found '0.png' again"),
        ("path,label,split\n0.png,a,tets\n", "expected a split out of train, val, valid, .* found 'tets'"),
        ('path,label\n0.png,"a\nb"\n', r"expected names of printable characters .*, found 'a\\nb'"),
        ('path,label\n0.png,"a"b\n', "expected a comma-separated file in UTF-8, found: "),
        ("path,label\n0.png,a\n1.png,a\n", "expected at least two classes in .*, found only 'a'; add images"),
        (
            "path,label,split\n0.png,a,train\n1.png,b,train\n2.png,c,test\n",
            "expected every class of test in train too in .*, found 'c' in test only",
        ),
        ("path,label,split\n0.png,a,val\n1.png,b,test\n", "expected every class of val in train too"),
        (
            "path,label,split,group\n0.png,a,train,g\n1.png,b,train,\n2.png,a,test,g\n",
            "expected each group in one split in .*, found the group 'g' in test and train",
        ),
    ],
)
def test_mistakes_in_an_index_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        layouts.scan(index(tmp_path, text))


def test_an_index_file_in_another_encoding(tmp_path: Path) -> None:
    index(tmp_path, "")
    (tmp_path / "index.csv").write_bytes("path,label\n0.png,Käfer\n".encode("latin-1"))
    with pytest.raises(UserError, match="expected a comma-separated file in UTF-8, found: 'utf-8' codec can't decode"):
        layouts.scan(tmp_path)


def save_all(*paths: str) -> Callable[[Path], object]:
    return lambda folder: [pictures.save(folder / path, number) for number, path in enumerate(paths)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda folder: folder.rmdir(), "expected images in the folder .*, found no such folder", id="missing"
        ),
        pytest.param(lambda _: None, "expected images in .*, found no file; add a folder", id="empty"),
        pytest.param(save_all(".a/1.png"), "expected images in .*, found no file", id="all-hidden"),
        pytest.param(
            save_all("1.png", "2.png"), "expected a folder for each class in .*, found 2 files and no folder", id="flat"
        ),
        pytest.param(save_all("a/1.png"), "expected at least two classes in .*, found only 'a'; add", id="one-class"),
        pytest.param(
            save_all("photos/a/1.png", "photos/b/1.png"),
            "found only 'photos'; if the classes are folders inside it, move them up",
            id="one-folder-too-deep",
        ),
        pytest.param(
            save_all("a/1.png", "b/1.png", "1.JPG"),
            "expected every image in a class folder, found '1.JPG' outside",
            id="loose",
        ),
        pytest.param(
            save_all("train/a/1.png", "train/b/1.png", "test/1.png"),
            "expected every image in a class folder, found 'test/1.png' outside",
            id="unlabelled-test",
        ),
        pytest.param(
            save_all("train/1.png", "val/1.png"),
            "expected a folder for each class inside .*train, found only files",
            id="no-classes-in-splits",
        ),
        pytest.param(
            save_all("train/a/1.png", "train/b/1.png", "c/1.png"),
            "expected either split folders or class folders in .*, found 'train' beside 'c'",
            id="mixed",
        ),
        pytest.param(
            save_all("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"),
            "expected every class of val in train too in .*, found 'c' in val only",
            id="unknown-class",
        ),
        pytest.param(save_all("val/a/1.png", "val/b/1.png"), "expected every class of val in train too", id="no-train"),
        pytest.param(
            lambda folder: (save_all("a/1.png", "b/1.png")(folder), (folder / "c").mkdir()),
            "expected images in the class folder .*c, found none",
            id="empty-class",
        ),
        pytest.param(save_all("a/1\n.png", "b/1.png"), r"expected names .*, found 'a/1\\n\.png'; rename", id="newline"),
        pytest.param(
            save_all(os.fsdecode(b"a/\xff.png"), "b/1.png"), r"expected names .* in UTF-8 .*udcff\.png'", id="not-utf-8"
        ),
    ],
)
def test_mistakes_in_the_layout(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError, match=message):
        indexing.build(folder, DATASET, 0)


def test_a_manifest_accounts_for_every_file(tmp_path: Path) -> None:
    folder = pictures.fill(tmp_path, {"b": 20, "a": 20})
    (folder / "a" / "empty.jpg").touch()
    (folder / "b" / "broken.png").write_bytes((folder / "b" / "000.png").read_bytes()[:60])
    (folder / "LICENSE").touch()
    built = indexing.build(folder, DATASET, 0)
    assert built.classes == ["a", "b"]
    assert built.predefined == []
    assert [one.path for one in built.records] == [
        f"{label}/{number:03d}.png" for label in "ab" for number in range(20)
    ]
    assert {(one.width, one.height, len(one.sha256)) for one in built.records} == {(8, 6, 64)}
    assert [(one.path, one.kind) for one in built.refused] == [
        ("LICENSE", "outside the class folders"),
        ("a/empty.jpg", "empty file"),
        ("b/broken.png", "undecodable"),
    ]


@pytest.mark.parametrize(
    ("records", "reasons"),
    [
        pytest.param([("1", "a", "train", ""), ("2", "a", "train", "")], {}, id="copies-in-a-class-are-harmless"),
        pytest.param(
            [("1", "a", "train", ""), ("2", "b", "train", "")],
            dict.fromkeys("12", "in two classes: the same image is labelled 'a' and 'b'"),
            id="two-labels",
        ),
        pytest.param(
            [("1", "a", "train", "g"), ("2", "a", "train", "h")],
            dict.fromkeys("12", "in two groups: the same image is in the groups 'g' and 'h'"),
            id="two-groups",
        ),
        pytest.param(
            [("1", "a", "train", ""), ("2", "a", "val", ""), ("3", "a", "test", ""), ("4", "a", "test", "")],
            dict.fromkeys("12", "also in test: the same image is '3'"),
            id="test-keeps-it",
        ),
        pytest.param(
            [("1", "a", "val", ""), ("2", "a", "train", "")],
            {"2": "also in val: the same image is '1'"},
            id="val-keeps-it",
        ),
    ],
)
def test_conflicts_between_identical_files(
    records: list[tuple[str, str, manifest.Split, str]], reasons: dict[str, str]
) -> None:
    same = [Record(path, label, split, "0" * 64, 1, 1, group) for path, label, split, group in records]
    conflicts = indexing.find_conflicts([*same, record(1)])
    assert {path: one.reason for path, one in conflicts.items()} == reasons


def test_the_same_image_in_two_classes_is_refused_in_both(tmp_path: Path) -> None:
    folder = pictures.fill(tmp_path, {"a": 20, "b": 20})
    (folder / "b" / "copy.png").write_bytes((folder / "a" / "000.png").read_bytes())
    built = indexing.build(folder, DATASET, 0)
    assert [one.path for one in built.refused] == ["a/000.png", "b/copy.png"]
    assert len(built.records) == 39


@pytest.mark.parametrize(
    ("given", "drawn"), [(["train"], ["val", "test"]), (["train", "val"], ["test"]), (["train", "test"], ["val"])]
)
def test_missing_splits_are_taken_from_train_alone(tmp_path: Path, given: list[str], drawn: list[str]) -> None:
    for number, split in enumerate(given):
        pictures.fill(tmp_path / split, {"a": 30, "b": 30}, start=100 * number)
    built = indexing.build(tmp_path, DATASET, 0)
    assert built.predefined == given
    for one in built.records:
        home = one.path.split("/")[0]
        assert one.split in (["train", *drawn] if home == "train" else [home])
    assert {one.split for one in built.records} == {"train", "val", "test"}


def test_complete_predefined_splits_are_kept(tmp_path: Path) -> None:
    for number, split in enumerate(layouts.SPLITS):
        pictures.fill(tmp_path / split, {"a": 2, "b": 2}, start=10 * number)
    assert all(one.path.startswith(one.split) for one in indexing.build(tmp_path, DATASET, 0).records)


@pytest.mark.parametrize(
    ("classes", "broken", "message"),
    [
        (
            {"a": 30, "b": 1},
            0,
            "class 'b': expected at least 2 usable images, found 1; add images, or lower min_images",
        ),
        (
            {"a": 30, "b": 1},
            2,
            r"class 'b': expected at least 2 usable images, found 1 "
            r"\(2 refused, the first one, 'b/x0.png', as empty file\)",
        ),
        (
            {"a": 30, "b": 2},
            0,
            "class 'b': expected images in train, val and test, found none in .*; add images, change the seed",
        ),
    ],
)
def test_too_few_images(tmp_path: Path, classes: dict[str, int], broken: int, message: str) -> None:
    pictures.fill(tmp_path, classes)
    for number in range(broken):
        (tmp_path / "b" / f"x{number}.png").touch()
    with pytest.raises(UserError, match=message):
        indexing.build(tmp_path, DATASET, 0)


def test_adding_and_relabelling_images_moves_no_other_one(tmp_path: Path) -> None:
    folder = pictures.fill(tmp_path, {"a": 25, "b": 25})
    before = {one.sha256: one.split for one in indexing.build(folder, DATASET, 5).records}
    pictures.fill(folder, {"c": 25, "0": 25}, start=1000)
    (folder / "a" / "000.png").rename(folder / "b" / "renamed.png")
    after = {one.sha256: one.split for one in indexing.build(folder, DATASET, 5).records}
    assert len(after) == 100
    assert before == {sha256: after[sha256] for sha256 in before}


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=10, deadline=None)
def test_splits_have_about_the_wanted_size(seed: int) -> None:
    count = Counter(indexing.draw(record(number), SHARES, seed) for number in range(4000))
    assert abs(count["test"] - 800) < 140  # more than five standard deviations
    assert abs(count["val"] - 1200) < 160


@given(seed=st.integers(0, 2**31 - 1), group=NAMES, numbers=st.sets(st.integers(0, 2**64), min_size=2, max_size=5))
def test_a_group_and_all_copies_of_an_image_share_a_split(seed: int, group: str, numbers: set[int]) -> None:
    assert len({indexing.draw(record(number, group), SHARES, seed) for number in numbers}) == 1
    one = record(min(numbers))
    copy = replace(one, path="elsewhere", label="b", width=9)
    assert indexing.draw(one, SHARES, seed) == indexing.draw(copy, SHARES, seed)


@given(number=st.integers(0, 2**64), seed=st.integers(0, 2**31 - 1), more=st.floats(0, 0.5))
def test_a_larger_test_share_takes_no_image_out_of_test(number: int, seed: int, more: float) -> None:
    if indexing.draw(record(number), SHARES, seed) == "test":
        assert indexing.draw(record(number), {"test": 0.2 + more, "val": 0.3}, seed) == "test"


def test_another_seed_splits_otherwise() -> None:
    one, other = ([indexing.draw(record(number), SHARES, seed) for number in range(50)] for seed in (0, 1))
    assert one != other


@given(names=st.lists(st.tuples(NAMES, NAMES), min_size=2, max_size=4, unique_by=lambda pair: pair[0]))
@settings(max_examples=25, deadline=None)
def test_any_names_work(tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("data")
    for split_number, split in enumerate(layouts.SPLITS):
        for number, (label, name) in enumerate(names):
            image = pictures.save(folder / "new.png", 10 * split_number + number)
            (folder / split / label).mkdir(parents=True)
            image.rename(folder / split / label / name)
    built = indexing.build(folder, Dataset(val=0.1, test=0.1, min_images=1, max_megapixels=1.0), 0)
    assert not built.refused
    assert built.classes == sorted(label for label, _ in names)
    manifest.write(folder / "manifest.csv", built.records)
    assert manifest.read(folder / "manifest.csv") == built.records


def test_hymenoptera_keeps_its_folders_and_test_comes_from_train(tmp_path: Path, shared: Path) -> None:
    with tarfile.open(shared / "data" / "hymenoptera_320.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    built = indexing.build(tmp_path / "hymenoptera", DATASET, 0)
    assert built.classes == ["ants", "bees"]
    assert built.predefined == ["train", "val"]
    assert {(one.path.split("/")[0], one.split) for one in built.records} == {
        ("train", "train"),
        ("train", "test"),
        ("val", "val"),
    }
    assert len(built.records) + len(built.refused) == 396
