"""Predictions as files: an array and its table, which come back exactly, and the table of all of it on request."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import finished
from thaw.artifacts import PROJECT, Paths, read_json, write_json, write_text
from thaw.data.manifest import Record
from thaw.errors import UserError
from thaw.learning import predictions

# Whatever files and classes may be called: prepare takes none with control characters or lone surrogates.
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


def records(names: list[str]) -> list[Record]:
    """Validation and test images that are called so."""
    return [Record(name, "a", ("val", "test")[n % 2], str(n), 1, 1, "") for n, name in enumerate(names)]  # type: ignore[arg-type]


def write(folder: Path, classes: list[str], names: list[str], probabilities: np.ndarray) -> Path:
    """Write the predictions of a stage; return its folder."""
    write_json(folder / "prepare" / "classes.json", classes)
    stage = folder / "finetune"
    predictions.write(stage / "predictions.csv", classes, records(names), probabilities)
    return stage


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[str], list[str], np.ndarray]:
    """Names of classes and of images, and any probabilities, the smallest float32 included."""
    classes, images = (draw(st.lists(NAMES, min_size=least, max_size=4, unique=True)) for least in (2, 1))
    values = st.lists(st.floats(0, 1, width=32), min_size=len(classes), max_size=len(classes))
    return classes, images, np.array([draw(values) for _ in images], np.float32)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(cases())
def test_predictions_come_back_to_the_last_bit(tmp_path: Path, case: tuple[list[str], list[str], np.ndarray]) -> None:
    classes, names, probabilities = case
    found = predictions.read(write(tmp_path, classes, names, probabilities) / "predictions.csv")
    assert (found.paths, found.splits) == (names, [record.split for record in records(names)])
    assert found.answers == [classes[row.argmax()] for row in probabilities]
    assert (found.probabilities.dtype, found.probabilities.tobytes()) == (np.float32, probabilities.tobytes())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(cases())
def test_so_they_do_by_way_of_the_table_of_all(tmp_path: Path, case: tuple[list[str], list[str], np.ndarray]) -> None:
    classes, names, probabilities = case
    stage = write(tmp_path, classes, names, probabilities)
    predictions.main([str(stage), "--csv", str(tmp_path / "all.csv")])
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "split", *classes]
    assert [row[:2] for row in rows] == [[record.path, record.split] for record in records(names)]
    assert np.array([row[2:] for row in rows], np.float32).tobytes() == probabilities.tobytes()


def test_the_table_is_for_people(tmp_path: Path) -> None:
    stage = write(
        tmp_path, ["cat", "dog, wet"], ["ü, 1.png", "2.png"], np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    )
    assert (stage / "predictions.csv").read_text(encoding="utf-8") == (
        'path,split,answer,probability\n"ü, 1.png",val,"dog, wet",0.75\n2.png,test,cat,0.5\n'
    )


def test_an_array_of_another_order_or_kind_makes_the_same_files(tmp_path: Path) -> None:
    exact = np.array([[0.1, 0.9], [0.5, 0.5 + 1e-12]])  # which are equal as float32
    probabilities = exact.astype(np.float32)
    others = (exact, np.asfortranarray(probabilities), probabilities[:, ::-1].copy()[:, ::-1])
    stages = [
        write(tmp_path / str(number), ["cat", "dog"], ["1.png", "2.png"], one)
        for number, one in enumerate((probabilities, *others))
    ]
    for name in ("predictions.csv", "predictions.npy"):
        assert len({(stage / name).read_bytes() for stage in stages}) == 1, name


def test_they_take_a_third_of_what_they_do_as_text(tmp_path: Path) -> None:
    classes, names = [f"class {n:03}" for n in range(199)], [f"class_042/{n:06}.jpg" for n in range(160)]
    odds = np.random.default_rng(0).random((160, 199), np.float32)
    stage = write(tmp_path, classes, names, odds / odds.sum(axis=1, keepdims=True))
    taken = sum(file.stat().st_size for file in stage.iterdir())
    predictions.main([str(stage), "--csv", str(tmp_path / "all.csv")])
    assert taken <= 160 * (199 * 4 + 60)
    assert 2.5 * taken < (tmp_path / "all.csv").stat().st_size


@pytest.mark.skipif(os.name == "nt", reason="Windows replaces no file that is mapped")
def test_they_are_not_in_memory_before_they_are_looked_at(tmp_path: Path) -> None:
    stage = write(tmp_path, ["cat", "dog"], ["1.png"], np.array([[0.25, 0.75]], np.float32))
    assert isinstance(predictions.read(stage / "predictions.csv").probabilities, np.memmap)


def test_a_table_of_fewer_images_than_the_array_is_refused(tmp_path: Path) -> None:
    stage = write(tmp_path, ["cat", "dog"], ["1.png", "2.png"], np.full((2, 2), 0.5, np.float32))
    lines = (stage / "predictions.csv").read_text(encoding="utf-8").splitlines()
    write_text(stage / "predictions.csv", "\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match="finetune/predictions.csv: expected 2 images, .* found 1; run 'dvc repro'"):
        predictions.read(stage / "predictions.csv")


def test_the_table_of_all_goes_to_standard_output(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path, ("cat", "hünd"))
    command = [sys.executable, "-m", "thaw.learning.predictions", str(paths.root / "train_head")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, encoding="utf-8", check=True)
    header, *rows = csv.reader(done.stdout.splitlines())
    assert header == ["path", "split", *read_json(paths.classes)]
    found = predictions.read(paths.predictions("train_head"))
    assert np.array([row[2:] for row in rows], np.float32).tobytes() == found.probabilities.tobytes()


def test_a_table_under_the_names_of_other_classes_is_refused(tmp_path: Path) -> None:
    stage = write(tmp_path, ["cat", "dog"], ["1.png"], np.array([[0.25, 0.75]], np.float32))
    write_json(tmp_path / "prepare" / "classes.json", ["dog", "cat"])
    with pytest.raises(SystemExit, match="finetune: expected predictions of the classes of prepare, found others"):
        predictions.main([str(stage)])


@pytest.mark.parametrize("lost", [Paths.predictions, Paths.probabilities, lambda paths, _: paths.classes])
def test_what_there_is_no_table_of_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: object) -> None:
    """As of results of a former version, which had all of it in the one file."""
    paths = finished.pipeline(tmp_path)
    file = lost(paths, "finetune")  # type: ignore[operator]
    file.unlink()
    with pytest.raises(
        SystemExit, match=f"expected the predictions of a stage, found no .*{file.name}; run 'dvc repro'"
    ):
        predictions.main([str(paths.root / "finetune"), "--csv", str(tmp_path / "all.csv")])
    assert not (tmp_path / "all.csv").exists()
