"""Twenty-one folders retold from public bug reports: each gets in, and what was understood is said."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from thaw.config.schema import Dataset
from thaw.data import indexing, sources
from thaw.data.layouts import Options

DATASET = Dataset(val=0.15, test=0.2, min_images=3, max_megapixels=100)
# Of each: the classes or how many, how many images, what is said, and how many files are refused for which reason.
CASES: dict[str, tuple[list[str] | int, int, str, dict[str, int]]] = {
    "training_validation": (["a", "b"], 56, "", {}),
    "case_differs": (["Cat", "Dog"], 56, "the same classes, spelt as in train: cat = Cat, dog = Dog", {}),
    "unlabelled_test": (["a", "b"], 40, "", {"no label": 5}),
    "folder_beside_splits": (["a", "b"], 56, "without images, and left out: docs/", {"not an image": 1}),
    "empty_class": (["a", "b"], 40, "without images, and left out: c/", {}),
    "loose_image": (["a", "b"], 40, "", {"no class": 1}),
    "val_lacks_a_class": (["a", "b", "c"], 100, "val has no images of c", {}),
    "test_lacks_a_class": (["a", "b", "c"], 100, "test has no images of c", {}),
    "twelve_each": (30, 360, "", {}),
    "five_each": (3, 15, "", {}),
    "wrapped": (["a", "b"], 40, "the images are in photos/images/", {}),
    "hierarchy": (["fruit", "veg"], 48, "--classes innermost makes 4", {}),
    "csv_extra_column": (["a", "b"], 40, "columns that are left out: width", {}),
    "csv_other_names": (["a", "b"], 40, "the column 'filename' is the path, 'class' the label", {}),
    "csv_semicolon": (["a", "b"], 40, "", {}),
    "csv_missing_files": (["a", "b"], 40, "", {"no such file": 2}),
    "csv_backslash": (["a", "b"], 40, "", {}),
    "zip": (["a", "b"], 40, "", {}),
    "avif": (["a", "b"], 41, "", {}),
    "other_formats": (["a", "b"], 33, "", {}),
    "metadata_csv": (["a", "b"], 40, "the column 'file_name' is the path, 'label' the label", {}),
}


@pytest.fixture(scope="session")
def door(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, each in a folder of its name."""
    made = tmp_path_factory.mktemp("door")
    subprocess.run([sys.executable, shared / "cases" / "door.py", made], check=True, capture_output=True)
    assert {path.name for path in made.iterdir()} == {*CASES}
    return made


@pytest.mark.parametrize("case", CASES)
def test_it_gets_in(door: Path, tmp_path: Path, case: str) -> None:
    classes, count, said, refused = CASES[case]
    source = next(door.joinpath(case).glob("*.zip"), door / case)
    layout = sources.write_images(source, tmp_path / "data", Options())
    assert said in "\n".join(layout.notes)
    assert Counter(one.kind for one in layout.refused) == refused
    for seed in range(20 if case in ("twelve_each", "five_each") else 1):
        built = indexing.build(tmp_path / "data", DATASET, seed)
        assert len(built.records) == count
        assert classes in (built.classes, len(built.classes))
        placed = {(one.label, one.split) for one in built.records}
        lacking = {(label, split) for label in built.classes for split in ("train", "val", "test")} - placed
        assert lacking == {"val_lacks_a_class": {("c", "val")}, "test_lacks_a_class": {("c", "test")}}.get(case, set())
