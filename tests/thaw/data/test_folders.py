"""Data folders as people have them: what is understood, what is said, and that no file gets lost."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import pictures
from thaw.config.schema import Dataset
from thaw.data import indexing, sources
from thaw.data.files import listing
from thaw.data.layouts import Options, split_of
from thaw.errors import UserError

DATASET = Dataset(val=0.15, test=0.2, min_images=3, max_megapixels=1.0)


def save_all(*paths: str, each: int = 1) -> Callable[[Path], None]:
    """Write so many different pictures for each path, ``*`` in it standing for their number."""

    def make(folder: Path) -> None:
        number = 0
        for path in paths:
            for index in range(each if "*" in path else 1):
                pictures.save(folder / path.replace("*", f"{index:02}"), number)
                number += 1

    return make


def all_of(*makes: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: [make(folder) for make in makes] and None


def labels(folder: Path, **options: str) -> dict[str, int]:
    """How many images of each class are found."""
    found = indexing.scan(folder, Options(**options))  # type: ignore[arg-type]
    return dict(Counter(entry.label for entry in found.entries))


AB = {"a": 3, "b": 3}
TRAINED = ("train/a/*.png", "train/b/*.png")


@pytest.mark.parametrize(
    ("make", "expected", "note"),
    [
        pytest.param(save_all("a/*.png", "b/*.png", each=3), AB, "", id="class-folders"),
        pytest.param(save_all("a/x/*.png", "b/*.png", each=3), AB, "class folders hold folders", id="deeper"),
        pytest.param(
            save_all("photos/images/a/*.png", "photos/images/b/*.png", each=3), AB, "in photos/images/", id="wrapped"
        ),
        pytest.param(
            save_all("training/a/*.png", "Validation/b/*.png", "training/b/*.png", each=3),
            {"a": 3, "b": 6},
            "val has no images of a",
            id="words",
        ),
        pytest.param(
            save_all("seg_train/seg_train/a/*.png", "seg_train/seg_train/b/*.png", "seg_test/seg_test/a/*.png", each=3),
            {"a": 6, "b": 3},
            "test has no images of b",
            id="seg",
        ),
        pytest.param(
            save_all("x/train/a/*.png", "x/train/b/*.png", "x/dev/a/*.png", each=3),
            {"a": 6, "b": 3},
            "in x/",
            id="wrapped-splits",
        ),
        pytest.param(
            save_all("a/train/*.png", "a/test/*.png", "b/train/*.png", "b/test/*.png", each=3),
            {"a": 6, "b": 6},
            "the splits are folders inside the class folders",
            id="splits-inside",
        ),
        pytest.param(
            save_all("train/Cat/*.png", "train/Big_dog/*.png", "val/cat/*.png", "val/big dog/*.png", each=3),
            {"Cat": 6, "Big_dog": 6},
            "big dog = Big_dog, cat = Cat",
            id="spelling",
        ),
        pytest.param(save_all(*TRAINED, "test/*.png", each=3), AB, "", id="unlabelled-test"),
        pytest.param(
            save_all(*TRAINED, "val/a/*.png", "val/c/*.png", each=3),
            {"a": 6, "b": 3},
            "not in train, and left out: the classes 'c'",
            id="unknown-class",
        ),
        pytest.param(
            save_all(*TRAINED, "other/*.png", each=3),
            AB,
            "beside the split folders, and left out: other/",
            id="beside-splits",
        ),
        pytest.param(
            all_of(save_all("a/*.png", "b/*.png", each=3), lambda folder: (folder / "c").mkdir()),
            AB,
            "without images, and left out: c/",
            id="empty-class",
        ),
        pytest.param(
            all_of(save_all("a/*.png", "b/*.png", each=3), lambda folder: (folder / "README.md").touch()),
            AB,
            "",
            id="about",
        ),
        pytest.param(save_all("a/*.png", "b/*.png", "loose.png", each=3), AB, "", id="loose"),
        pytest.param(
            save_all("fold_1/a/*.png", "fold_2/a/*.png", "fold_2/b/*.png", each=3),
            {"a": 6, "b": 3},
            "2 folds, taken together",
            id="folds",
        ),
        pytest.param(
            save_all("fold1/train/a/*.png", "fold1/train/b/*.png", "fold2/train/a/*.png", each=3),
            AB,
            "fold1/ is used",
            id="folds-with-splits",
        ),
        pytest.param(
            save_all("cat.*.png", "dog.*.png", each=3), {"cat": 3, "dog": 3}, "taken from the files' names", id="names"
        ),
        pytest.param(
            save_all("train/steam/*.png", "train/new/*.png", "bus/city/*.png", each=3),
            {"train": 6, "bus": 3},
            "class folders hold folders",
            id="a-class-called-train-of-folders",
        ),
        pytest.param(
            save_all("test/a/*.png", "test/b/*.png", "bus/*.png", each=3),
            {"test": 6, "bus": 3},
            "class folders hold folders",
            id="a-class-called-test",
        ),
        pytest.param(
            all_of(save_all("data/a/*.png", "data/b/*.png", each=10), save_all("docs/logo.png")),
            {"data": 20, "docs": 1},
            "95% of the images are in data/: if the folders in it are the classes, bring that folder alone",
            id="a-whole-repository",
        ),
        pytest.param(
            save_all("train/*.png", "bus/*.png", each=3), {"train": 3, "bus": 3}, "", id="a-class-called-train"
        ),
        pytest.param(save_all("train/a/*.png", "train/b/*.png", each=3), AB, "", id="train-alone"),
    ],
)
def test_what_can_be_understood_is_taken(
    tmp_path: Path, make: Callable[[Path], None], expected: dict[str, int], note: str
) -> None:
    make(tmp_path)
    found = indexing.scan(tmp_path)
    assert Counter(entry.label for entry in found.entries) == expected
    assert note in "\n".join(found.notes)
    known = {*(entry.path for entry in found.entries), *(one.path for one in found.refused)}
    assert known == {*listing(tmp_path).paths}, "every file is taken or refused"
    assert len(found.entries) + len(found.refused) == len(known)


@pytest.mark.parametrize(
    ("word", "split"),
    [
        *((word, "train") for word in ("train", "Training", "train_images", "images-train", "TRAIN2017", "seg_train")),
        *((word, "val") for word in ("valid", "Validation", "dev", "eval_set", "val data")),
        *((word, "test") for word in ("testing", "hold-out", "holdout", "test_images")),
        *((word, None) for word in ("trains", "training val", "tests of cars", "evaluate me", "", "2017", "images")),
    ],
)
def test_words_for_splits(word: str, split: str | None) -> None:
    assert split_of(word) == split


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("outermost", {"fruit": 6, "veg": 6}),
        ("innermost", {"gala": 3, "fuji": 3, "onion/red": 3, "beet/red": 3}),
        ("path", {"fruit/apple/gala": 3, "fruit/apple/fuji": 3, "veg/onion/red": 3, "veg/beet/red": 3}),
    ],
)
def test_hierarchies(tmp_path: Path, classes: str, expected: dict[str, int]) -> None:
    folders = ("fruit/apple/gala", "fruit/apple/fuji", "veg/onion/red", "veg/beet/red")
    save_all(*(f"{folder}/*.png" for folder in folders), each=3)(tmp_path)
    assert labels(tmp_path, classes=classes) == expected
    target = tmp_path.with_name(f"{tmp_path.name}_target")
    sources.write_images(tmp_path, target, Options(classes=classes))  # type: ignore[arg-type]
    assert labels(target) == expected, "prepare understands what was said to get_data"


def test_splits_may_nest_a_class_differently(tmp_path: Path) -> None:
    save_all("train/veg/mushroom/*.png", "train/veg/leek/*.png", "test/veg/fungi/mushroom/*.png", each=3)(tmp_path)
    assert labels(tmp_path, classes="innermost") == {"mushroom": 6, "leek": 3}


def test_classes_in_file_names_by_a_pattern(tmp_path: Path) -> None:
    save_all("Abyssinian_1.png", "Abyssinian_2.png", "great_pyrenees_12.png", "notes.png")(tmp_path)
    found = indexing.scan(tmp_path, Options(label_from=r"(.+)_\d+\.png"))
    assert Counter(entry.label for entry in found.entries) == {"Abyssinian": 2, "great_pyrenees": 1}
    assert [(one.path, one.kind) for one in found.refused] == [("notes.png", "no label")]
    for pattern, message in (("(", "expected a regular expression"), (".+", "expected a group, as in")):
        with pytest.raises(UserError, match=f"--label-from: {message}"):
            indexing.scan(tmp_path, Options(label_from=pattern))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda folder: folder.rmdir(), "expected images in the folder .*, found no such folder", id="missing"
        ),
        pytest.param(lambda _: None, "expected images in .*, found no file; add a folder", id="empty"),
        pytest.param(save_all(".a/1.png"), "expected images in .*, found no file", id="all-hidden"),
        pytest.param(
            save_all("IMG_1.png", "DSC_2.png"),
            "expected a folder for each class in .*, found none with images, and 2",
            id="flat",
        ),
        pytest.param(save_all("a/1.png"), "expected at least two classes in .*, found only 'a'; add", id="one-class"),
        pytest.param(save_all("train/1.png", "val/1.png"), "expected a folder for each class", id="no-classes"),
        pytest.param(
            save_all("val/a/1.png", "val/b/1.png", "test/a/1.png", "test/b/1.png"),
            "expected images to learn from in .*, found only some of val, test",
            id="no-train",
        ),
    ],
)
def test_what_can_give_no_answer(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError, match=message):
        indexing.scan(folder)


@pytest.mark.skipif(os.name == "nt", reason="needs links, pipes and names that Windows has not")
def test_one_bad_file_stops_nothing(tmp_path: Path) -> None:
    pictures.fill(tmp_path, {"a": 3, "b": 3})
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "around").symlink_to(tmp_path)
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b" / "line\n.png").touch()
    Path(os.fsdecode(bytes(tmp_path / "b") + b"/\xff.png")).touch()
    found = indexing.scan(tmp_path)
    assert len(found.entries) == 6
    assert {one.path: one.kind for one in found.refused} == {
        "a/pipe.png": "neither a file nor a folder",
        "a/around": "a link to a folder around it",
        "a/gone.png": "a link to nothing",
        "b/line\\n.png": "a name that is not printable UTF-8",
        "b/\\udcff.png": "a name that is not printable UTF-8",
    }
    target = tmp_path.with_name(f"{tmp_path.name}_target")
    sources.write_images(tmp_path, target, Options())
    assert len(listing(target).paths) == 6


@pytest.mark.skipif(os.name == "nt", reason="Windows lets only some users make links")
def test_a_linked_folder_is_followed_once(tmp_path: Path) -> None:
    pictures.fill(tmp_path / "elsewhere", {"a": 3})
    pictures.fill(tmp_path / "data", {"b": 3})
    for name in ("a", "again"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / "a")
    found = indexing.scan(tmp_path / "data")
    assert Counter(entry.label for entry in found.entries) == {"a": 3, "b": 3}
    assert [(one.path, one.kind) for one in found.refused] == [
        ("again", "a link to a folder that another link leads to")
    ]


def test_a_list_and_folders_say_the_same_to_prepare(tmp_path: Path) -> None:
    """What get_data copies is understood as the original was, whatever stood around it."""
    save_all("x/training/a/*.png", "x/training/b/*.png", "x/training/b/z.txt.png", each=5)(tmp_path / "source")
    (tmp_path / "source" / "README").touch()
    layout = sources.write_images(tmp_path / "source", tmp_path / "target", Options())
    assert [entry.label for entry in indexing.scan(tmp_path / "target").entries] == [
        one.label for one in layout.entries
    ]
    assert not (tmp_path / "target" / "x").exists()


WORDS = st.sampled_from(
    ["train", "Training", "val", "valid", "test", "images", "docs", "a", "B", "b b", "x_y", "fold_1"]
)
TREES = st.dictionaries(st.lists(WORDS, max_size=4).map("/".join), st.integers(0, 3), max_size=8)


@given(tree=TREES, extras=st.sets(st.sampled_from(["README.md", "a.csv", "labels.txt", "x.png", ".hidden", "e/"])))
@settings(max_examples=150, deadline=None)
def test_any_tree_is_understood_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, int], extras: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("data")
    number = 0
    for path, count in tree.items():
        (folder / path).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pictures.save(folder / path / f"{index}.png", number)
            number += 1
    for extra in extras:
        (folder / extra).mkdir(exist_ok=True) if extra.endswith("/") else (folder / extra).touch()
    built, said = None, ""
    try:
        built = indexing.build(folder, Dataset(val=0.2, test=0.2, min_images=1, max_megapixels=1.0), 0)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    if built:
        known = [*(one.path for one in built.records), *(one.path for one in built.refused)]
        assert sorted(known) == listing(folder).paths
        assert {one.split for one in built.records} == {"train", "val", "test"}
        assert {one.label for one in built.records if one.split == "train"} == {*built.classes}
    shutil.rmtree(folder)
