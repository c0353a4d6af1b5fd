"""Labels that are probably wrong."""

import numpy as np
import pytest
from cleanlab.count import num_label_issues
from cleanlab.rank import get_label_quality_scores
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from thaw.audit import labels, neighbours
from thaw.evidence.significance import wilson
from thaw.learning.crossvalidation import FOLDS
from thaw.networks.outputs import Floats, Labels


def blobs(seed: int, images: int = 300, classes: int = 3, width: int = 12) -> tuple[Floats, Labels, Labels]:
    """Features of classes that can be told apart, labels and folds."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, images)
    x = random.normal(size=(images, width)) + 4 * random.normal(size=(classes, width))[y]
    features = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return features, y, random.integers(0, FOLDS, images)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_labels_come_first(seed: int) -> None:
    features, y, folds = blobs(seed)
    flipped = np.arange(0, 300, 25)
    given = y.copy()
    given[flipped] = (y[flipped] + 1) % 3
    near = neighbours.nearest(features)
    found = labels.find(features, near, given, np.arange(300), folds, 3)
    assert len({*found.rows[:12].tolist()} & {*flipped.tolist()}) >= 11
    low, high = wilson(len(found.rows) / 300, 300, 0.95)
    assert 300 * low <= 12 <= 300 * high
    assert (found.probabilities[flipped].argmax(axis=1) == y[flipped]).mean() >= 11 / 12


def test_the_order_and_the_estimate_are_cleanlab_s() -> None:
    features, y, folds = blobs(4)
    y = np.where(np.arange(300) % 20 == 0, (y + 1) % 3, y)
    found = labels.find(features, neighbours.nearest(features), y, np.arange(300), folds, 3)
    scores = get_label_quality_scores(y, found.probabilities, method="self_confidence")
    assert len(found.rows) == num_label_issues(y, found.probabilities)
    assert (np.diff(scores[found.rows]) >= 0).all()
    assert scores[found.rows].max() <= np.delete(scores, found.rows).min()


def test_the_regression_is_scikit_learn_s_asked_of_the_fold_that_it_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, y, folds = blobs(5)
    monkeypatch.setattr(labels, "RIDGES", (0.3,))
    found = labels.regression(features, y, folds, 3)
    standard = StandardScaler().fit_transform(features.astype(np.float64))
    known = np.concatenate([standard, np.ones((300, 1))], axis=1)
    expected = np.empty((300, 3))
    for fold in range(FOLDS):
        learns = folds != fold
        model = Ridge(alpha=0.3 * learns.sum(), fit_intercept=False).fit(known[learns], np.eye(3)[y[learns]])
        expected[~learns] = model.predict(known[~learns])
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    logits = np.log(found) - np.log(found).mean(axis=1, keepdims=True)
    centred = expected - expected.mean(axis=1, keepdims=True)
    ratio = (logits * centred).sum() / (centred**2).sum()  # one temperature for all
    np.testing.assert_allclose(logits, ratio * centred, atol=0.05)


def test_a_copy_does_not_vouch_for_a_wrong_label() -> None:
    features, y, _ = blobs(6)
    features[1], y[1] = features[0], (y[0] + 1) % 3
    y[0] = y[1]  # both wrong, and each the other's nearest neighbour
    near = neighbours.nearest(features)
    alone, together = np.arange(300), np.arange(300)
    together[1] = 0
    believed = labels.votes(near, y, alone, 3)[0, y[0]]
    assert labels.votes(near, y, together, 3)[0, y[0]] < believed / 2


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    images=st.integers(6, 40),
    classes=st.integers(2, 5),
    width=st.sampled_from([1, 3, 40]),
)
def test_few_images_of_many_classes_are_no_trouble(seed: int, images: int, classes: int, width: int) -> None:
    random = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), random.integers(0, classes, images - classes)])
    x = random.normal(size=(images, width)).astype(np.float32)
    features = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
    found = labels.find(
        features, neighbours.nearest(features), y, np.arange(images), random.integers(0, FOLDS, images), classes
    )
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert len(found.rows) <= images
