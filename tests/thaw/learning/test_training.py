"""Training with Keras: the steps, how the rate goes, and going on after a kill."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.killing import killed_after
from thaw.artifacts import PROJECT
from thaw.config.schema import Unfreeze
from thaw.errors import UserError
from thaw.learning import training
from thaw.learning.examples import Examples, Inputs
from thaw.learning.training import Checkpoint, Rung, Validation, adam, fit, logits, resumable, score, weights
from thaw.networks.outputs import Array

BATCH = 16


def _rung(steps: int = 48, rate: float = 0.05, warmup: int = 0) -> Rung:
    return Rung(Unfreeze(all=True), rate, warmup, steps, BATCH)


def _model(dropout: float = 0.3) -> Any:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(16), keras.layers.Dropout(dropout, seed=1), keras.layers.Dense(3)]
    return keras.Sequential(layers)


def _examples(images: int = 120, views: int = 2, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, images)
    x = random.normal(size=(images, views, 4)).astype(np.float32)
    x[:, :, 0] += y[:, np.newaxis]
    return Examples(Array(x), np.arange(images), y)


def _story() -> dict[str, Any]:
    return {"rung": 0, "steps": 0, "rows": [], "tried": []}


def _fit(model: Any, run: str = "run", rung: Rung | None = None, **more: Any) -> dict[str, Any]:
    rung = rung or _rung()
    checkpoint, optimizer = Checkpoint(run), more.pop("optimizer", None) or adam(rung, {})
    story: dict[str, Any] = checkpoint.story or _story()
    train, val = more.pop("train", None) or _examples(), Validation(more.pop("val", None) or _examples(seed=1))
    story["before"] = fit(
        model, optimizer, train, val, rung, 0, checkpoint, story, **more
    )  # fmt: skip
    return story


def test_the_score_is_cross_entropy_and_accuracy() -> None:
    loss, accuracy = score(np.array([[0.0, math.log(3)], [0.0, 0.0]], np.float32), np.array([1, 1]))
    assert loss == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)
    assert accuracy == 0.5


def test_it_learns_and_keeps_the_last_weights() -> None:
    model, val = _model(), _examples(seed=1)
    start = score(logits(model, val), val.y)
    rows = _fit(model)["rows"]
    assert [row["step"] for row in rows] == [*range(7)], "48 steps of 16 images are six epochs of 120"
    assert (rows[0]["val_loss"], rows[0]["val_accuracy"]) == start
    assert math.isnan(rows[0]["loss"])
    assert score(logits(model, val), val.y) == (rows[-1]["val_loss"], rows[-1]["val_accuracy"])
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.3


def test_how_a_rung_began_and_how_it_is_now_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, asked = _model(), _examples(seed=1), []
    monkeypatch.setattr(training, "logits", lambda *given: asked.append(1) or logits(*given))
    val, kernel = Validation(images), model.layers[-1].kernel
    start, found = np.array(kernel), []
    for epoch in [0, *range(1, 9), 0, 2.5, 4.5, 6.5, 8]:  # as ``policy.settle`` asks for mixtures of both
        kernel.assign((1 + epoch) * start)
        found.append(val.logits(model))
        np.testing.assert_array_equal(found[-1], logits(model, images))
    assert len(asked) == 12


def test_of_images_to_be_judged_those_to_choose_by_are_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, every, asked = _model(), _examples(), []
    monkeypatch.setattr(training, "logits", lambda _, images: asked.append(len(images.rows)) or logits(_, images))
    rows = np.flatnonzero(np.arange(120) % 3 > 0)  # of each three one is to choose by, and one to be judged
    val = Validation(Examples(every.source, rows[::2], every.y[rows[::2]]))
    val.logits(model)
    np.testing.assert_array_equal(val.logits_among(model, Inputs(every.source, rows)), logits(model, every)[rows])
    assert asked == [40, 40]


def test_steps_given_together_are_the_steps_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    for at_once in (1, 3, 8):
        monkeypatch.setattr(training, "CHUNK_STEPS", at_once)
        model = _model()
        _fit(model, f"run{at_once}")
        trained.append(model.get_weights())
    for other in trained[1:]:
        for found, expected in zip(other, trained[0], strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("batchnorm", [False, True])
def test_parts_of_a_batch_make_the_step_of_the_whole(monkeypatch: pytest.MonkeyPatch, batchnorm: bool) -> None:
    """Also where BatchNorm learns, whose statistics are those of all images of the batch."""
    trained = []
    for part in (BATCH, 5):
        monkeypatch.setattr(training, "PART", part)
        model = _model(dropout=0)
        if batchnorm:
            model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(), *model.layers])
        _fit(model, f"run{part}", rung=_rung(steps=1))
        trained.append(model.get_weights())
    for found, expected in zip(*trained, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_step_is_that_of_keras() -> None:
    """The loss with label smoothing and weights of the classes, its gradient, and what Adam makes of it."""
    ours, keras_s = _model(dropout=0), _model(dropout=0)
    train, weight = _examples(BATCH, views=1), np.array([1.0, 2.0, 0.5], np.float32)
    rung = _rung(steps=1)
    _fit(ours, rung=rung, train=train, label_smoothing=0.1, class_weights=weight)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    keras_s.compile(adam(rung, {}), loss)
    keras_s.train_on_batch(train.take(), np.eye(3)[train.y], sample_weight=weight[train.y])
    for found, expected in zip(ours.get_weights(), keras_s.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(images=st.integers(1, 40), size=st.integers(1, 50), cuts=st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_epoch_after_epoch_each_image_is_seen_once_whatever_is_taken_together(
    images: int, size: int, cuts: list[int]
) -> None:
    x = np.arange(images, dtype=np.float32)[:, np.newaxis, np.newaxis] + np.array([[[0.0], [0.5]]], np.float32)
    examples = Examples(Array(x), np.arange(images), np.arange(images) % 3)
    seen, at = [], 0
    for steps in cuts:
        batches, targets = training._batches(examples, [7], range(at, at + steps), size, 3)
        assert batches.shape == (steps, size, 1)
        np.testing.assert_array_equal(targets.argmax(axis=2), np.floor(batches[..., 0]) % 3)
        seen.append(batches.ravel())
        at += steps
    row = np.concatenate(seen)
    together, _ = training._batches(examples, [7], range(at), size, 3)
    np.testing.assert_array_equal(row, together.ravel())
    for epoch in range(len(row) // images):
        part = row[epoch * images : (epoch + 1) * images]
        np.testing.assert_array_equal(np.sort(part), np.arange(images) + 0.5 * (epoch % 2))


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (0, 0.05 * (1 + np.cos(np.pi * np.arange(21) / 20))),
        (4, np.append(0.025 * np.arange(4), 0.05 * (1 + np.cos(np.pi * np.arange(17) / 16)))),
    ],
)
def test_the_rate_rises_and_falls_to_0(warmup: int, expected: Any) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(adam(_rung(20, 0.1, warmup), {}), keras.losses.CategoricalCrossentropy(from_logits=True))
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
    rung = _rung(steps=1, rate=0.01)
    _fit(model, rung=rung, optimizer=adam(rung, {layers[0].kernel.path: 0.1}))
    lower, upper = (np.abs(layer.kernel.numpy() - old) for layer, old in zip(layers, before, strict=True))
    np.testing.assert_allclose(lower, 0.001, rtol=1e-2)
    np.testing.assert_allclose(upper, 0.01, rtol=1e-2)


def test_weights_decay_towards_0_and_biases_do_not() -> None:
    layer = keras.layers.Dense(3, bias_initializer="ones")
    model = keras.Sequential([keras.Input((4,)), layer])
    kernel = layer.kernel.numpy()
    optimizer = adam(_rung(rate=0.1), {}, weight_decay=0.5)
    optimizer.build(model.trainable_variables)
    optimizer.apply([np.zeros((4, 3), np.float32), np.zeros(3, np.float32)], model.trainable_variables)
    np.testing.assert_allclose(layer.kernel.numpy(), kernel * (1 - 0.1 * 0.5), rtol=1e-5)
    np.testing.assert_array_equal(layer.bias.numpy(), 1)


def test_classes_that_count_nothing_are_not_learnt() -> None:
    model = _model()
    _fit(model, class_weights=np.array([1, 1, 0], np.float32))
    assert not (logits(model, _examples(seed=1)).argmax(axis=1) == 2).mean() > 0.05


@pytest.mark.parametrize("epoch", [1, 3, 6])
def test_a_killed_run_goes_on_to_the_very_same_weights(epoch: int) -> None:
    whole = _model()
    start = weights(whole)
    expected = _fit(whole, "whole")

    with killed_after(epoch):
        _fit(_model(), "killed")
    resumed = _model()
    found = _fit(resumed, "killed")

    np.testing.assert_equal(found["rows"], expected["rows"])
    for ours, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_equal(found["before"], start)


def test_a_finished_run_is_forgotten_and_a_failed_one_is_not() -> None:
    for failing in (True, False):
        with pytest.raises(RuntimeError) if failing else resumable("other"), resumable("run") as checkpoint:
            fit(
                _model(),
                adam(_rung(8), {}),
                _examples(),
                Validation(_examples(seed=1)),
                _rung(8),
                0,
                checkpoint,
                _story(),
            )
            if failing:
                raise RuntimeError
        assert bool(checkpoint.story) == failing


@pytest.mark.parametrize("module", ["learning/policy", "networks/smoothing"])
def test_other_code_finds_no_state(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> bool:
        with suppress(RuntimeError), resumable("run") as checkpoint:  # an error leaves the state where it is
            there = bool(checkpoint.story)
            checkpoint.save(_model(), adam(_rung(), {}), [], {"rows": []})
            raise RuntimeError
        return there

    assert [state(), state()] == [False, True]
    (edited := tmp_path / "edited.py").write_text("# another way\n", encoding="utf-8")
    other = [edited if path == PROJECT / "thaw" / f"{module}.py" else path for path in training.CODE]
    monkeypatch.setattr(training, "CODE", other)
    assert not state()


def test_a_rate_that_is_far_too_high_is_said_so() -> None:
    examples = Examples(Array(np.full((4, 1, 4), np.inf, np.float32)), np.arange(4), np.array([0, 1, 2, 0]))
    with pytest.raises(UserError, match="expected a finite loss, found nan after epoch 1; lower 'learning_rate'"):
        _fit(_model(), train=examples)


def test_mixtures_are_learnt_as_shares_of_both_classes() -> None:
    """A model that sees nothing but one picture settles at the shares of its label."""
    x = np.ones((64, 1, 4), np.float32)
    zeros = np.zeros(64, np.int64)
    mixed = Examples(Array(x), np.arange(64), zeros, zeros[:, np.newaxis] + 1, np.full((64, 1), 0.7, np.float32))
    model = _model()
    _fit(model, rung=_rung(240), train=mixed, val=Examples(Array(x), np.arange(64), zeros))
    found = np.exp(logits(model, mixed)[0])
    assert found[:2] / found.sum() == pytest.approx([0.7, 0.3], abs=0.1)
