"""Forecasts: of curves that are known, how often their intervals hold, and what must hold for any measurement."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaw.evidence import forecasting
from thaw.learning.subsets import Measured

SIZES = [100, 200, 400, 800]


def measured(errors: list[float], seed: int, images: int = 600, draws: int = 5) -> Measured:
    """What heads of such errors would have said: an image is easy or hard for all of them, as images are."""
    random = np.random.default_rng(seed)
    hardness = random.random(images)
    right = []
    for place, error in enumerate(errors):
        shape = (1 if place == len(errors) - 1 else draws, images)
        own = np.clip(hardness + random.normal(0, 0.05, shape), 0, 1)
        right.append(own >= error)
    return Measured(SIZES, right, random.integers(0, 3, images), SIZES[-1])


def law(a: float, b: float, c: float) -> list[float]:
    """The errors of a power law at ``SIZES`` and at twice the last of them."""
    return [a + b * (size / 800) ** -c for size in [*SIZES, 1600]]


@pytest.mark.parametrize(("a", "b", "c"), [(0.0, 0.1, 0.5), (0.05, 0.1, 0.25), (0.1, 0.03, 1.0)])
def test_a_power_law_is_continued_exactly(a: float, b: float, c: float) -> None:
    errors = np.array([law(a, b, c)[:-1]])
    fall = forecasting._fall(np.array(SIZES) / 800, errors, np.ones(4), 1, 2)
    assert fall == pytest.approx([b * (1 - 2**-c)])


def test_what_rises_or_stays_is_not_continued_upwards() -> None:
    errors = np.array([[0.1, 0.1, 0.1, 0.1], [0.1, 0.12, 0.15, 0.2]])
    assert forecasting._fall(np.array(SIZES) / 800, errors, np.ones(4), 1, 2) == pytest.approx([0, 0], abs=1e-12)


def test_the_interval_holds_as_often_as_it_says() -> None:
    errors = law(0.03, 0.08, 0.5)
    held = []
    for seed in range(100):
        found = forecasting.forecast(measured(errors[:-1], seed), 0.95, seed)
        held.append(found.interval.low <= errors[-2] - errors[-1] <= found.interval.high)
    assert np.mean(held) >= 0.9


def test_beyond_what_was_measured_it_is_continued_from_all_images() -> None:
    errors = law(0.0, 0.1, 0.5)
    capped = measured(errors[:-1], 0)._replace(images=1600)
    found = forecasting.forecast(capped, 0.95, 0)
    assert found.doubled.images == 3200
    assert found.gain == pytest.approx(errors[-1] * (1 - 2**-0.5), abs=0.01)


def test_resampling_few_images_at_a_time_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = measured(law(0.0, 0.1, 0.5)[:-1], 0)
    whole = forecasting.forecast(curve, 0.95, 0)
    monkeypatch.setattr(forecasting, "WEIGHTS", 600 * 7)
    assert forecasting.forecast(curve, 0.95, 0) == whole


def test_a_class_that_gains_is_named_and_others_are_not() -> None:
    found = measured([0.3, 0.3, 0.3, 0.3], 0)
    found.right[-1][0, found.y == 1] = True
    assert forecasting.forecast(found, 0.95, 0).gaining == [1]


def test_where_nothing_changes_classes_are_seldom_named() -> None:
    named = [bool(forecasting._gaining(measured([0.2] * 4, seed), 0.95)) for seed in range(200)]
    assert np.mean(named) <= 0.05


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.integers(0, 5),
    st.integers(40, 90),
    st.sampled_from([0.8, 0.95]),
)
def test_for_anything_measured_there_is_a_forecast(errors: list[float], seed: int, images: int, sure: float) -> None:
    found = forecasting.forecast(measured(errors, seed, images), sure, seed)
    assert found == forecasting.forecast(measured(errors, seed, images), sure, seed)
    assert found.interval.low < found.interval.high
    assert 0 <= found.gain <= 1
    for point in [*found.curve, found.doubled]:
        assert 0 <= point.accuracy <= 1
    assert all(number in range(3) for number in found.gaining)
    assert {*found.figures()} == {"images", "gain", "gain_low", "gain_high"}
