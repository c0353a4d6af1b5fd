"""Training with Keras: the best epoch, stopping early, and going on after a kill."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest

from thaw.errors import UserError
from thaw.examples import Array, Examples
from thaw.training import Checkpoint, compiled, fit, logits, resumable, score


@dataclass(frozen=True)
class Schedule:
    batch_size: int = 16
    epochs: int = 6
    patience: int = 6


def _model(rate: float = 0.05) -> Any:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(16), keras.layers.Dropout(0.3, seed=1), keras.layers.Dense(3)]
    return compiled(keras.Sequential(layers), rate)


def _examples(images: int = 120, views: int = 2, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, images)
    x = random.normal(size=(images, views, 4)).astype(np.float32)
    x[:, :, 0] += y[:, np.newaxis]
    return Examples(Array(x), np.arange(images), y)


def test_the_score_is_cross_entropy_and_accuracy() -> None:
    loss, accuracy = score(np.array([[0.0, math.log(3)], [0.0, 0.0]], np.float32), np.array([1, 1]))
    assert loss == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)
    assert accuracy == 0.5


def test_the_weights_kept_are_those_of_the_best_epoch() -> None:
    model, val = _model(rate=0.5), _examples(seed=1)
    rows = fit(model, _examples(), val, Schedule(epochs=12, patience=12), 0, Checkpoint("run"))
    best = min(rows[1:], key=lambda row: row["val_loss"])
    assert best != rows[-1], "the case is meant to have its best epoch before the last"
    assert score(logits(model, val), val.y) == pytest.approx((best["val_loss"], best["val_accuracy"]))


def test_label_smoothing_spreads_a_share_of_each_label() -> None:
    model = compiled(keras.Sequential([keras.Input((3,)), keras.layers.Identity()]), 0.1, label_smoothing=0.3)
    loss = model.evaluate(np.log([[0.7, 0.2, 0.1]]), np.array([0]), verbose=0)[0]
    assert loss == pytest.approx(-(0.8 * math.log(0.7) + 0.1 * math.log(0.2) + 0.1 * math.log(0.1)), rel=1e-5)


def test_the_rate_falls_to_nothing_along_a_cosine() -> None:
    model = compiled(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), 0.1, decay_steps=20)
    rates = [float(model.optimizer.learning_rate)]
    for _ in range(20):
        model.train_on_batch(np.zeros((1, 4), np.float32), np.zeros(1))
        rates.append(float(model.optimizer.learning_rate))
    np.testing.assert_allclose(rates, 0.05 * (1 + np.cos(np.pi * np.arange(21) / 20)), atol=1e-7)


def test_it_stops_when_validation_does_not_improve() -> None:
    rows = fit(_model(rate=0.5), _examples(), _examples(seed=1), Schedule(epochs=50, patience=2), 0, Checkpoint("run"))
    best = min(range(1, len(rows)), key=lambda epoch: rows[epoch]["val_loss"])
    assert len(rows) - 1 == best + 2 < 50


def test_row_0_is_the_model_as_it_was_given() -> None:
    model, val = _model(), _examples(seed=1)
    start = score(logits(model, val), val.y)
    rows = fit(model, _examples(), val, Schedule(epochs=1), 0, Checkpoint("run"))
    assert (rows[0]["val_loss"], rows[0]["val_accuracy"]) == start
    assert math.isnan(rows[0]["loss"])


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_killed_run_goes_on_to_the_very_same_weights(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    whole = _model()
    expected = fit(whole, _examples(), _examples(seed=1), Schedule(), 0, Checkpoint("whole"))

    save, saved = Checkpoint.save, itertools.count(1)

    def save_and_die(self: Checkpoint, *arguments: Any) -> None:
        save(self, *arguments)
        if next(saved) == epoch:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_and_die)
        with pytest.raises(Killed):
            fit(_model(), _examples(), _examples(seed=1), Schedule(), 0, Checkpoint("killed"))
    resumed = _model()
    rows = fit(resumed, _examples(), _examples(seed=1), Schedule(), 0, Checkpoint("killed"))

    np.testing.assert_equal(rows, expected)
    for ours, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_finished_run_is_forgotten_and_a_failed_one_is_not() -> None:
    for failing in (True, False):
        with pytest.raises(RuntimeError) if failing else resumable("other"), resumable("run") as checkpoint:
            fit(_model(), _examples(), _examples(seed=1), Schedule(epochs=1), 0, checkpoint)
            if failing:
                raise RuntimeError
        assert bool(checkpoint.restore(_built(_model()))[0]) == failing


def _built(model: Any) -> Any:
    model.optimizer.build(model.trainable_variables)
    return model


def test_each_epoch_takes_the_next_view() -> None:
    seen = []

    class Recorder(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any, training: bool = False) -> Any:
            if training:
                seen.append(float(np.array(x).max()))
            return x

    x = np.zeros((4, 3, 4), np.float32) + np.array([1, 2, 3], np.float32)[:, np.newaxis]
    model = keras.Sequential([keras.Input((4,)), Recorder(), keras.layers.Dense(2)])
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"], run_eagerly=True
    )
    examples = Examples(Array(x), np.arange(4), np.array([0, 1, 0, 1]))
    fit(model, examples, examples, Schedule(batch_size=4, epochs=4), 0, Checkpoint("run"))
    assert seen == [1, 2, 3, 1]


def test_a_rate_that_is_far_too_high_is_said_so() -> None:
    examples = Examples(Array(np.full((4, 1, 4), np.inf, np.float32)), np.arange(4), np.array([0, 1, 2, 0]))
    with pytest.raises(UserError, match="expected a finite loss, found nan after epoch 1; lower 'learning_rate'"):
        fit(_model(), examples, _examples(seed=1), Schedule(), 0, Checkpoint("run"))
