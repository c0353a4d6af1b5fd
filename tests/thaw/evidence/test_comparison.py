"""The figures against hand-computed values, scikit-learn and SciPy, and what must hold for any predictions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sklearn

from tests.helpers.finished import softmax
from thaw.evidence import comparison, scoring, significance
from thaw.evidence.scoring import Pair
from thaw.evidence.significance import Interval

SURE = {
    "confidence": 0.95,
    "resamples": 300,
    "seed": 0,
    "keep_best_of": ["head", "finetuned"],
    "cross_validate": 0,
    "sure_enough": 0.98,
}


def sample(seed: int, n: int = 200, classes: int = 5, skill: float = 1.5) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    return labels, softmax(skill * np.eye(classes)[labels] + random.normal(size=(n, classes)))


def one_hot(predicted: list[int], classes: int) -> Any:
    return np.eye(classes, dtype=np.float32)[predicted]


def test_figures_by_hand() -> None:
    labels = np.array([0, 0, 1, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    counts = scoring.confusion(labels, probabilities.argmax(1), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    by_class = scoring.by_class(counts)
    assert by_class.precision.tolist() == [1, 0.5, 1]
    assert by_class.recall.tolist() == [0.5, 1, 1]
    assert by_class.f1 == pytest.approx([2 / 3, 2 / 3, 1])
    assert scoring.accuracy(labels, probabilities) == 0.75
    assert scoring.macro_f1(labels, probabilities) == pytest.approx(7 / 9)
    assert scoring.top_k(labels, probabilities, 2) == 1
    assert scoring.brier(labels, probabilities) == pytest.approx((0.06 + 0.86 + 0.38 + 0.06) / 4)
    # Bins (0.46, 0.53]: 0.5, right. (0.53, 0.6]: 0.6, wrong. (0.73, 0.8]: twice 0.8, right.
    assert scoring.calibration_error(labels, probabilities) == pytest.approx((0.5 + 0.6 + 2 * 0.2) / 4)


@pytest.mark.parametrize("seed", range(3))
def test_figures_agree_with_scikit_learn(seed: int) -> None:
    labels, probabilities = sample(seed)
    predicted = probabilities.argmax(1)
    scores = scoring.scores(labels, probabilities)
    assert scores["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, predicted))
    assert scores["macro_f1"] == pytest.approx(sklearn.f1_score(labels, predicted, average="macro"))
    assert scores["top_3"] == pytest.approx(sklearn.top_k_accuracy_score(labels, probabilities, k=3))
    assert scores["log_loss"] == pytest.approx(sklearn.log_loss(labels, probabilities), rel=1e-5)
    np.testing.assert_array_equal(scoring.confusion(labels, predicted, 5), sklearn.confusion_matrix(labels, predicted))


def test_a_class_that_never_occurs_counts_for_nothing() -> None:
    labels, probabilities = np.array([0, 0, 1]), one_hot([0, 0, 1], 4)
    assert np.isnan(scoring.by_class(scoring.confusion(labels, probabilities.argmax(1), 4)).f1[2:]).all()
    assert scoring.macro_f1(labels, probabilities) == 1
    taken_for_another = one_hot([0, 3, 1], 4)
    assert scoring.macro_f1(labels, taken_for_another) == pytest.approx((2 / 3 + 1) / 2), "the mean of two classes"
    pair = Pair(labels, probabilities, taken_for_another)
    high = significance.bootstrap(pair, confidence=0.9, resamples=500, seed=0)["finetuned"]["macro_f1"].high
    assert high == 1, "no class that is not there counts"
    assert scoring.log_loss(np.array([3]), probabilities[:1]) == pytest.approx(15.94, abs=0.01)


def test_few_classes_have_no_top_3() -> None:
    labels, probabilities = sample(0, classes=3)
    assert "top_3" not in scoring.scores(labels, probabilities)


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (5, 0), (12, 3), (7, 7), (40, 61)])
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(fixed: int, broken: int) -> None:
    labels = np.zeros(fixed + broken + 10, int)
    before = one_hot([1] * fixed + [0] * broken + [0] * 10, 2)
    after = one_hot([0] * fixed + [1] * broken + [0] * 10, 2)
    expected = binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    assert significance.mcnemar(Pair(labels, before, after)) == (fixed, broken, pytest.approx(expected))


def test_bootstrap_agrees_with_drawing_images_one_by_one() -> None:
    labels, before = sample(1)
    after = sample(1, skill=2.5)[1]
    fast = significance.bootstrap(Pair(labels, before, after), confidence=0.9, resamples=4000, seed=1)
    random = np.random.default_rng(2)
    slow = []
    for _ in range(1000):
        drawn = random.integers(0, len(labels), len(labels))
        slow.append(
            [
                scoring.accuracy(labels[drawn], after[drawn]) - scoring.accuracy(labels[drawn], before[drawn]),
                scoring.macro_f1(labels[drawn], after[drawn]) - scoring.macro_f1(labels[drawn], before[drawn]),
            ]
        )
    expected = np.quantile(slow, [0.05, 0.95], axis=0).T
    # Two standard errors of a quantile from 1,000 draws.
    assert [*fast["delta"]["accuracy"]] == pytest.approx(expected[0], abs=0.008)
    assert [*fast["delta"]["macro_f1"]] == pytest.approx(expected[1], abs=0.008)


def test_bootstrap_interval_has_the_width_of_theory() -> None:
    labels = np.zeros(1000, int)
    pair = Pair(labels, one_hot([0] * 900 + [1] * 100, 2), one_hot([0] * 1000, 2))
    low, high = significance.bootstrap(pair, confidence=0.95, resamples=4000, seed=0)["head"]["accuracy"]
    half = 1.96 * np.sqrt(0.9 * 0.1 / 1000)
    assert (low, high) == (pytest.approx(0.9 - half, abs=0.003), pytest.approx(0.9 + half, abs=0.003))


@pytest.mark.parametrize(
    ("p", "interval", "expected"),
    [
        (0.01, (0.01, 0.05), "fine-tuning helped"),
        (0.01, (-0.05, -0.01), "fine-tuning hurt"),
        (0.01, (0.0, 0.05), "no difference shown"),
        (0.06, (0.01, 0.05), "no difference shown"),
        (0.06, (-0.05, -0.01), "no difference shown"),
    ],
)
def test_verdict_needs_both_test_and_interval(p: float, interval: tuple[float, float], expected: str) -> None:
    assert significance.verdict(p, Interval(*interval), 0.95) == expected


def test_the_same_seed_gives_the_same_metrics() -> None:
    labels, before = sample(1)
    pair = Pair(labels, before, sample(2)[1])
    assert comparison.compare(pair, pair, **SURE) == comparison.compare(pair, pair, **SURE)
    assert comparison.compare(pair, pair, **SURE) != comparison.compare(pair, pair, **SURE | {"seed": 1})


@st.composite
def pairs(draw: Any) -> Pair:
    classes, n = draw(st.integers(2, 6)), draw(st.integers(1, 60))
    labels, before = sample(draw(st.integers(0, 10**6)), n, classes, draw(st.floats(0, 5)))
    after = sample(draw(st.integers(0, 10**6)), n, classes, 0)[1]
    return Pair(labels, before, softmax(np.log(before) + draw(st.floats(0, 3)) * np.log(after)))


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_bounds_and_swapping(pair: Pair) -> None:
    metrics = comparison.compare(pair, pair, **SURE)
    for model in ("head", "finetuned"):
        row = metrics[model]
        assert all(0 <= row[key] <= 1 for key in row if key not in ("brier", "log_loss"))
        assert 0 <= row["brier"] <= 2
        assert 0 <= row["log_loss"] < 16
        # Macro F1 is left out: in a resample classes may be missing, which biases it.
        assert row["accuracy_low"] <= row["accuracy"] + 1e-6
        assert row["accuracy"] <= row["accuracy_high"] + 1e-6
    assert 0 <= metrics["mcnemar_p"] <= 1

    swapped = comparison.compare(pair, Pair(pair.labels, pair.after, pair.before), **SURE)
    assert swapped["mcnemar_p"] == metrics["mcnemar_p"]
    assert (swapped["fixed"], swapped["broken"]) == (metrics["broken"], metrics["fixed"])
    for key in ("accuracy", "macro_f1", "ece", "brier"):
        assert swapped["delta"][key] == pytest.approx(-metrics["delta"][key], abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(pairs())
def test_nothing_is_shown_where_nothing_changed(pair: Pair) -> None:
    for model in (pair.before, one_hot(pair.labels.tolist(), pair.before.shape[1])):
        same = Pair(pair.labels, model, model)
        metrics = comparison.compare(same, same, **SURE)
        assert metrics["verdict"] == "no difference shown"
        assert metrics["mcnemar_p"] == 1
        assert set(metrics["delta"].values()) == {0}


def test_validation_decides_which_model_is_kept_and_a_tie_goes_to_the_simpler_one() -> None:
    labels = np.array([0, 1, 0, 1])
    good, poor, surer = (
        np.array([[0.8, 0.2], [0.2, 0.8], [0.8, 0.2], [0.6, 0.4]]),
        np.array([[0.4, 0.6]] * 4),
        np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.52, 0.48]]),
    )
    both = ["head", "finetuned"]
    assert comparison.kept(Pair(labels, good, poor), both) == "head"
    assert comparison.kept(Pair(labels, poor, good), both) == "finetuned"
    assert comparison.kept(Pair(labels, good, surer), both) == "finetuned"
    assert comparison.kept(Pair(labels, good, good), both) == "head"
    assert comparison.kept(Pair(labels, good, poor), ["finetuned"]) == "finetuned", "the only candidate"


@pytest.mark.parametrize(
    ("right", "images", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1)]
)
def test_wilson_s_interval_is_that_of_the_textbooks(right: int, images: int, low: float, high: float) -> None:
    assert significance.wilson(right / images, images, 0.95) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99])
def test_no_fewer_images_can_show_a_difference(confidence: float) -> None:
    least = significance.least_fixed(confidence)
    p = [significance.mcnemar(Pair(np.zeros(n, int), one_hot([1] * n, 2), one_hot([0] * n, 2))).p for n in range(1, 12)]
    assert [value < 1 - confidence for value in p] == [n >= least for n in range(1, 12)]


@pytest.mark.parametrize(("fixed", "broken", "images"), [(0, 0, 30), (3, 1, 20), (0, 4, 50), (6, 0, 6), (10, 10, 150)])
def test_a_paired_interval_has_a_width_and_is_that_of_the_formula(fixed: int, broken: int, images: int) -> None:
    low, high = significance.paired(fixed, broken, images, 0.95)
    n, gained, lost = images + 2, (fixed + 1) / (images + 2), (broken + 1) / (images + 2)
    half = 1.959964 * np.sqrt((gained + lost - (gained - lost) ** 2) / n)
    assert (low, high) == (
        pytest.approx(max(-1, gained - lost - half), abs=1e-6),
        pytest.approx(min(1, gained - lost + half), abs=1e-6),
    )
    assert low < (fixed - broken) / images < high or (fixed, broken) == (6, 0)
    mirrored = significance.paired(broken, fixed, images, 0.95)
    assert (low, high) == pytest.approx((-mirrored.high, -mirrored.low))


def test_the_paired_interval_holds_as_often_as_it_says() -> None:
    """Of 40 images each is fixed with probability 0.15 and broken with 0.05: the bootstrap's holds less often."""
    draws = np.random.default_rng(0).multinomial(40, [0.15, 0.05, 0.8], size=2000)
    held = [significance.paired(fixed, broken, 40, 0.95) for fixed, broken, _ in draws]
    assert np.mean([low <= 0.1 <= high for low, high in held]) == pytest.approx(0.95, abs=0.025)


def test_few_images_have_intervals_of_their_own() -> None:
    labels = np.zeros(20, int)
    right = one_hot([0] * 20, 2)
    pair = Pair(labels, right, right)
    few, many = (comparison.compare(pair, pair, **SURE | {"cross_validate": limit}) for limit in (21, 20))
    assert (many["head"]["accuracy_low"], many["delta"]["accuracy_low"]) == (1, 0), "as if nothing could go wrong"
    assert few["head"]["accuracy_low"] == pytest.approx(significance.wilson(1, 20, 0.95).low, rel=1e-5)
    assert few["delta"]["accuracy_low"] == pytest.approx(-few["delta"]["accuracy_high"]) != 0
    alone = comparison.compare(pair, pair, **SURE | {"cross_validate": 21}, tuned=False)
    assert alone["delta"]["accuracy_low"] == alone["delta"]["accuracy_high"] == 0, "one model is like itself"
