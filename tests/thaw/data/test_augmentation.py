"""Augmentation: what each option does, and that a view depends on image, number and seed alone."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers import options, pictures
from thaw.config.composing import compose
from thaw.config.schema import Augment
from thaw.data.augmentation import OPERATIONS, augment, mix, partner, share

STILL = Augment.model_validate(options.AUGMENT | {"views": 1})


def _views(image: Any, count: int, **changes: Any) -> list[Any]:
    return [augment(image, STILL.model_copy(update=changes), "key", view, 0) for view in range(count)]


def test_augmenting_with_nothing_changes_nothing() -> None:
    image = pictures.pixels(3, 9, 12)
    assert np.array_equal(augment(image, STILL, "key", 0, 0), image)


@pytest.mark.parametrize(
    ("flip", "expected"),
    [
        ("none", {"as it was"}),
        ("horizontal", {"as it was", "left to right"}),
        ("vertical", {"as it was", "upside down"}),
        ("both", {"as it was", "left to right", "upside down", "both"}),
    ],
)
def test_flips_are_exact_and_all_occur(flip: str, expected: set[str]) -> None:
    image = pictures.pixels(3, 9, 12)
    known = {
        image.tobytes(): "as it was",
        image[:, ::-1].tobytes(): "left to right",
        image[::-1].tobytes(): "upside down",
        image[::-1, ::-1].tobytes(): "both",
    }
    options = STILL.model_copy(update={"flip": flip})
    assert {known[augment(image, options, "key", view, 0).tobytes()] for view in range(40)} == expected


LIVELY = STILL.model_copy(update={"flip": "both", "rotation": 180, "shift": 0.5, "zoom": 0.5})


def test_an_augmented_view_depends_on_image_view_and_seed_alone() -> None:
    image = pictures.pixels(3, 20, 30)
    first = augment(image, LIVELY, "key", 1, 2)
    augment(image, LIVELY, "another", 0, 0)
    assert np.array_equal(first, augment(image, LIVELY, "key", 1, 2))
    for other in (("other", 1, 2), ("key", 2, 2), ("key", 1, 3)):
        assert not np.array_equal(first, augment(image, LIVELY, *other))


def test_what_leaves_the_frame_is_continued_and_never_black() -> None:
    image = np.full((24, 40, 3), 200, np.uint8)
    for view in range(50):
        assert np.array_equal(augment(image, LIVELY, "key", view, 0), image)


@pytest.mark.parametrize(
    ("changed", "dot"),
    [({"shift": 0.2}, "moves"), ({"rotation": 45}, "moves"), ({"zoom": 0.5}, "moves"), ({}, "stays")],
)
def test_each_option_moves_the_picture_within_its_bounds(changed: dict[str, float], dot: str) -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    image[8:13, 18:23] = 255  # 10 pixels above the centre
    places = []
    for view in range(30):
        result = augment(image, STILL.model_copy(update=changed), "key", view, 0)[..., 0].astype(float)
        places.append([(result.sum(axis=axis) @ np.arange(41)) / result.sum() - 20 for axis in (0, 1)])
    x, y = np.array(places).T
    match changed:
        case {"shift": share}:
            assert np.abs(x).max() <= 41 * share + 0.5
            assert np.abs(y + 10).max() <= 41 * share + 0.5
        case {"rotation": angle}:
            assert np.allclose(np.hypot(x, y), 10, atol=0.5)
            assert np.abs(np.degrees(np.arctan2(x, -y))).max() <= angle + 3
        case {"zoom": share}:
            assert np.allclose(x, 0, atol=0.3)
            assert (-10 * (1 + share) - 0.5 <= y).all()
            assert (y <= -10 * (1 - share) + 0.5).all()
    assert (np.ptp(x) + np.ptp(y) > 3) == (dot == "moves")


def test_light_is_what_it_was_before_there_was_more() -> None:
    """Whoever has features of these views in a store, or figures in MLflow, finds them again."""
    light = compose(["augment=light"], ["augment"])["augment"]
    views = [augment(pictures.pixels(3, 40, 40), light, "key", view, 7) for view in range(5)]
    assert hashlib.sha256(b"".join(view.tobytes() for view in views)).hexdigest()[:16] == "b175469ecf5bd972"


def test_shear_moves_rows_against_each_other_in_proportion_to_their_height() -> None:
    image = np.zeros((61, 61, 3), np.uint8)
    image[:, 28:33] = 255  # a vertical bar
    slopes = []
    for view in _views(image, 30, shear=20):
        places = view[..., 0].astype(float) @ np.arange(61) / view[..., 0].sum(axis=1)
        assert places[30] == pytest.approx(30, abs=0.5)
        slopes.append(np.polyfit(np.arange(61), places, 1)[0])
    assert np.degrees(np.arctan(np.abs(slopes))).max() <= 20.5
    assert np.ptp(slopes) > 0.3


def test_brightness_is_a_factor_within_its_bounds() -> None:
    means = [view.mean() for view in _views(np.full((8, 8, 3), 100, np.uint8), 40, brightness=0.3)]
    assert 69 <= min(means) < 85
    assert 115 < max(means) <= 131


def test_contrast_spreads_about_the_mean() -> None:
    image = np.repeat(np.array([[80, 120]], np.uint8), 8, axis=0)[..., np.newaxis].repeat(3, axis=2)
    for view in _views(image, 40, contrast=0.5):
        assert view.mean() == pytest.approx(100, abs=1.5)
        assert 20 - 1 <= np.ptp(view) <= 60 + 1
    assert len({np.ptp(view) for view in _views(image, 40, contrast=0.5)}) > 10


def test_erasing_paints_one_rectangle_of_at_most_its_share_in_about_every_second_view() -> None:
    image = np.full((40, 60, 3), 77, np.uint8)
    changed = [(view != 77).any(axis=2) for view in _views(image, 200, erase=0.25)]
    touched = [mask for mask in changed if mask.any()]
    assert 70 <= len(touched) <= 130
    for mask in touched:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask.mean() <= 0.25
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_of_randaugment_keeps_the_shape_and_does_more_with_more_strength(name: str) -> None:
    image = Image.fromarray(pictures.pixels(3, 30, 40))
    operation: Callable[[Image.Image, float], Image.Image] = OPERATIONS[name]
    still, much = (np.array(operation(image, strength)).astype(int) for strength in (0.0, 0.9))
    assert still.shape == much.shape == (30, 40, 3)
    if name in ("autocontrast", "equalize"):
        assert np.array_equal(still, much), "it has no strength"
    else:
        assert np.array_equal(still, np.array(image))
        assert not np.array_equal(much, still)


def test_every_operation_of_randaugment_occurs_and_as_many_as_asked() -> None:
    image = pictures.pixels(3, 16, 16)
    one = {view.tobytes() for view in _views(image, 300, randaugment=1, magnitude=0.9)}
    assert len(one) >= len(OPERATIONS)
    assert len({view.tobytes() for view in _views(image, 300, randaugment=2, magnitude=0.9)}) > 2 * len(one)


@pytest.mark.parametrize("option", ["standard", "strong"])
def test_every_option_gives_pictures_that_depend_on_image_view_and_seed_alone(option: str) -> None:
    chosen = compose([f"augment={option}"], ["augment"])["augment"]
    image = pictures.pixels(3, 33, 47)
    seen = [augment(image, chosen, *name) for name in (("a", 1, 0), ("b", 1, 0), ("a", 2, 0), ("a", 1, 1))]
    assert all(view.shape == image.shape and view.dtype == np.uint8 for view in seen)
    assert len({view.tobytes() for view in seen}) == 4
    assert np.array_equal(augment(image, chosen, "a", 1, 0), seen[0])


DARK, LIGHT = np.zeros((40, 60, 3), np.uint8), np.full((40, 60, 3), 200, np.uint8)


def test_a_blend_is_the_first_picture_by_its_share_and_the_second_by_the_rest() -> None:
    options_ = STILL.model_copy(update={"mixup": 1.0})
    for view in range(30):
        own = share(options_, "key", view, 0)
        assert 0.5 <= own <= 1
        assert (mix(DARK, LIGHT, options_, "key", view, 0) == round(200 * (1 - own))).all()


def test_a_pasted_rectangle_covers_what_the_share_leaves() -> None:
    options_ = STILL.model_copy(update={"cutmix": 1.0})
    for view in range(30):
        other = mix(DARK, LIGHT, options_, "key", view, 0)[..., 0] == 200
        assert other.mean() == pytest.approx(1 - share(options_, "key", view, 0), abs=0.03)
        rows, columns = np.flatnonzero(other.any(axis=1)), np.flatnonzero(other.any(axis=0))
        assert not len(rows) or other[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_with_both_options_some_views_are_blended_and_some_pasted() -> None:
    options_ = STILL.model_copy(update={"mixup": 1.0, "cutmix": 1.0})
    kinds = [len(np.unique(mix(DARK, LIGHT, options_, "key", view, 0))) for view in range(60)]
    assert 15 < kinds.count(1) < 45


def test_partners_are_drawn_from_all() -> None:
    drawn = [partner(5, f"image {n}", 1, 0) for n in range(200)]
    assert {*drawn} == set(range(5))
    assert drawn == [partner(5, f"image {n}", 1, 0) for n in range(200)]
