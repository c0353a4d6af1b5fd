"""What pictures are by themselves, and which are odd; and what gives a class away."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.thaw.audit.test_copies import scene
from thaw.audit import cues, pictures
from thaw.errors import UserError
from thaw.learning.crossvalidation import FOLDS


def save(folder: Path, picture: Image.Image, name: str = "one.png", **options: object) -> Path:
    picture.save(folder / name, **options)
    return folder / name


ODD = {
    "Nothing is to be seen: all of it has the same brightness.": Image.new("RGB", (192, 192), (90, 120, 200)),
    "It is nearly black.": scene(0).point(lambda value: value // 6),
    "It is nearly white.": scene(0).point(lambda value: 225 + value // 9),
    "It is 4.0 times as long as wide: 192 × 48 pixels.": scene(0).crop((0, 0, 192, 48)),
    "It has few pixels beside the others: 48 × 48.": scene(0).resize((48, 48)),
    "It is blurred: it has little detail beside the others.": scene(0).filter(ImageFilter.GaussianBlur(25)),
}


@pytest.mark.parametrize("why", ODD)
def test_odd_pictures_are_found_and_others_are_not(why: str, tmp_path: Path) -> None:
    looks = [pictures.look(save(tmp_path, picture)) for picture in (*map(scene, range(10)), ODD[why])]
    assert pictures.odd(looks) == {10: why}


def test_data_of_small_dark_or_long_pictures_are_not_odd_as_a_whole(tmp_path: Path) -> None:
    looks = [pictures.look(save(tmp_path, scene(seed).resize((20, 20)))) for seed in range(10)]
    assert pictures.odd(looks) == {}


def test_a_look_says_what_a_picture_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271], exif[272] = "Canon", "EOS\0 "
    file = save(tmp_path, scene(0).crop((0, 0, 192, 96)), "one.jpg", exif=exif)
    look = pictures.look(file)
    assert (look.kind, look.width, look.height, look.camera) == ("JPEG", 192, 96, "Canon EOS")
    assert look.size == file.stat().st_size
    assert look.grey.shape == (32, 64)
    assert look.brightness == pytest.approx(128, abs=15)
    assert 0 < look.sharpness < 10
    assert pictures.look(save(tmp_path, scene(0).convert("L"))).colour == 0
    assert pictures.look(save(tmp_path, scene(0).convert("L"))).camera == ""


@pytest.mark.parametrize("size", [(1, 1), (2, 200), (200, 1), (3, 3)])
def test_the_smallest_pictures_are_looked_at_too(size: tuple[int, int], tmp_path: Path) -> None:
    look = pictures.look(save(tmp_path, Image.new("RGB", size)))
    assert np.isfinite([look.brightness, look.contrast, look.sharpness, look.colour]).all()
    assert pictures.odd([look]) == {0: "Nothing is to be seen: all of it has the same brightness."}


def test_a_picture_that_has_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the image that prepare indexed, found unreadable"):
        pictures.look(tmp_path / "gone.png")


# Cues.


def looks(**features: list[object]) -> list[pictures.Look]:
    """Looks that differ in nothing but some features."""
    plain = {"kind": "JPEG", "width": 320, "height": 240, "size": 20_000, "camera": "", "colour": 0.3}
    grey = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    rows = zip(*features.values(), strict=True)
    return [pictures.Look(**({"grey": grey} | plain | dict(zip(features, row, strict=True)))) for row in rows]  # type: ignore[arg-type]


Y = np.repeat([0, 1, 2], 40)
FOLD = np.arange(120) % FOLDS


@pytest.mark.parametrize(
    ("feature", "features"),
    [
        ("image size", {"width": np.where(Y == 1, 192, 320).tolist(), "height": np.where(Y == 1, 144, 240).tolist()}),
        ("file format", {"kind": np.where(Y == 1, "PNG", "JPEG").tolist()}),
        ("camera", {"camera": np.where(Y == 1, "Canon", "").tolist()}),
    ],
)
def test_a_class_that_its_files_give_away_is_said(feature: str, features: dict[str, list[object]]) -> None:
    found = cues.find(looks(**features), Y, FOLD, 3)
    first = next(cue for cue in found if cue.feature == feature)
    assert first.right == pytest.approx(2 / 3, abs=0.02)
    assert first.majority == pytest.approx(1 / 3)
    assert first.label == 1


def test_what_a_picture_shows_has_to_say_much_more(monkeypatch: pytest.MonkeyPatch) -> None:
    some = np.where(np.arange(120) % 4 > 0, Y, 0)  # right for three in four of two classes
    colour = (0.1 + 0.3 * some + np.random.default_rng(0).uniform(0, 0.01, 120)).tolist()
    assert [cue.feature for cue in cues.find(looks(colour=colour), Y, FOLD, 3)] == ["colour"]
    monkeypatch.setattr(cues, "FEATURES", {"colour": (0.6, cues.FEATURES["colour"][1])})
    assert cues.find(looks(colour=colour), Y, FOLD, 3) == []


@pytest.mark.parametrize("seed", range(5))
def test_chance_is_no_cue(seed: int) -> None:
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, 300)
    features: dict[str, list[object]] = {
        "width": random.integers(200, 320, 300).tolist(),
        "kind": random.choice(["JPEG", "PNG"], 300).tolist(),
        "colour": random.uniform(size=300).tolist(),
        "size": random.integers(10_000, 30_000, 300).tolist(),
    }
    assert cues.find(looks(**features), y, np.arange(300) % FOLDS, 3) == []


def test_sizes_that_are_all_different_say_nothing_by_themselves() -> None:
    """Each would name the class of the one picture that has it."""
    assert (
        cues.find(looks(width=list(range(200, 320)), height=[240] * 120), Y[::-1] * 0 + np.arange(120) % 3, FOLD, 3)
        == []
    )
