"""The same network, faster to train: frozen BatchNorm is folded into the convolution before it.

A frozen BatchNorm multiplies each channel by a constant and adds another one. Done to the convolution's few weights in
each step, and not to its large output, that spares a pass over memory forwards and one backwards (Jacob et al. 2018,
arXiv:1712.05877, section 3.2); a convolution of 1×1 pixels is one matrix product. What is trained are the convolution's
own weights, so that gradients and steps are those of the network as it was, but for rounding.
"""

from typing import Any


def folded(model: Any) -> Any:
    """Return a Keras model that shares the layers of ``model``, and computes the same with fewer passes over memory.

    A BatchNorm is folded where it is frozen and alone takes the output of a convolution without an activation; all else
    stays as it is. ``trainable`` has to be set before.
    """
    import keras

    convolutions = _foldable(model)
    batchnorms = {id(batchnorm) for batchnorm in convolutions.values()}

    def call(layer: Any, *inputs: Any, **more: Any) -> Any:
        if id(layer) in batchnorms:
            return inputs[0]  # the convolution before has done it
        if batchnorm := convolutions.get(layer):
            return _layer(layer, batchnorm)(*inputs)
        return layer(*inputs, **more)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _foldable(model: Any) -> dict[Any, Any]:
    """The convolutions of a model that a frozen BatchNorm can be folded into, each with that."""
    import keras

    operations = {id(operation) for operation in model.operations}
    users: dict[int, set[int]] = {}
    for operation in model.operations:
        for node in operation._inbound_nodes:  # also those of other models that share its layers
            for parent in node.parent_nodes:
                users.setdefault(id(parent.operation), set()).add(id(operation))
    outputs = {id(tensor._keras_history.operation) for tensor in model.outputs}
    found = {}
    for layer in model.layers:
        if not isinstance(layer, keras.layers.BatchNormalization) or layer.trainable:
            continue
        below = layer._inbound_nodes[0].parent_nodes[0].operation
        if (
            type(below) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
            and id(below) in operations
            and users[id(below)] == {id(layer)}
            and id(below) not in outputs
            and below.activation is keras.activations.linear
            and getattr(below, "groups", 1) == 1
            and below.data_format == "channels_last"
            and layer.axis in (-1, 3)
        ):
            found[below] = layer
    return found


def _layer(convolution: Any, batchnorm: Any) -> Any:
    """A layer that does what a convolution and the BatchNorm above it do."""
    import keras
    from keras import ops

    class Folded(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name=f"{convolution.name}_folded", dtype=convolution.dtype_policy)
            self.convolution, self.batchnorm = convolution, batchnorm

        def call(self, x: Any) -> Any:
            factor = ops.rsqrt(batchnorm.moving_variance + batchnorm.epsilon)
            if batchnorm.scale:
                factor = factor * batchnorm.gamma
            bias = -batchnorm.moving_mean * factor
            if batchnorm.center:
                bias = bias + batchnorm.beta
            if convolution.use_bias:
                bias = bias + convolution.bias * factor
            return self._convolve(x, factor) + ops.cast(bias, x.dtype)

        def _convolve(self, x: Any, factor: Any) -> Any:
            options = (convolution.strides, convolution.padding, "channels_last", convolution.dilation_rate)
            kernel = convolution.kernel
            if isinstance(convolution, keras.layers.DepthwiseConv2D):
                weights = ops.cast(kernel * ops.reshape(factor, (1, 1, *kernel.shape[2:])), x.dtype)
                return ops.depthwise_conv(x, weights, *options)
            weights = ops.cast(kernel * factor, x.dtype)
            if kernel.shape[:2] == (1, 1) and convolution.strides == (1, 1):
                product = ops.matmul(ops.reshape(x, (-1, kernel.shape[2])), weights[0, 0])
                return ops.reshape(product, (-1, *x.shape[1:3], kernel.shape[3]))
            return ops.conv(x, weights, *options)

    return Folded()
