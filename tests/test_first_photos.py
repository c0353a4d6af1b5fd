"""README's way from a fresh clone to an answer about one's own photos, as printed: no editor, no error."""

import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.helpers.project import Project, printed
from thaw.architectures import ARCHITECTURES
from thaw.artifacts import PROJECT, read_json

COLOURS = {"Mein Hund": (200, 60, 60), "bébé chat": (60, 60, 200), "swimming pool (2019)": (60, 200, 60)}


def take_photos(folder: Path) -> None:
    """JPEGs of several sizes, in class folders with names as people give them."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(20):
            size = (120 + 10 * number, 160, 3)
            pixels = np.clip(random.normal(colour, 40, size), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"IMG {number:04}.JPG", "JPEG")


def keep_weights(keras_home: Path) -> None:
    """Write, where Keras keeps what it has downloaded, weights for MobileNetV2: random ones, as there is no network."""
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    file = keras_home / "models" / ARCHITECTURES["mobilenet_v2"].weights_file(1.0)
    file.parent.mkdir(parents=True)
    keras.utils.set_random_seed(0)
    with h5py.File(file, "w") as opened:
        legacy_h5_format.save_weights_to_hdf5_group(
            opened, keras.applications.MobileNetV2(weights=None, include_top=False)
        )


@pytest.mark.slow
@pytest.mark.parametrize("sample", [False, True], ids=["before the sample", "after it"])
def test_photos_take_two_commands_before_and_after_the_sample(tmp_path: Path, sample: bool) -> None:
    take_photos(tmp_path / "photos")
    keep_weights(tmp_path / "keras")
    (commands,) = [block for block in printed("README.md", "Your own photos") if "make data" in block]
    subprocess.run(["git", "clone", "--quiet", PROJECT, tmp_path / "thaw"], check=True)
    project = Project(tmp_path / "thaw", {"HOME": str(tmp_path), "KERAS_HOME": str(tmp_path / "keras")})
    project.install()
    if sample:
        assert "Compared with the committed result: the same" in project.bash("make repro")
        assert "Nothing has changed since then" in project.bash("make repro")
    said = project.bash(commands)
    assert "params.yaml: dataset digits → folder, backbone mobilenet_v2_bundled → mobilenet_v2" in said
    assert "60 images in 3 classes" in said
    assert "another one, as it should be" in said or "of other test images" in said
    assert "differs in data: data/" in said
    assert project.paths.report.exists()
    assert read_json(project.paths.classes) == sorted(COLOURS)
    assert {path.suffix for path in (tmp_path / "photos").rglob("*") if path.is_file()} == {".JPG"}, "as they were"
