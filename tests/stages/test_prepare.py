"""The outputs of prepare and what it says."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from stages import prepare
from tests.helpers import pictures
from thaw.artifacts import PROJECT, Paths, read_json
from thaw.config.schema import Dataset
from thaw.data import manifest
from thaw.errors import UserError

DATASET = Dataset(val=0.3, test=0.3, min_images=2, max_megapixels=1.0)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Two classes of 20 pictures, a copy, an empty file and one that is no picture."""
    data = pictures.fill(tmp_path / "data", {"a": 20, "b, c": 20})
    (data / "a" / "copy.png").write_bytes((data / "a" / "000.png").read_bytes())
    (data / "a" / "empty.png").touch()
    (data / "b, c" / "notes.txt").write_text("about")
    return Paths(data, tmp_path / "artifacts")


def test_prepare_writes_its_outputs_and_says_what_it_refused(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.run(paths, DATASET, seed=0)
    records = manifest.read(paths.manifest)
    assert read_json(paths.classes) == ["a", "b, c"]
    with paths.refused.open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["path", "reason"],
            ["a/empty.png", "empty file"],
            ["b, c/notes.txt", "not an image: by its name"],
        ]
    summary = read_json(paths.manifest.with_name("summary.json"))
    assert sum(sum(classes.values()) for classes in summary["images"].values()) == len(records) == 41
    assert summary["refused"] == {"empty file": 1, "not an image": 1}
    assert summary["duplicates"] == 1
    assert summary["splits"] == {"train": "drawn", "val": "drawn", "test": "drawn"}
    said = capsys.readouterr().out
    assert said.startswith("41 images in 2 classes: ")
    assert "2 files refused" in said
    assert "1 x not an image" in said
    assert "test images show an accuracy to within some" in said
    assert "1 x a copy of another image" in said


def test_prepare_says_which_split_it_took_from_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, split in enumerate(("train", "val")):
        pictures.fill(tmp_path / "data" / split, {"a": 20, "b": 20}, start=100 * number)
    paths = Paths(tmp_path / "data", tmp_path / "artifacts")
    prepare.run(paths, DATASET, seed=0)
    assert "test taken from train" in capsys.readouterr().out
    splits = read_json(paths.manifest.with_name("summary.json"))["splits"]
    assert splits == {"train": "predefined", "val": "predefined", "test": "drawn from train"}


def test_two_runs_write_the_same_bytes_and_another_seed_does_not(paths: Paths, tmp_path: Path) -> None:
    folders = []
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        prepare.run(Paths(paths.data, tmp_path / name), DATASET, seed)
        folders.append({file.name: file.read_bytes() for file in (tmp_path / name / "prepare").iterdir()})
    tables = {"contradictory.csv", "manifest.csv", "refused.csv"}
    assert set(folders[0]) == tables | {"classes.json", "summary.json", "config.json"}
    assert folders[0] == folders[1]
    assert folders[0]["manifest.csv"] != folders[2]["manifest.csv"]


def test_a_refusal_leaves_earlier_outputs_and_nothing_half_written(paths: Paths) -> None:
    prepare.run(paths, DATASET, seed=0)
    before = paths.manifest.read_bytes()
    with pytest.raises(UserError, match="expected at least two classes of usable images"):
        prepare.run(paths, DATASET.model_copy(update={"min_images": 22}), seed=0)
    assert paths.manifest.read_bytes() == before
    assert [path.name for path in paths.root.iterdir()] == ["prepare"]


def test_prepare_starts_without_the_heavy_libraries() -> None:
    script = "import sys, stages.prepare; print({name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, encoding="utf-8", check=True
    ).stdout
    for name in ("tensorflow", "keras", "sklearn", "pandas", "scipy", "matplotlib", "mlflow", "openvino"):
        assert f"'{name}'" not in loaded
