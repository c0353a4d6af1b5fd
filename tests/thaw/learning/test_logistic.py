"""Logistic regression: scikit-learn's minimum, the same bytes on any number of cores, and little memory."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from thaw.artifacts import PROJECT, cache
from thaw.errors import UserError
from thaw.learning import logistic
from thaw.learning.examples import Examples
from thaw.learning.logistic import Regression
from thaw.learning.training import cross_entropies
from thaw.networks.inference import softmax
from thaw.networks.outputs import Array, Floats


def _examples(classes: int, images: int = 300, apart: float = 1.0, seed: int = 0, views: int = 1) -> Examples:
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, images)
    x = random.normal(size=(images, views, 20)) @ random.normal(size=(20, 20))
    x[np.arange(images), :, y] += apart
    return Examples(Array(x.astype(np.float32)), np.arange(images), y)


def _reference(train: Examples, c: float, **weights: Any) -> tuple[Floats, Floats]:
    """The kernel and bias that scikit-learn finds in double precision, if it is made to go on to the minimum."""
    x = np.concatenate([train.take(view=view) for view in range(train.source.views)]).astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    c = 2 * c if train.y.max() == 1 else c  # of two classes it knows one logit
    solved = LogisticRegression(C=c, tol=1e-9, max_iter=100_000).fit(
        (x - mean) / deviation, np.tile(train.y, train.source.views), **weights
    )
    kernel = (solved.coef_ / deviation).T
    bias = solved.intercept_ - mean @ kernel
    if kernel.shape[1] == 1:
        return np.hstack([-kernel, kernel]) / 2, np.append(-bias, bias) / 2
    return kernel, bias


def _says(layer: tuple[Floats, Floats], train: Examples) -> Floats:
    return softmax((train.take() @ layer[0] + layer[1]).astype(np.float32))


def _loss(layer: tuple[Floats, Floats], train: Examples, c: float) -> float:
    """What is minimised: cross-entropies, and ½ |kernel|² / C for standardised features."""
    x = train.take().astype(np.float64)
    logits = x @ layer[0] + layer[1]
    kernel = layer[0] * x.std(axis=0)[:, np.newaxis]
    return float(cross_entropies(logits, train.y).sum() + np.square(kernel).sum() / c / 2)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([2, 3, 7]), st.sampled_from([0.01, 1.0, 100.0]), st.floats(0, 8), st.integers(0, 99))
def test_it_is_scikit_learn_s_minimum(classes: int, c: float, apart: float, seed: int) -> None:
    train = _examples(classes, apart=apart, seed=seed)
    least = _loss(_reference(train, c), train, c)
    assert _loss(Regression(train, classes).solve(c)[0], train, c) <= least * 1.001


def test_what_a_class_counts_is_scikit_learn_s_class_weight() -> None:
    train, weights = _examples(3), np.array([1, 5, 0.5], np.float32)
    expected = _says(_reference(train, 1, sample_weight=weights[train.y]), train)
    np.testing.assert_allclose(_says(Regression(train, 3, weights).solve(1)[0], train), expected, atol=5e-3)


def test_a_mixture_is_an_image_of_each_class_by_its_share() -> None:
    train = _examples(3)
    others, shares = np.roll(train.y, 1)[:, np.newaxis], np.random.default_rng(1).uniform(size=(300, 1))
    mixed = Examples(train.source, train.rows, train.y, others, shares.astype(np.float32))
    doubled = Examples(train.source, np.tile(train.rows, 2), np.append(train.y, others))
    expected = _reference(doubled, 1, sample_weight=np.append(shares, 1 - shares))
    np.testing.assert_allclose(_says(Regression(mixed, 3).solve(1)[0], train), _says(expected, train), atol=5e-3)


def test_the_path_to_a_minimum_does_not_matter() -> None:
    train = _examples(3, apart=3)
    one, other = Regression(train, 3), Regression(train, 3)
    for c in (0.001, 0.1):
        one.solve(c)
    np.testing.assert_allclose(_says(one.solve(10)[0], train), _says(other.solve(10)[0], train), atol=1e-2)


def test_classes_that_are_easily_told_apart_do_not_end_it_early() -> None:
    """scikit-learn's default stops after a few steps here; features that differ in rounding then gave other heads."""
    train = _examples(3, images=100, apart=20)
    noise = np.random.default_rng(1).normal(size=train.take().shape).astype(np.float32)
    other = Examples(Array((train.take() * (1 + 1e-6 * noise))[:, np.newaxis]), train.rows, train.y)
    (found, seen), (again, _) = (Regression(one, 3).solve(10) for one in (train, other))
    np.testing.assert_allclose(_says(found, train), _says(again, train), atol=1e-3)
    np.testing.assert_allclose(_says(found, train), _says(_reference(train, 10), train), atol=1e-3)
    assert seen[1] == 1


def test_where_nothing_is_left_to_learn_it_ends() -> None:
    train = _examples(3, apart=1000)
    problem = Regression(train, 3)
    for c in (1, 1e6, 1e12):
        layer, seen = problem.solve(c)
        assert np.isfinite(layer[0]).all()
        assert np.isfinite(layer[1]).all()
        assert seen[1] == 1


def test_features_that_are_no_numbers_are_said() -> None:
    train = _examples(3)
    broken = train.take()[:, np.newaxis]
    broken[7, 0, 3] = np.inf
    with pytest.raises(UserError, match=r"expected features that are finite.*precision"):
        Regression(Examples(Array(broken), train.rows, train.y), 3)


def test_the_loss_and_accuracy_are_those_on_the_training_images() -> None:
    train = _examples(3, views=2)
    layer, (loss, accuracy) = Regression(train, 3, np.array([1, 5, 0.5], np.float32)).solve(1)
    said = [softmax((train.take(view=view) @ layer[0] + layer[1]).astype(np.float32)) for view in (0, 1)]
    own = np.concatenate([one[np.arange(300), train.y] for one in said])
    assert loss == pytest.approx(-np.log(own).mean(), rel=1e-4)
    assert accuracy == np.mean([one.argmax(axis=1) == train.y for one in said])


def test_cores_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    train, found = _examples(3, views=2), []
    monkeypatch.setattr(logistic, "BLOCK", 64)
    for cores in (1, 3):
        monkeypatch.setattr(logistic, "cores", lambda cores=cores: cores)
        found.append(Regression(train, 3).solve(1)[0])
    np.testing.assert_array_equal(found[1][0], found[0][0])
    np.testing.assert_array_equal(found[1][1], found[0][1])


SOLVES = """
import resource
from pathlib import Path
import numpy as np
from thaw.learning.examples import Examples
from thaw.learning.logistic import Regression
from thaw.networks import outputs

outputs.MAPPED = 0  # as larger files are: read
random = np.random.default_rng(0)
for images in (4096, 200_704):
    with open("features.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (images, 1, 128)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(images // 2048):
            file.write(random.standard_normal((2048, 128), np.float32).data)
    y = random.integers(0, 3, images)
    Regression(Examples(outputs.Saved(Path("features.npy")), np.arange(images), y), 3).solve(1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted otherwise elsewhere")
def test_memory_does_not_grow_with_the_features(tmp_path: Path) -> None:
    """Of 100 MB, what the cores look at is in memory, and what is made of it."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", SOLVES]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    few, many = map(int, done.stdout.split())
    assert many - few < 30_000  # KB


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file")
def test_a_disk_without_room_is_said() -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match="expected 0.0 GB of free disk for standardised features, found: File too"):
            Regression(_examples(3), 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_nothing_is_left_of_the_standardised_features() -> None:
    solved = Regression(_examples(3), 3)
    assert [*cache().iterdir()] == []
    solved.solve(1)


def test_very_many_features_are_solved_without_their_correlations(monkeypatch: pytest.MonkeyPatch) -> None:
    train = _examples(3)
    monkeypatch.setattr(logistic, "WIDE", 10)
    np.testing.assert_allclose(
        _says(Regression(train, 3).solve(1)[0], train), _says(_reference(train, 1), train), atol=5e-3
    )
