"""Slopes of ReLU that rise instead of jumping: what is said stays, and gradients do not hang on rounding.

That a whole network with them is trained in parts as in one piece is in tests/thaw/learning/test_finetuning.py.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from thaw.networks.smoothing import smooth

layers = keras.layers
X = np.random.default_rng(0).normal(0, 4, (4, 9, 9, 6)).astype(np.float32)


class Inside(layers.Layer):  # type: ignore[misc]
    """A layer whose activation is not the last that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = keras.activations.relu

    def call(self, x: Any) -> Any:
        return self.activation(x) - 1


KINKED: dict[str, Callable[[], Any]] = {
    "ReLU": layers.ReLU,
    "ReLU6": lambda: layers.ReLU(6.0),
    "ReLU up to 2": lambda: layers.ReLU(2.0),
    "relu": lambda: layers.Activation("relu"),
    "relu6": lambda: layers.Activation("relu6"),
    "hard sigmoid": lambda: layers.Activation("hard_sigmoid"),
    "hard swish": lambda: layers.Activation("hard_swish"),
    "convolution": lambda: layers.Conv2D(8, 3, activation="relu"),
    "depthwise convolution": lambda: layers.DepthwiseConv2D(3, activation="relu6"),
    "dense": lambda: layers.Dense(8, activation="relu"),
}
OTHERS: dict[str, Callable[[], Any]] = {
    "leaky ReLU": lambda: layers.ReLU(negative_slope=0.1),
    "ReLU from 1 on": lambda: layers.ReLU(threshold=1.0),
    "swish": lambda: layers.Activation("swish"),
    "convolution": lambda: layers.Conv2D(8, 3),
    "inside": Inside,
    "GELU": lambda: layers.Dense(8, activation="gelu"),
}


def _chain(*parts: Any, shape: tuple[int, ...] = X.shape[1:]) -> Any:
    image = x = keras.Input(shape)
    for part in parts:
        x = part(x)
    return keras.Model(image, x)


def _smooths(model: Any) -> int:
    return sum(layer.name.endswith("_smooth") for layer in model.layers)


@pytest.mark.parametrize("kind", KINKED)
def test_what_is_said_is_the_same_to_the_bit(kind: str) -> None:
    model = _chain(KINKED[kind](), layers.GlobalAveragePooling2D(), layers.Dense(3))
    found = smooth(model)
    assert _smooths(found) == 1
    np.testing.assert_array_equal(found.predict_on_batch(X), model.predict_on_batch(X))
    assert [id(one) for one in found.trainable_variables] == [id(one) for one in model.trainable_variables]


@pytest.mark.parametrize("kind", OTHERS)
def test_what_has_no_kink_at_0_stays_as_it_is(kind: str) -> None:
    model = _chain(OTHERS[kind]())
    found = smooth(model)
    assert not _smooths(found)
    np.testing.assert_array_equal(found.predict_on_batch(X), model.predict_on_batch(X))


def test_a_layer_keeps_its_own_activation() -> None:
    layer = layers.Conv2D(8, 3, activation="relu")
    smooth(_chain(layer)).predict_on_batch(X)
    assert layer.activation is keras.activations.relu


def _slopes(layer: Any, x: Any) -> Any:
    """Of a layer that acts on each number alone."""
    import tensorflow as tf

    model = smooth(_chain(layer, shape=x.shape))
    x = tf.constant(x[np.newaxis])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x)
    return tape.gradient(y, x).numpy()[0]


LINE = np.linspace(-8, 8, 16001, dtype=np.float32)


@pytest.mark.parametrize("kind", ["ReLU", "ReLU6", "relu", "relu6", "hard sigmoid", "hard swish"])
def test_slopes_do_not_jump_and_are_those_of_the_function_but_close_to_a_kink(kind: str) -> None:
    found, exact = _slopes(KINKED[kind](), LINE), np.gradient(KINKED[kind]()(LINE), LINE)
    assert np.abs(np.diff(found)).max() < 0.02
    kinks, width = ([-3, 3], 1) if "hard" in kind else ([0, 6], 1) if "6" in kind else ([0], 4)
    far = np.abs(LINE[:, np.newaxis] - kinks).min(axis=1) > 1.01 * width
    assert 0.4 < far.mean() < 0.95
    np.testing.assert_allclose(found[far], exact[far], atol=1e-3)


def test_of_an_image_for_which_all_is_0_the_slope_is_0() -> None:
    np.testing.assert_array_equal(_slopes(layers.ReLU(), -np.ones(5, np.float32)), np.zeros(5))


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_noise_moves_gradients_by_no_more_than_its_like(activation: str) -> None:
    """Where there are enough units that a few of them lie that close to their kink."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    x = random.normal(0, 4, (4, 16, 16, 6)).astype(np.float32)
    noisy = (x * (1 + 1e-4 * random.normal(size=x.shape))).astype(np.float32)
    target = random.normal(size=(*x.shape[:3], 64)).astype(np.float32)
    convolutions = [layers.Conv2D(64, 3, padding="same", kernel_initializer="he_normal") for _ in range(8)]
    activations = [layers.Activation(activation) for _ in convolutions]
    parts = [part for pair in zip(convolutions, activations, strict=True) for part in pair]
    model, moved = _chain(*parts, shape=x.shape[1:]), {}
    for name, trained in {"jumps": model, "smooth": smooth(model)}.items():
        one, other = (_gradient(trained, images, target) for images in (x, noisy))
        moved[name] = np.linalg.norm(one - other) / np.linalg.norm(one)
    assert moved["smooth"] < 2e-3
    assert moved["jumps"] > 5 * moved["smooth"]


def _gradient(model: Any, x: Any, target: Any) -> Any:
    """Of the first layer's kernel."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(x) * target)
    return tape.gradient(loss, model.trainable_variables[0].value).numpy()
