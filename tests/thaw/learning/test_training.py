"""Training with Keras: the best epoch, stopping early, and going on after a kill."""

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest

from tests.helpers import options
from tests.helpers.killing import killed_after
from thaw.config.schema import Finetune
from thaw.errors import UserError
from thaw.learning.examples import Examples
from thaw.learning.training import Checkpoint, Monitor, adam, best_epoch, compiled, fit, logits, resumable, score
from thaw.networks.outputs import Array


@dataclass(frozen=True)
class Schedule:
    batch_size: int = 16
    epochs: int = 6
    monitor: Monitor = "loss"
    patience: int = 6
    decay: str = "none"


def _model(rate: float = 0.05) -> Any:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(16), keras.layers.Dropout(0.3, seed=1), keras.layers.Dense(3)]
    return compiled(keras.Sequential(layers), keras.optimizers.Adam(rate))


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
    model = compiled(keras.Sequential([keras.Input((3,)), keras.layers.Identity()]), "adam", label_smoothing=0.3)
    loss = model.evaluate(np.log([[0.7, 0.2, 0.1]]), np.eye(3)[:1], verbose=0)[0]
    assert loss == pytest.approx(-(0.8 * math.log(0.7) + 0.1 * math.log(0.2) + 0.1 * math.log(0.1)), rel=1e-5)


def _finetune(**changes: Any) -> Finetune:
    return Finetune.model_validate(options.FINETUNE | changes)


@pytest.mark.parametrize(
    ("decay", "warmup", "expected"),
    [
        ("cosine", 0.0, 0.05 * (1 + np.cos(np.pi * np.arange(21) / 20))),
        ("none", 0.0, np.full(21, 0.1)),
        ("none", 0.2, np.minimum(0.1, 0.025 * np.arange(21))),
        ("cosine", 0.2, np.append(0.025 * np.arange(4), 0.05 * (1 + np.cos(np.pi * np.arange(17) / 16)))),
    ],
)
def test_the_rate_rises_and_falls_as_configured(decay: str, warmup: float, expected: Any) -> None:
    config = _finetune(learning_rate=0.1, decay=decay, warmup=warmup, epochs=4)
    model = compiled(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), adam(config, config, 5, {}))
    rates = [float(model.optimizer.learning_rate)]
    for _ in range(20):
        model.train_on_batch(np.zeros((1, 4), np.float32), np.eye(3)[:1])
        rates.append(float(model.optimizer.learning_rate))
    np.testing.assert_allclose(rates, expected, atol=1e-7)


def test_a_smaller_share_of_the_rate_makes_smaller_steps() -> None:
    """The first step of Adam is the rate itself, whatever the gradient: so its share is seen exactly."""
    layers = [keras.layers.Dense(4, name="lower"), keras.layers.Dense(3, name="upper")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    before = [layer.kernel.numpy() for layer in layers]
    config = _finetune(learning_rate=0.01, decay="none")
    compiled(model, adam(config, config, 1, {layers[0].kernel.path: 0.1}))
    model.train_on_batch(np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32), np.eye(3)[np.arange(8) % 3])
    lower, upper = (np.abs(layer.kernel.numpy() - old) for layer, old in zip(layers, before, strict=True))
    np.testing.assert_allclose(lower, 0.001, rtol=1e-2)
    np.testing.assert_allclose(upper, 0.01, rtol=1e-2)


def test_weights_decay_towards_0_and_biases_do_not() -> None:
    layer = keras.layers.Dense(3, bias_initializer="ones")
    model = keras.Sequential([keras.Input((4,)), layer])
    kernel = layer.kernel.numpy()
    config = _finetune(learning_rate=0.1, decay="none", weight_decay=0.5)
    compiled(model, adam(config, config, 1, {}))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.apply([np.zeros((4, 3), np.float32), np.zeros(3, np.float32)], model.trainable_variables)
    np.testing.assert_allclose(layer.kernel.numpy(), kernel * (1 - 0.1 * 0.5), rtol=1e-5)
    np.testing.assert_array_equal(layer.bias.numpy(), 1)


def test_the_average_of_the_weights_is_judged_and_kept_and_training_goes_on_with_the_last_ones() -> None:
    """Against averaging by hand, step by step."""

    def model() -> Any:
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])

    train, val = _examples(views=1), _examples(seed=1)
    config = _finetune(learning_rate=0.05, decay="none", ema=0.8, epochs=3, batch_size=120)
    averaged = compiled(model(), adam(config, config, 1, {}), label_smoothing=0.1)
    rows = fit(averaged, train, val, config, 0, Checkpoint("run"))
    assert best_epoch(rows) == 3, "the case is meant to improve to the end"

    plain_config = _finetune(learning_rate=0.05, decay="none", epochs=3, batch_size=120)
    plain = compiled(model(), adam(plain_config, plain_config, 1, {}), label_smoothing=0.1)
    average = None
    for _ in range(3):
        plain.train_on_batch(train.take(), np.eye(3)[train.y])
        now = [np.array(weight) for weight in plain.weights]
        average = now if average is None else [0.8 * a + 0.2 * b for a, b in zip(average, now, strict=True)]
    assert average is not None
    for found, expected in zip(averaged.weights, average, strict=True):
        np.testing.assert_allclose(np.array(found), expected, atol=1e-5)


def test_the_rate_falls_when_there_is_no_progress() -> None:
    model = _model(rate=0.5)
    rates = []

    class Watched(Checkpoint):
        def save(self, *arguments: Any) -> None:
            rates.append(float(model.optimizer.learning_rate))

    rows = fit(
        model, _examples(), _examples(seed=1), Schedule(epochs=12, patience=12, decay="plateau"), 0, Watched("run")
    )
    expected, rate = [], 0.5
    for epoch in range(1, 13):
        idle = epoch - best_epoch(rows[: epoch + 1])
        if idle and idle % 2 == 0:
            rate *= 0.3
        expected.append(rate)
    assert expected[-1] < 0.5, "the case is meant to stop improving"
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_the_best_epoch_is_by_loss_or_by_accuracy_and_of_equal_accuracies_by_loss() -> None:
    judged = [(0.1, 0.9), (0.9, 0.8), (0.5, 0.9), (0.6, 0.95), (0.55, 0.95)]
    rows = [{"val_loss": loss, "val_accuracy": accuracy} for loss, accuracy in judged]
    assert best_epoch(rows, "loss") == 2
    assert best_epoch(rows, "accuracy") == 4
    assert best_epoch(rows[:1]) == 0


def test_a_step_that_does_not_help_is_taken_back() -> None:
    val = _examples(seed=1)
    model = _model()
    rows = fit(model, _examples(), val, Schedule(epochs=6), 0, Checkpoint("run"))
    good = [np.array(weight) for weight in model.weights]
    compiled(model, keras.optimizers.SGD(5.0))
    rows = fit(model, _examples(), val, Schedule(epochs=3), 0, Checkpoint("run2"), step=1, rows=rows)
    assert [row["step"] for row in rows] == list(range(10))
    assert best_epoch(rows) <= 6, "the case is meant to get worse"
    for found, expected in zip(model.weights, good, strict=True):
        np.testing.assert_array_equal(np.array(found), expected)


def test_classes_that_count_nothing_are_not_learnt() -> None:
    model = _model()
    weights = np.array([1, 1, 0], np.float32)
    fit(model, _examples(), _examples(seed=1), Schedule(), 0, Checkpoint("run"), weights=weights)
    assert not (logits(model, _examples(seed=1)).argmax(axis=1) == 2).mean() > 0.05


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


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_killed_run_goes_on_to_the_very_same_weights(epoch: int) -> None:
    whole = _model()
    expected = fit(whole, _examples(), _examples(seed=1), Schedule(), 0, Checkpoint("whole"))

    with killed_after(epoch):
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
        assert (checkpoint.restore(_built(_model()), 0) is not None) == failing


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
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"], run_eagerly=True)
    examples = Examples(Array(x), np.arange(4), np.array([0, 1, 0, 1]))
    fit(model, examples, examples, Schedule(batch_size=4, epochs=4), 0, Checkpoint("run"))
    assert seen == [1, 2, 3, 1]


def test_a_rate_that_is_far_too_high_is_said_so() -> None:
    examples = Examples(Array(np.full((4, 1, 4), np.inf, np.float32)), np.arange(4), np.array([0, 1, 2, 0]))
    with pytest.raises(UserError, match="expected a finite loss, found nan after epoch 1; lower 'learning_rate'"):
        fit(_model(), examples, _examples(seed=1), Schedule(), 0, Checkpoint("run"))


def test_mixtures_are_learnt_as_shares_of_both_classes() -> None:
    """A model that sees nothing but one picture settles at the shares of its label."""
    x = np.ones((64, 1, 4), np.float32)
    zeros = np.zeros(64, np.int64)
    mixed = Examples(Array(x), np.arange(64), zeros, zeros[:, np.newaxis] + 1, np.full((64, 1), 0.7, np.float32))
    model = _model(rate=0.05)
    fit(model, mixed, Examples(Array(x), np.arange(64), zeros), Schedule(epochs=60, patience=60), 0, Checkpoint("run"))
    found = np.exp(logits(model, mixed)[0])
    assert found[:2] / found.sum() == pytest.approx([0.7, 0.3], abs=0.1)
