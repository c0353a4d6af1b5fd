"""Images in groups: what they are worth, how often intervals then hold, and the test that swaps whole groups."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as statsmodels
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import f_oneway, permutation_test
from statsmodels.formula.api import ols

from tests.thaw.evidence.test_comparison import SURE, one_hot, sample
from thaw.data.manifest import Record
from thaw.evidence import comparison, forecasting, scoring, significance
from thaw.evidence.scoring import Pair
from thaw.evidence.significance import Interval
from thaw.learning import examples
from thaw.learning.subsets import Measured


def answers(right: Any) -> Any:
    """Probabilities of a model that is right where it says so, where all images are of the first of two classes."""
    return one_hot((~np.asarray(right, bool)).astype(int).tolist(), 2)


def pair_of(before: Any, after: Any, groups: Any = None) -> Pair:
    numbers = None if groups is None else np.asarray(groups, np.intp)
    return Pair(np.zeros(len(before), np.intp), answers(before), answers(after), numbers)


def alike(random: np.random.Generator, groups: int, size: int, chances: tuple[float, ...], likeness: float) -> Any:
    """Draw what becomes of images (a number of ``chances`` each) which are alike in groups, by so much (0 to 1)."""
    spread = np.array(chances) * (1 - likeness) / likeness
    own = random.dirichlet(spread, groups).cumsum(axis=1)
    return (random.random((groups, size, 1)) > own[:, np.newaxis]).sum(axis=2).ravel()


# How the groups of images are known.


def test_images_of_a_group_and_exact_copies_are_one_unit() -> None:
    def records(*said: tuple[str, str]) -> list[Record]:
        return [Record(f"{n}.png", "a", "test", sha256, 1, 1, group) for n, (sha256, group) in enumerate(said)]

    found = examples.groups(records(("1", "p"), ("2", ""), ("3", "p"), ("2", ""), ("4", ""), ("5", "same/7")))
    assert found is not None
    assert found.tolist() == [0, 1, 0, 1, 2, 3]
    assert examples.groups(records(("1", "p"), ("2", ""), ("3", "q"))) is None
    assert examples.groups([]) is None


# What they are worth.


@pytest.mark.parametrize("seed", range(3))
def test_what_images_are_worth_follows_from_the_analysis_of_variance(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = (alike(random, 40, 5, (0.8, 0.2), 0.4) == 0).astype(float)
    groups = np.repeat(np.arange(40), 5)
    f = f_oneway(*values.reshape(40, 5)).statistic
    assert significance.effective(values, groups) == pytest.approx(200 / (1 + 4 * (f - 1) / (f + 4)))
    unequal = random.random(200) < 0.6
    values, groups = values[unequal], groups[unequal]
    table = statsmodels.stats.anova_lm(ols("value ~ C(unit)", pd.DataFrame({"value": values, "unit": groups})).fit())
    between, within = table["mean_sq"]
    size = np.bincount(groups)[np.unique(groups)]
    typical = (len(values) - (size**2).sum() / len(values)) / (len(size) - 1)
    r = max(0, (between - within) / (between + (typical - 1) * within))
    expected = len(values) / (1 + ((size**2).sum() / len(values) - 1) * r)
    assert significance.effective(values, groups) == pytest.approx(expected)


def test_the_variance_is_then_that_of_clustered_standard_errors() -> None:
    right = (alike(np.random.default_rng(0), 400, 5, (0.9, 0.1), 0.5) == 0).astype(float)
    groups = np.repeat(np.arange(400), 5)
    fit = statsmodels.OLS(right, np.ones(2000)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    variance = right.mean() * (1 - right.mean()) / significance.effective(right, groups)
    assert variance == pytest.approx(float(fit.bse[0]) ** 2, rel=0.05)


@pytest.mark.parametrize(
    ("right", "groups", "expected"),
    [
        pytest.param([1, 0, 1, 1], None, 4, id="no-groups"),
        pytest.param([1, 0, 1, 1], [3, 1, 0, 2], 4, id="groups-of-one"),
        pytest.param([1, 0, 1, 1], [0, 0, 0, 0], 1, id="one-group"),
        pytest.param([1, 1, 1, 1], [0, 0, 1, 1], 2, id="no-errors"),
        pytest.param([0, 0, 1, 1], [0, 0, 1, 1], 2, id="all-alike"),
        pytest.param([0, 1, 0, 1], [0, 0, 1, 1], 4, id="all-different"),
        pytest.param([1], [0], 1, id="one-image"),
    ],
)
def test_at_the_ends_a_group_is_worth_one_image_or_all_of_them(
    right: list[int], groups: list[int] | None, expected: float
) -> None:
    numbers = None if groups is None else np.array(groups)
    assert significance.effective(np.array(right, float), numbers) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40))
def test_images_are_worth_no_more_than_they_are_and_no_less_than_one(said: list[tuple[bool, int]]) -> None:
    right, groups = (np.array(part) for part in zip(*said, strict=True))
    worth = significance.effective(right.astype(float), groups)
    assert 1 - 1e-9 <= worth <= len(said) + 1e-9
    assert significance.effective(~right, groups) == pytest.approx(worth)
    low, high = significance.share(right, groups, 0.95)
    assert 0 <= low <= right.mean() + 1e-9
    assert right.mean() - 1e-9 <= high <= 1
    plain = significance.wilson(float(right.mean()), len(said), 0.95)
    assert high - low >= plain.high - plain.low - 1e-9


# How often intervals hold: nominal 95%, groups of 5 whose errors are correlated by 0.5.


def intervals(test: Pair, seed: int, few: bool) -> tuple[Interval, Interval]:
    """Of the accuracy before, and of the difference, as ``compare`` has them."""
    if few:
        right = test.before.argmax(1) == test.labels
        return significance.share(right, test.groups, 0.95), significance.change(test, 0.95)
    drawn = significance.bootstrap(test, confidence=0.95, resamples=300, seed=seed)
    return drawn["head"]["accuracy"], drawn["delta"]["accuracy"]


def held(groups: int, trials: int, few: bool) -> dict[str, float]:
    """How often the interval of the accuracy and of the difference held, and would have held without groups."""
    random = np.random.default_rng(0)
    numbers = np.repeat(np.arange(groups), 5)
    found: dict[str, list[bool]] = {}
    for trial in range(trials):
        # Right in both, fixed, broken, wrong in both: accuracy 88% before, 90% after.
        outcome = alike(random, groups, 5, (0.82, 0.08, 0.06, 0.04), 0.5)
        pair = pair_of(np.isin(outcome, (0, 2)), np.isin(outcome, (0, 1)), numbers)
        for name, test in (("plain", Pair(pair.labels, pair.before, pair.after)), ("groups", pair)):
            for (low, high), (key, truth) in zip(
                intervals(test, trial, few), (("accuracy", 0.88), ("difference", 0.02)), strict=True
            ):
                found.setdefault(f"{key}, {name}", []).append(low <= truth <= high)
    return {key: float(np.mean(hits)) for key, hits in found.items()}


@pytest.mark.parametrize(("groups", "few"), [(200, False), (60, True)], ids=["bootstrap", "few"])
def test_intervals_hold_as_often_as_they_say_where_whole_groups_count(groups: int, few: bool) -> None:
    rates = held(groups, 300, few)
    for key in ("accuracy", "difference"):
        assert rates[f"{key}, plain"] < 0.87
        assert rates[f"{key}, groups"] > 0.9


def test_the_bootstrap_agrees_with_drawing_groups_one_by_one() -> None:
    labels, before = sample(1)
    after, groups = sample(1, skill=2.5)[1], np.arange(200) // 8
    pair = Pair(labels, before, after, groups)
    fast = significance.bootstrap(pair, confidence=0.9, resamples=4000, seed=1)
    random = np.random.default_rng(2)
    slow = []
    for _ in range(1000):
        drawn = np.concatenate([np.flatnonzero(groups == one) for one in random.integers(0, 25, 25)])
        figures = [scoring.accuracy, scoring.macro_f1]
        slow.append([one(labels[drawn], after[drawn]) - one(labels[drawn], before[drawn]) for one in figures])
    expected = np.quantile(slow, [0.05, 0.95], axis=0).T
    # Two standard errors of a quantile from 1,000 draws.
    assert [*fast["delta"]["accuracy"]] == pytest.approx(expected[0], abs=0.012)
    assert [*fast["delta"]["macro_f1"]] == pytest.approx(expected[1], abs=0.012)


def test_groups_of_one_image_change_nothing_but_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "FEW", 201)
    labels, before = sample(1)
    alone, together = (Pair(labels, before, sample(2)[1], groups) for groups in (None, np.arange(200)[::-1]))
    plain, found = (comparison.compare(one, one, **SURE) for one in (alone, together))
    assert {key: plain[key] for key in ("mcnemar_p", "sure", "n_test", "fixed") if key in plain} == {
        key: found[key] for key in ("mcnemar_p", "sure", "n_test", "fixed") if key in found
    }
    assert plain["delta"]["accuracy_low"] == found["delta"]["accuracy_low"]
    for key in ("macro_f1_low", "macro_f1_high"):
        assert plain["head"][key] == pytest.approx(found["head"][key], abs=0.03)


# The test.


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 5)), min_size=1, max_size=20))
def test_the_p_value_is_that_of_all_ways_to_swap_groups(said: list[tuple[int, int]]) -> None:
    changes, groups = (np.array(part) for part in zip(*said, strict=True))
    found = significance.mcnemar(pair_of(changes < 0, changes > 0, groups))
    sums = [int(changes[groups == one].sum()) for one in np.unique(groups)]
    swapped = [abs(np.dot(sums, signs)) >= abs(sum(sums)) for signs in itertools.product((1, -1), repeat=len(sums))]
    assert (found.fixed, found.broken) == ((changes > 0).sum(), (changes < 0).sum())
    assert found.p == pytest.approx(np.mean(swapped))


def test_scipy_permutes_to_the_same_p_value() -> None:
    outcome = alike(np.random.default_rng(3), 12, 5, (0.7, 0.2, 0.05, 0.05), 0.3)
    before, after, groups = np.isin(outcome, (0, 2)), np.isin(outcome, (0, 1)), np.repeat(np.arange(12), 5)
    sums = [np.bincount(groups, model) for model in (before, after)]
    expected = permutation_test(sums, lambda a, b: (b - a).sum(), permutation_type="samples", n_resamples=np.inf)
    p = significance.mcnemar(pair_of(before, after, groups)).p
    assert p == pytest.approx(expected.pvalue)
    assert 0.01 < p < 0.5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1, 1), min_size=1, max_size=60))
def test_without_company_it_is_mcnemars(changes: list[int]) -> None:
    before, after = np.array(changes) < 0, np.array(changes) > 0
    alone, together = (significance.mcnemar(pair_of(before, after, one)) for one in (None, np.arange(len(changes))))
    assert together == (alone.fixed, alone.broken, pytest.approx(alone.p))


def test_of_equal_models_it_seldom_shows_a_difference_and_mcnemars_often_does() -> None:
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), 5)
    shown = np.zeros(2)
    for _ in range(300):
        outcome = alike(random, 60, 5, (0.8, 0.08, 0.08, 0.04), 0.5)
        before, after = np.isin(outcome, (0, 2)), np.isin(outcome, (0, 1))
        shown += [significance.mcnemar(pair_of(before, after, one)).p < 0.05 for one in (None, groups)]
    assert shown[0] / 300 > 0.12
    assert shown[1] / 300 <= 0.06


# At the ends.


@pytest.mark.parametrize("limit", [0, 1000])
@pytest.mark.parametrize(
    ("before", "after", "groups"),
    [
        pytest.param([1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], id="one-group"),
        pytest.param([1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], id="no-errors"),
        pytest.param([0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1], id="all-fixed"),
        pytest.param([0, 1], [1, 0], [0, 0], id="two-images"),
    ],
)
def test_at_the_ends_there_is_an_answer(
    before: list[int], after: list[int], groups: list[int], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "FEW", limit)
    pair = pair_of(before, after, groups)
    figures = comparison.compare(pair, pair, **SURE)
    assert figures["verdict"] == "no difference shown"
    assert figures["n_groups"] == len({*groups})
    assert 0 < figures["mcnemar_p"] <= 1
    if limit:
        assert figures["head"]["accuracy_low"] < figures["head"]["accuracy_high"]
        assert figures["delta"]["accuracy_low"] < figures["delta"]["accuracy_high"]
    found = significance.by_class(pair, 0.95)
    assert found[0].p == pytest.approx(figures["mcnemar_p"])


def test_in_groups_it_takes_more_images_to_show_a_difference() -> None:
    changes = np.repeat([1, 1, 1, -1, *[0] * 46], 4)
    before, after = changes <= 0, changes >= 0
    figures = [
        comparison.compare(pair, pair, **SURE)
        for pair in (pair_of(before, after, one) for one in (None, np.arange(200) // 4))
    ]
    assert figures[1]["n_needed"] > 1.5 * figures[0]["n_needed"]
    assert "n_groups" not in figures[0]


def test_answers_that_are_sure_are_counted_by_groups() -> None:
    labels, probabilities = sample(0, n=300, skill=2.5)
    groups = np.arange(300) // 10
    test = scoring.Answers(labels, probabilities)
    plain, found = (comparison.answering(test, test, 0.9, 0.95, one) for one in (None, groups))
    assert (plain["coverage"], plain["accuracy"]) == (found["coverage"], found["accuracy"])
    assert found["accuracy_high"] - found["accuracy_low"] >= plain["accuracy_high"] - plain["accuracy_low"]


def test_a_forecast_is_less_sure_where_validation_images_come_in_groups() -> None:
    random = np.random.default_rng(0)
    hard = np.repeat(random.random(60), 10)
    right = [
        np.clip(hard + random.normal(0, 0.05, (draws, 600)), 0, 1) >= error
        for draws, error in ((5, 0.3), (5, 0.25), (5, 0.2), (1, 0.18))
    ]
    measured = Measured([100, 200, 400, 800], right, np.zeros(600, int), 800)
    widths = []
    for groups in (None, np.arange(600), np.arange(600) // 10):
        found = forecasting.forecast(measured._replace(groups=groups), 0.95, 0)
        widths.append(found.curve[-1].interval.high - found.curve[-1].interval.low)
    assert widths[0] == widths[1]
    assert widths[2] > 2 * widths[0]
