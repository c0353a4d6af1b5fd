"""The figures against hand-computed values, scikit-learn and SciPy, and what must hold for any predictions."""

import gc
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sklearn
from statsmodels.stats import contingency_tables as statsmodels
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from tests.helpers.finished import softmax
from thaw.evidence import comparison, scoring, significance
from thaw.evidence.scoring import Pair
from thaw.evidence.significance import Interval
from thaw.learning import predictions

SURE = {
    "confidence": 0.95,
    "resamples": 300,
    "seed": 0,
    "keep_best_of": ["head", "finetuned"],
    "sure_enough": 0.98,
}


def sample(seed: int, n: int = 200, classes: int = 5, skill: float = 1.5) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    return labels, softmax(skill * np.eye(classes)[labels] + random.normal(size=(n, classes)))


def test_figures_of_many_images_are_computed_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are those of all at once, the last block being shorter."""
    (labels, val), (_, test) = sample(0, 203), sample(1, 203)
    pair = Pair(labels, val, test)
    whole = comparison.compare(pair, pair, **SURE)
    monkeypatch.setattr(predictions, "AT_ONCE", 50)
    assert comparison.compare(pair, pair, **SURE) == whole


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
    assert scores["balanced_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score(labels, predicted))
    assert scores["auroc"] == pytest.approx(sklearn.roc_auc_score(labels, probabilities, multi_class="ovr"))
    tied = probabilities.round(1)  # and its rows do not sum to 1
    each = [sklearn.roc_auc_score(labels == number, tied[:, number]) for number in range(5)]
    assert scoring.auroc(labels, tied) == pytest.approx(np.mean(each))
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


def test_a_class_alone_has_no_auroc() -> None:
    labels, probabilities = np.array([1, 1]), one_hot([0, 1], 3)
    assert "auroc" not in scoring.scores(labels, probabilities)
    assert scoring.balanced_accuracy(labels, probabilities) == 0.5


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 300), st.integers(2, 6), st.integers(1, 16))
def test_a_risk_coverage_curve_ends_with_all_images(seed: int, n: int, classes: int, digits: int) -> None:
    labels, probabilities = sample(seed, n=n, classes=classes)
    probabilities = probabilities.round(digits)
    curve = scoring.risk_coverage(labels, probabilities)
    assert len(curve) <= scoring.CURVE
    assert curve[-1].coverage == 1
    assert curve[-1].accuracy == pytest.approx(scoring.accuracy(labels, probabilities))
    for one in curve:
        answered = probabilities.max(1) >= one.confidence
        assert one.coverage == pytest.approx(answered.mean())
        assert one.accuracy == pytest.approx(scoring.accuracy(labels[answered], probabilities[answered]))
    assert [one.coverage for one in curve] == sorted({one.coverage for one in curve})


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
    table = [[10, broken], [fixed, 0]]
    assert statsmodels.mcnemar(table, exact=True).pvalue == pytest.approx(expected)


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


def test_few_images_have_intervals_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros(20, int)
    right = one_hot([0] * 20, 2)
    pair = Pair(labels, right, right)
    many = comparison.compare(pair, pair, **SURE)
    monkeypatch.setattr(comparison, "FEW", 21)
    few = comparison.compare(pair, pair, **SURE)
    assert (many["head"]["accuracy_low"], many["delta"]["accuracy_low"]) == (1, 0), "as if nothing could go wrong"
    assert few["head"]["accuracy_low"] == pytest.approx(significance.wilson(1, 20, 0.95).low, rel=1e-5)
    assert few["delta"]["accuracy_low"] == pytest.approx(-few["delta"]["accuracy_high"]) != 0
    alone = comparison.compare(pair, pair, **SURE, tuned=False)
    monkeypatch.setattr(comparison, "FEW", 20)
    assert comparison.compare(pair, pair, **SURE) == many
    assert alone["delta"]["accuracy_low"] == alone["delta"]["accuracy_high"] == 0, "one model is like itself"


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_interval_over_splits_is_students_and_wider_where_they_overlap(count: int) -> None:
    values = np.random.default_rng(count).normal(0.01, 0.01, count).tolist()
    expected = DescrStatsW(values).tconfint_mean(0.05)
    assert significance.resplit(values, 0, 0.95) == pytest.approx(expected)
    wider = significance.resplit(values, 0.25, 0.95)
    assert np.ptp(wider) == pytest.approx(np.ptp(expected) * np.sqrt(1 + 0.25 * count))
    assert np.mean(wider) == pytest.approx(np.mean(values))


def test_one_more_is_found_where_it_is_expected() -> None:
    draws = np.random.default_rng(0).normal(0.9, 0.01, (4000, 11))
    assert significance.another([0.9, 1.0, 0.99], 0.95).high == 1
    assert significance.another([0.1, 0.0], 0.95).low == 0
    held = [low <= one <= high for *some, one in draws for low, high in [significance.another(some, 0.95)]]
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("right", "images"), [(0, 7), (3, 9), (95, 100), (100, 100)])
def test_wilsons_interval_is_that_of_statsmodels(right: int, images: int) -> None:
    expected = proportion_confint(right, images, alpha=0.05, method="wilson")
    assert significance.wilson(right / images, images, 0.95) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 999), st.integers(1, 30), st.integers(1, 6))
def test_holms_correction_is_that_of_statsmodels(seed: int, classes: int, digits: int) -> None:
    p = (np.random.default_rng(seed).random(classes) ** 3).round(digits).tolist()
    with patch.object(gc, "collect"):  # statsmodels has all garbage collected each time, for a second
        expected = multipletests(p, method="holm")[1]
    assert significance.holm(p) == pytest.approx(expected)


@pytest.mark.parametrize(("fixed", "broken", "images"), [(6, 2, 380), (4, 6, 380), (30, 18, 500), (5, 0, 100)])
def test_so_many_images_show_a_difference_of_this_size_four_times_in_five(fixed: int, broken: int, images: int) -> None:
    needed = significance.needed(fixed, broken, images, 0.95)
    assert needed is not None
    assert needed > images
    random = np.random.default_rng(0)
    drawn = random.multinomial(needed, [fixed / images, broken / images, 1 - (fixed + broken) / images], size=2000)
    shown = [binomtest(int(one), int(one + other)).pvalue < 0.05 for one, other, _ in drawn if one + other]
    # The exact test is a little more cautious than the formula, which is that of a normal approximation.
    assert sum(shown) / 2000 == pytest.approx(significance.POWER, abs=0.09)
    assert significance.needed(broken, fixed, images, 0.95) == needed


def test_no_number_of_images_shows_that_there_is_no_difference() -> None:
    assert significance.needed(4, 4, 100, 0.95) is None


def test_by_hand_how_many_images_are_needed() -> None:
    """(1.96 √0.1 + 0.8416 √(0.1 - 0.02²))² / 0.02² = 1959.7."""
    assert significance.needed(6, 4, 100, 0.95) == 1960


def test_needed_images_are_said_only_where_no_difference_was_shown() -> None:
    labels = np.zeros(100, int)
    before = one_hot([0] * 90 + [1] * 10, 2)
    for fixed, is_said in ((0, False), (3, True), (10, False)):
        pair = Pair(labels, before, one_hot([0] * (90 + fixed) + [1] * (10 - fixed), 2))
        figures = comparison.compare(pair, pair, **SURE)
        assert ("n_needed" in figures) == is_said, fixed
        assert (figures["verdict"] == "fine-tuning helped") == (fixed == 10)


def test_changes_of_classes_are_corrected_for_how_many_there_are() -> None:
    labels = np.repeat(np.arange(3), 20)
    before = one_hot([1] * 7 + [0] * 13 + [1] * 20 + [2] * 20, 4)
    after = one_hot([0] * 20 + [1] * 20 + [2] * 19 + [0], 4)
    found = significance.by_class(Pair(labels, before, after), 0.95)
    assert {*found} == {0, 1, 2}
    assert found[0].recall == pytest.approx(7 / 20)
    assert found[0].p == pytest.approx(3 * 2 / 2**7)
    assert found[0].interval == significance.paired(7, 0, 20, 0.95)
    assert (found[1].recall, found[1].p) == (0, 1)
    assert (found[2].recall, found[2].p) == (pytest.approx(-1 / 20), 1)


def test_where_nothing_has_changed_a_class_is_seldom_said_to_have() -> None:
    random = np.random.default_rng(0)
    named = 0
    for _ in range(200):
        labels = random.integers(0, 8, 400)
        before, after = (one_hot(np.where(random.random(400) < 0.8, labels, 7 - labels).tolist(), 8) for _ in range(2))
        named += any(one.p < 0.05 for one in significance.by_class(Pair(labels, before, after), 0.95).values())
    assert named / 200 <= 0.05


def test_answers_that_are_sure_enough_are_right_so_often() -> None:
    """On average: the threshold has been chosen on other images."""
    found = []
    for seed in range(60):
        (labels, probabilities), (others, asked) = (sample(place, n=300, skill=2.5) for place in (seed, 1000 + seed))
        pair = Pair(labels, probabilities, probabilities)
        figures = comparison.compare(pair, Pair(others, asked, asked), **SURE | {"sure_enough": 0.95, "resamples": 100})
        if "sure" in figures:
            sure = figures["sure"]
            found.append((sure["accuracy"], sure["coverage"]))
            assert sure["accuracy_low"] <= sure["accuracy"] <= sure["accuracy_high"]
            assert 0 <= sure["threshold"] <= 1
    assert len(found) >= 50
    accuracy, coverage = np.mean(found, axis=0)
    assert accuracy == pytest.approx(0.95, abs=0.015)
    assert coverage > 0.5


def test_where_nothing_is_sure_enough_there_is_no_threshold() -> None:
    labels, probabilities = sample(0, skill=0.2)
    pair = Pair(labels, probabilities, probabilities)
    assert "sure" not in comparison.compare(pair, pair, **SURE)


def test_where_no_test_image_is_answered_nothing_is_said_of_the_answers() -> None:
    labels = np.zeros(100, int)
    surely = np.tile([0.999, 0.001], (100, 1))
    unsure = np.tile([0.001, 0.999], (100, 1))
    val = scoring.Answers(np.repeat([0, 1], 100), np.concatenate([surely, np.tile([0.6, 0.4], (100, 1))]))
    test = scoring.Answers(labels, np.tile([0.55, 0.45], (100, 1)))
    found = comparison.answering(val, test, 0.95, 0.95)
    assert found["coverage"] == 0
    assert "accuracy" not in found
    assert comparison.answering(val, scoring.Answers(labels, unsure), 0.95, 0.95)["accuracy"] == 0
