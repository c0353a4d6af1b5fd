"""How sure a model is: made as sure as it is right, and judged as if it were."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaw.evidence.scoring import calibration_error, log_loss
from thaw.learning import calibration
from thaw.networks.inference import softmax


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_by_which_probabilities_were_scaled(true: float) -> None:
    random = np.random.default_rng(0)
    honest = softmax(2 * random.normal(size=(4000, 5)))
    labels = np.array([random.choice(5, p=row / row.sum()) for row in honest.astype(np.float64)])
    too_sure = calibration.rescaled(honest, 1 / true)
    assert calibration.temperature(labels, too_sure) == pytest.approx(true, rel=0.05)
    np.testing.assert_allclose(calibration.rescaled(too_sure, true), honest, atol=1e-6)


def test_a_model_without_errors_is_not_made_infinitely_sure() -> None:
    labels = np.arange(60) % 3
    probabilities = softmax(4 * np.eye(3)[labels])
    calm = calibration.rescaled(probabilities, calibration.temperature(labels, probabilities))
    assert calm.max() == pytest.approx(61 / 62, abs=1e-4)


def test_calibration_helps_and_changes_no_answer() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, 800)
    val, test = (slice(0, 400), slice(400, 800))
    sure = softmax(6 * (np.eye(4)[labels] + 0.8 * random.normal(size=(800, 4))))
    calm = calibration.rescaled(sure[test], calibration.temperature(labels[val], sure[val]))
    assert log_loss(labels[test], calm) < log_loss(labels[test], sure[test])
    assert calibration_error(labels[test], calm) < calibration_error(labels[test], sure[test])
    np.testing.assert_array_equal(calm.argmax(axis=1), sure[test].argmax(axis=1))


def test_models_are_judged_as_if_they_were_as_sure_as_they_are_right() -> None:
    """One that has been taught to be unsure loses nothing by it, and one that knows more wins."""
    random = np.random.default_rng(2)
    labels = random.integers(0, 4, 400)
    logits = 2 * np.eye(4)[labels] + random.normal(size=(400, 4))
    honest = calibration.calibrated_brier_scores(labels, softmax(logits))
    unsure = calibration.calibrated_brier_scores(labels, softmax(0.3 * logits))
    np.testing.assert_allclose(unsure, honest, atol=1e-6)
    assert calibration.calibrated_brier_scores(labels, softmax(logits + np.eye(4)[labels])).mean() < honest.mean()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 999), st.integers(1, 200), st.floats(0.5, 0.99), st.integers(1, 9))
def test_a_threshold_answers_the_most_that_are_right_so_often(seed: int, n: int, wanted: float, digits: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    probabilities = softmax(2 * np.eye(3)[labels] + random.normal(size=(n, 3))).round(digits)
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels

    def holds(limit: float) -> bool:
        answered = sure >= limit
        return bool((~right[answered]).sum() + 1 <= (1 - wanted) * (answered.sum() + 1) + 1e-9)

    found = calibration.threshold(labels, probabilities, wanted)
    if found is None:
        assert not any(holds(limit) for limit in sure)
    else:
        assert holds(found)
        assert not any(holds(limit) for limit in sure if limit < found)
        assert found == 0 or found not in sure


def test_where_all_is_right_all_is_answered_if_that_can_be_said() -> None:
    labels = np.zeros(49, int)
    probabilities = np.tile([0.7, 0.3], (49, 1))
    assert calibration.threshold(labels, probabilities, 0.98) == 0
    assert calibration.threshold(labels[:48], probabilities[:48], 0.98) is None
    assert calibration.threshold(labels[:9], probabilities[:9], 0.9) == 0
    assert calibration.threshold(labels[:8], probabilities[:8], 0.9) is None
