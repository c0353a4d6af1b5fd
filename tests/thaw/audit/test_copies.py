"""Copies that no hash finds."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from thaw.audit import copies
from thaw.audit.neighbours import Neighbours
from thaw.audit.pictures import SIDE

Picture = NDArray[np.uint8]


def scene(seed: int, side: int = 192) -> Image.Image:
    """A picture with detail of every size, as photos have it: its spectrum falls with the frequency."""
    random = np.random.default_rng(seed)
    down, across = (np.fft.fftfreq(side)[:, np.newaxis], np.fft.fftfreq(side)[np.newaxis])
    spectrum = np.fft.fft2(random.normal(size=(3, side, side))) / np.maximum(np.hypot(down, across), 1 / side)
    pixels = np.real(np.fft.ifft2(spectrum)).transpose(1, 2, 0)
    scaled = 128 + 45 * (pixels - pixels.mean()) / pixels.std()
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def grey(picture: Image.Image) -> Picture:
    scale = min(1.0, SIDE / max(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    return np.asarray(picture.convert("L").resize(size, Image.Resampling.BOX))


CHANGES = {
    "the same": lambda one: one,
    "resized": lambda one: one.resize((77, 77)),
    "mirrored": ImageOps.mirror,
    "brighter": lambda one: ImageEnhance.Brightness(one).enhance(1.2),
    "less colour": lambda one: ImageEnhance.Color(one).enhance(0.2),
    "less contrast": lambda one: ImageEnhance.Contrast(one).enhance(0.5),
    "a corner": lambda one: one.crop((0, 0, 150, 150)),
    "the middle": lambda one: one.crop((30, 25, 170, 165)),
    "wide": lambda one: one.crop((0, 40, 192, 140)),
    "stretched": lambda one: one.crop((0, 0, 192, 140)).resize((100, 100)),
    "turned": lambda one: one.crop((0, 0, 192, 140)).rotate(90, expand=True),
    "upside down": lambda one: one.crop((0, 0, 192, 140)).rotate(180),
    "a mirrored part": lambda one: ImageOps.mirror(one.crop((20, 30, 160, 180))),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_picture_is_found_in_its_copy_whichever_comes_first(change: str, seed: int) -> None:
    whole = scene(seed).crop((0, 0, 192, 140)) if change in ("stretched", "turned", "upside down") else scene(seed)
    original, copy = grey(whole), grey(CHANGES[change](scene(seed)))
    assert copies.shared(original, copy) >= copies.SAME
    assert copies.shared(copy, original) == pytest.approx(copies.shared(original, copy), abs=1e-6)


def test_pictures_that_fit_into_each_other_at_no_scale_are_no_copies() -> None:
    assert 0 <= copies.shared(grey(scene(0))[:, :24], grey(scene(1))[:24]) < copies.SAME


def test_other_pictures_are_not_copies() -> None:
    pictures = [grey(scene(seed)) for seed in range(8)]
    found = [copies.shared(one, other) for number, one in enumerate(pictures) for other in pictures[number + 1 :]]
    assert max(found) < copies.SAME - 0.1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.full((64, 64), 200, np.uint8), np.full((64, 48), 90, np.uint8)),
        (np.full((64, 64), 200, np.uint8), grey(scene(0))),
        (grey(scene(0))[:10, :10], grey(scene(0))[:10, :10]),
        (np.zeros((1, 1), np.uint8), grey(scene(0))),
        (np.zeros((64, 2), np.uint8), grey(scene(0))),
    ],
    ids=["empty", "one is empty", "too small", "a pixel", "a line"],
)
def test_what_shows_nothing_is_no_copy(one: Picture, other: Picture) -> None:
    assert copies.shared(one, other) == copies.shared(other, one) == 0


def test_the_nearest_are_compared_and_the_rest_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 0 and 1 are copies, as are 2 and 3; 4 looks alike to the network alone."""
    pictures = [grey(scene(0)), grey(ImageOps.mirror(scene(0))), grey(scene(1)), grey(scene(1)), grey(scene(2))]
    rows = np.array([[1, 2, 3], [0, 2, 3], [3, 0, 1], [2, 0, 1], [0, 1, 2]])
    similarity = np.array([[0.9, 0.3, 0.2], [0.9, 0.3, 0.2], [0.8, 0.3, 0.2], [0.8, 0.3, 0.2], [0.7, 0.6, 0.1]])
    near = Neighbours(rows, similarity.astype(np.float32))
    found = copies.find(near, pictures)
    assert {*found} == {(0, 1), (2, 3)}
    assert min(found.values()) > 0.95
    monkeypatch.setattr(copies, "PAIRS", 2)  # the pictures themselves say which ones are worth it
    assert copies.find(near, pictures) == found
    monkeypatch.setattr(copies, "PAIRS", 1)
    assert {*copies.find(near, pictures)} < {*found}


def test_without_anything_alike_nothing_is_found() -> None:
    near = Neighbours(np.array([[1], [0]]), np.array([[0.1], [0.1]], np.float32))
    assert copies.find(near, [grey(scene(0)), grey(scene(0))]) == {}
