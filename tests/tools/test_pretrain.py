"""tools/pretrain.py: what it reads, how it fails, and that a killed run ends with the bytes of an undisturbed one."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import pretrain

ROOT = Path(__file__).parents[2]
COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30)}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """train/ and val/ folders of three noisy colours, 32 x 32 pixels."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 4)):
        for name, colour in COLOURS.items():
            folder = tmp_path / "tree" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(colour + rng.normal(0, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return tmp_path / "tree"


def test_an_archive_and_its_folder_give_the_same_arrays(tree: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tree.tar.gz", "w:gz") as archive:
        archive.add(tree, "some_name")
    from_folder, classes = pretrain.load_images(tree, 32)
    from_archive, _ = pretrain.load_images(tmp_path / "tree.tar.gz", 32)
    assert classes == sorted(COLOURS)
    for split, count in (("train", 120), ("val", 12)):
        for got, expected in zip(from_archive[split], from_folder[split], strict=True):
            assert len(got) == count
            np.testing.assert_array_equal(got, expected)
    images, labels = from_folder["train"]
    assert images[labels == classes.index("red"), ..., 0].mean() > 180


def test_images_of_another_size_are_resized(tree: Path) -> None:
    splits, _ = pretrain.load_images(tree, 48)
    assert splits["val"][0].shape == (12, 48, 48, 3)


def test_crops_depend_on_seed_and_view_alone_and_stay_inside() -> None:
    boxes = pretrain.crop_boxes(2000, 64, seed=1, view=2)
    np.testing.assert_array_equal(boxes, pretrain.crop_boxes(2000, 64, seed=1, view=2))
    assert (boxes != pretrain.crop_boxes(2000, 64, seed=1, view=3)).any(1).all()
    extent = boxes[:, 2:] - boxes[:, :2]
    assert boxes.min() >= 0
    assert boxes.max() <= 64
    assert extent.min() > 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["{tree}", "--teacher", "no.weights.h5"], "no.weights.h5 does not exist"),
        (["{tree}/train"], "expected train/<class>/<image> and val/<class>/<image>.*found 0 images of 0 classes"),
        (["{tree}", "--batch", "3"], "--batch must be a positive multiple of 2, received 3"),
        (["{tree}", "--size", "16"], "--size must be at least 32"),
        (["{tree}", "--epochs", "0"], "--epochs must be at least 1"),
        (["{tree}", "--batch", "128"], "--batch 128 is larger than the 120 training images"),
    ],
)
def test_a_mistake_ends_in_one_sentence(
    tree: Path, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message) as error:
        pretrain.main([argument.format(tree=tree) for argument in arguments])
    assert "\n" not in str(error.value)
    assert not (tmp_path / ".cache").exists()


def test_files_that_cannot_be_read_are_named(tree: Path) -> None:
    (tree / "val" / "red" / "00.png").write_text("not an image")
    with pytest.raises(SystemExit, match="val/red/00.png in .* is not an image that can be read"):
        pretrain.load_images(tree, 32)
    with pytest.raises(SystemExit, match="00.png is neither a folder nor a readable tar archive"):
        pretrain.load_images(tree / "val" / "red" / "00.png", 32)


def command(tree: Path, folder: Path, *more: str) -> list[str]:
    options = [
        "--size",
        "32",
        "--batch",
        "20",
        "--epochs",
        "4",
        "--work",
        str(folder),
        "--out",
        str(folder / "out.weights.h5"),
    ]
    return [sys.executable, "-m", "tools.pretrain", str(tree), *options, *more]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(tree: Path, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(3)
    pretrain.build_network(1.0, 32).save_weights(tmp_path / "teacher.weights.h5")
    more = ["--teacher", str(tmp_path / "teacher.weights.h5")]
    straight, killed = tmp_path / "straight", tmp_path / "killed"

    subprocess.run(command(tree, straight, *more), cwd=ROOT, check=True, capture_output=True)

    with subprocess.Popen(command(tree, killed, *more), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while not list(killed.glob("run-*/checkpoint.npz")) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == (1 if os.name == "nt" else -9)
    assert not (killed / "out.weights.h5").exists()

    resumed = subprocess.run(
        command(tree, killed, *more), cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8"
    )
    assert " 0 of 4 epochs done" not in resumed.stdout
    first = (straight / "out.weights.h5").read_bytes()
    assert (killed / "out.weights.h5").read_bytes() == first
    assert not list(killed.glob("**/*tmp*"))

    facts = json.loads(next(killed.glob("run-*/facts.json")).read_text())
    assert facts["sha256"] == hashlib.sha256(first).hexdigest()
    assert (facts["epochs"], facts["images"], facts["classes"]) == (4, 120, 3)

    network = keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=None)
    before = [np.asarray(weight) for weight in network.weights]
    network.load_weights(killed / "out.weights.h5")
    moved = [bool((np.asarray(now) != old).any()) for now, old in zip(network.weights, before, strict=True)]
    assert all(moved)
