"""The same network, with gradients that rounding does not move: a ReLU's slope rises over a stretch, and does not jump.

At its kink the slope of a ReLU jumps from 0 to 1. Of inputs that differ by rounding, a millionth or so, some fall on
the other side of theirs, and gradients, which add up what has no common sign, differ by the root of that share, a
thousandth: some dozen steps make of it another network (Shamir et al. 2020, arXiv:2010.09931). So the output stays what
it is, to the bit, and backwards the slope rises from 0 at the kink to 1 a little above it (a surrogate gradient, as in
Horuz et al. 2025, arXiv:2505.22074, who take wide ones, which on small networks cost accuracy: docs/architecture.md).
"""

from collections.abc import Callable
from typing import Any

# The stretch over which the slope rises, as a share of
CAP = 1 / 6  # what is let through at most, where that is known: 6 in most cases, and so 1
MEAN = 2  # what is let through in the mean of an image, where there is no cap: about as much

Function = Callable[[Any], Any]


def smooth(model: Any) -> Any:
    """Return a Keras model that shares the layers of ``model`` and says the same, with smooth slopes.

    ReLU, ReLU6, and the hard sigmoid and swish that are made of it have them, as layers of their own or at the end of
    Keras' Dense layers and convolutions. What is inside other layers stays as it is.
    """
    import keras

    relu6 = _relu(6.0)

    def hard_sigmoid(x: Any) -> Any:
        return relu6(x + 3.0) / 6.0

    functions: dict[Any, Function] = {
        keras.activations.relu: _relu(None),
        keras.activations.relu6: relu6,
        keras.activations.hard_sigmoid: hard_sigmoid,
        keras.activations.hard_silu: lambda x: x * hard_sigmoid(x),
    }
    layers = keras.layers  # those whose activation is the last that they do
    activated = (layers.Activation, layers.Dense, layers.EinsumDense, layers.Conv2D, layers.DepthwiseConv2D)

    def call(layer: Any, *inputs: Any, **more: Any) -> Any:
        if type(layer) is layers.ReLU and not layer.negative_slope and not layer.threshold:
            return _layer(layer, _relu(layer.max_value))(*inputs)
        if type(layer) in activated and (function := functions.get(layer.activation)):
            return _layer(layer, function)(*inputs)
        return layer(*inputs, **more)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _relu(most: float | None) -> Function:
    """ReLU, up to ``most`` where that is given, with smooth slopes.

    They are made of the output alone, which is kept for the layer above: so the input need not be.
    """
    from keras import ops

    def slope(y: Any) -> Any:
        if most is not None:
            return ops.minimum(ops.minimum(y, most - y) * (1 / (CAP * most)), 1)
        width = MEAN * ops.mean(y, axis=range(1, len(y.shape)), keepdims=True)
        return ops.minimum(y / (width + 1e-7), 1)  # nowhere a division by 0: of an image for which all is 0

    @ops.custom_gradient  # type: ignore[untyped-decorator]
    def function(x: Any) -> Any:
        y = ops.relu(x) if most is None else ops.relu6(x) if most == 6 else ops.clip(x, 0, most)

        def gradient(*given: Any, upstream: Any = None) -> Any:
            return (given[0] if upstream is None else upstream) * slope(y)

        return y, gradient

    return function  # type: ignore[no-any-return]


def _layer(layer: Any, function: Function) -> Any:
    """A layer that does what another one does, but for the last thing, its activation, which is given."""
    import keras

    class Smooth(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name=f"{layer.name}_smooth", dtype=layer.dtype_policy)
            self.layer = layer

        def call(self, x: Any) -> Any:
            if isinstance(layer, keras.layers.ReLU):
                return function(x)
            activation, layer.activation = layer.activation, keras.activations.linear
            try:
                return function(layer(x))
            finally:
                layer.activation = activation

    return Smooth()
