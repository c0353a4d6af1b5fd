"""Cross-validation: every image is asked once, of a head that knows nothing of it, however few there are."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import options
from thaw.config.schema import Adam, Lbfgs
from thaw.data.manifest import Record
from thaw.learning import crossvalidation, heads
from thaw.learning.examples import labels

LBFGS = Lbfgs(**options.LBFGS)
ADAM = Adam(**options.ADAM)


def record(number: int, label: str, group: str = "", sha256: str = "") -> Record:
    return Record(f"{label}/{number:04}.png", label, "train", sha256 or f"{number}", 10, 10, group)


def predicted(folder: Path, config: Adam | Lbfgs, records: list[Record], features: Any = None) -> Any:
    """What cross-validation says of images whose features tell their classes apart."""
    classes = sorted({one.label for one in records})
    if features is None:
        hot = np.eye(len(classes))[labels(records, classes)]
        features = 4 * hot + np.random.default_rng(0).normal(size=hot.shape)
    np.save(folder / "features.npy", features[:, np.newaxis].astype(np.float32))
    rows = np.arange(len(records))
    return crossvalidation.predict(config, folder / "features.npy", records, rows, classes, 0)


@pytest.mark.parametrize("config", [LBFGS, ADAM], ids=["lbfgs", "adam"])
@pytest.mark.parametrize("weights", ["none", "balanced", {"a": 1.0, "b": 2.0, "c": 1.0, "d": 1.0}], ids=str)
def test_every_image_is_answered_with_either_solver_and_twice_the_same(
    tmp_path: Path, config: Adam | Lbfgs, weights: Any
) -> None:
    config = config.model_copy(update={"class_weights": weights})
    records = [record(number, "abcd"[number % 4]) for number in range(100)]
    found = predicted(tmp_path, config, records)
    assert found.shape == (100, 4)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert (found.argmax(1) == labels(records, ["a", "b", "c", "d"])).mean() > 0.9
    np.testing.assert_array_equal(found, predicted(tmp_path, config, records))


def test_nobody_has_seen_what_they_are_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, asked = heads.fit, []

    def watched(config: Any, train: Any, val: Any, *rest: Any) -> Any:
        known = {*train.rows, *val.rows}
        assert len(known) == len(train.rows) + len(val.rows)
        asked.extend(sorted({*range(60)} - known))
        return fit(config, train, val, *rest)

    monkeypatch.setattr(heads, "fit", watched)
    predicted(tmp_path, LBFGS, [record(number, "ab"[number % 2]) for number in range(60)])
    assert sorted(asked) == [*range(60)], "each is left out of what one head has seen, and of no other's"


def test_features_that_say_nothing_get_what_guessing_gets(tmp_path: Path) -> None:
    records = [record(number, "ab"[number % 2]) for number in range(200)]
    found = predicted(tmp_path, LBFGS, records, np.random.default_rng(0).normal(size=(200, 8)))
    assert 0.35 < (found.argmax(1) == labels(records, ["a", "b"])).mean() < 0.65


@pytest.mark.parametrize("images", [3, 4, 5])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_a_few_images_of_each_class_are_enough(tmp_path: Path, images: int, classes: int) -> None:
    records = [record(number, "abcdef"[number % classes]) for number in range(images * classes)]
    found = predicted(tmp_path, LBFGS, records)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_a_class_that_a_head_has_not_learnt_has_no_probability(tmp_path: Path) -> None:
    """All images of c are in one group, so whoever is asked about them does not know c."""
    records = [record(number, "ab"[number % 2]) for number in range(40)]
    records += [record(number, "c", group="one") for number in range(40, 50)]
    for weights in ("none", "balanced", {"a": 1.0, "b": 1.0, "c": 2.0}):
        found = predicted(tmp_path, LBFGS.model_copy(update={"class_weights": weights}), records)
        assert not found[40:, 2].any()
        assert np.isfinite(found).all()
        assert found[:40, 2].any(), "the others' heads do"


def test_without_enough_groups_there_is_no_answer(tmp_path: Path) -> None:
    records = [record(number, "ab"[number % 2], group="ab"[number % 2]) for number in range(40)]
    assert predicted(tmp_path, LBFGS, records) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "", "x", "y", "z"])), min_size=3, max_size=40))
def test_whatever_there_is_every_answer_is_a_probability_or_there_is_none(
    tmp_path_factory: pytest.TempPathFactory, images: list[tuple[str, str]]
) -> None:
    records = [record(number, label, group) for number, (label, group) in enumerate(images)]
    found = predicted(tmp_path_factory.mktemp("folds"), LBFGS, records)
    if found is not None:
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["", "", "", "x", "y"]), st.integers(0, 60)),
        min_size=10,
        max_size=80,
    ),
    st.integers(0, 100),
)
def test_folds_keep_groups_and_copies_together_and_classes_even(images: list[tuple[str, str, int]], seed: int) -> None:
    records = [
        record(number, label, group, f"{label}{group}{content}")
        for number, (label, group, content) in enumerate(images)
    ]
    folds = crossvalidation.deal(records, seed)
    together = {(one.group or one.sha256, int(fold)) for one, fold in zip(records, folds, strict=True)}
    assert len(together) == len({unit for unit, _ in together})
    groups = len({one.group for one in records if one.group})
    for label in "ab":
        single = {
            (one.sha256, int(fold))
            for one, fold in zip(records, folds, strict=True)
            if one.label == label and not one.group
        }
        counts = Counter(fold for _, fold in single)
        assert max(counts[fold] for fold in range(5)) - min(counts[fold] for fold in range(5)) <= 1 + groups
