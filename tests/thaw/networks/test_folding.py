"""Frozen BatchNorm in the convolution before it: what is folded, and what is not. That nothing changes for whole
networks, and no gradient, is in tests/thaw/learning/test_finetuning.py.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from thaw.networks.folding import folded

layers = keras.layers
X = np.random.default_rng(0).normal(size=(4, 9, 9, 6)).astype(np.float32)

CONVOLUTIONS: dict[str, Callable[[], Any]] = {
    "3x3": lambda: layers.Conv2D(8, 3, padding="same", use_bias=False),
    "bias": lambda: layers.Conv2D(8, 3, bias_initializer="normal"),
    "1x1": lambda: layers.Conv2D(8, 1, use_bias=False),
    "1x1, strides": lambda: layers.Conv2D(8, 1, strides=2),
    "dilated": lambda: layers.Conv2D(8, 3, dilation_rate=2),
    "depthwise": lambda: layers.DepthwiseConv2D(3, padding="same", bias_initializer="normal"),
    "depthwise, strides": lambda: layers.DepthwiseConv2D(3, strides=2, use_bias=False),
    "depthwise, multiplied": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
}


def _batchnorm(**how: Any) -> Any:
    layer = layers.BatchNormalization(**how)
    layer.trainable = False
    return layer


def _chain(*parts: Any) -> Any:
    image = x = keras.Input(X.shape[1:])
    for part in parts:
        x = part(x)
    return keras.Model(image, x)


def _enliven(model: Any) -> None:
    random = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.variables:
                variable.assign(random.uniform(0.5, 2, variable.shape))


def _folds(model: Any) -> int:
    return sum(layer.name.endswith("_folded") for layer in model.layers)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("how", [{}, {"scale": False}, {"center": False}], ids=str)
def test_a_convolution_with_its_batchnorm_is_one_layer_that_computes_the_same(kind: str, how: dict[str, bool]) -> None:
    model = _chain(CONVOLUTIONS[kind](), _batchnorm(**how), layers.ReLU())
    _enliven(model)
    found = folded(model)
    assert _folds(found) == 1
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in found.layers)
    np.testing.assert_allclose(found.predict_on_batch(X), model.predict_on_batch(X), rtol=1e-4, atol=1e-5)
    assert {v.path for v in found.trainable_variables} == {v.path for v in model.trainable_variables}


def test_layers_are_shared() -> None:
    model = _chain(layers.Conv2D(8, 1), _batchnorm())
    found = folded(model)
    model.layers[1].kernel.assign(2 * model.layers[1].kernel)
    np.testing.assert_allclose(found.predict_on_batch(X), model.predict_on_batch(X), rtol=1e-4, atol=1e-5)


def _trained() -> Any:
    return _chain(layers.Conv2D(8, 1), layers.BatchNormalization())


def _activated() -> Any:
    return _chain(layers.Conv2D(8, 1, activation="relu"), _batchnorm())


def _grouped() -> Any:
    return _chain(layers.Conv2D(8, 1, groups=2), _batchnorm())


def _used_twice() -> Any:
    image = keras.Input(X.shape[1:])
    convolved = layers.Conv2D(8, 1)(image)
    return keras.Model(image, layers.Add()([convolved, _batchnorm()(convolved)]))


def _given_out() -> Any:
    image = keras.Input(X.shape[1:])
    convolved = layers.Conv2D(8, 1)(image)
    return keras.Model(image, [convolved, _batchnorm()(convolved)])


@pytest.mark.parametrize("build", [_trained, _activated, _grouped, _used_twice, _given_out])
def test_what_cannot_be_folded_stays_as_it_is(build: Callable[[], Any]) -> None:
    model = build()
    _enliven(model)
    found = folded(model)
    assert _folds(found) == 0
    for ours, theirs in zip(
        keras.tree.flatten(found.predict_on_batch(X)), keras.tree.flatten(model.predict_on_batch(X)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_bfloat16_stays_bfloat16() -> None:
    policy = keras.DTypePolicy("mixed_bfloat16")
    model = _chain(layers.Conv2D(8, 3, dtype=policy), _batchnorm(dtype=policy), layers.ReLU())
    _enliven(model)
    found = folded(model)
    assert _folds(found) == 1
    ours, theirs = (np.asarray(one.predict_on_batch(X), np.float32) for one in (found, model))
    np.testing.assert_allclose(ours, theirs, rtol=0.05, atol=0.05)
