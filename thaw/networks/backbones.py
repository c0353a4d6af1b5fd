"""Backbones: networks with their weights, built from the table of architectures or a file.

Every network here is one flat Keras graph from the raw image to its output::

    image (uint8) → preprocessing → backbone → pooling (bottleneck features) → dropout → Dense (logits)

so that a picture is prepared in the same way wherever it is used, and the graph can be cut anywhere.
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from thaw.architectures import ARCHITECTURES, DEVIATION, FAMILIES, HUB, SEQUENCES, STAGED, Preprocessing
from thaw.artifacts import fingerprint
from thaw.config.schema import Backbone
from thaw.errors import UserError
from thaw.machine import has_gpu
from thaw.networks import hub
from thaw.networks.cutting import POOLING, PREPROCESSING, flat, kept_operation, output
from thaw.networks.hub import Seen
from thaw.networks.weights import load_weights, weights_id, weights_path

# What a network's outputs depend on, beside the engine.
_CODE = [Path(__file__).with_name(f"{module}.py") for module in ("backbones", "cutting", "hub", "weights")]


@dataclass(frozen=True)
class FrozenNetwork:
    """A network that will not be trained: a backbone from the image up to one of its operations.

    Attributes:
        backbone: the configuration.
        operation: the place of its last operation in ``network``; None is the pooling layer, so that the output is the
            bottleneck features. A backbone with ``keep_blocks`` then has a second output, in the same pass: what stands
            below its last so many blocks, which is where fine-tuning those will go on.
        statistics: a file of BatchNorm statistics to use in the place of its own, see ``adaptation``.
    """

    backbone: Backbone
    operation: int | None = None
    statistics: Path | None = None

    def describe(self, output: int) -> str:
        """Name one of its outputs for people."""
        facts = self.backbone
        part = f"up to operation {self.operation}"
        if self.operation is None:
            part = f"below the last {facts.keep_blocks} blocks" if output else "bottleneck features"
        named = f"{facts.network} {facts.alpha:g}, {facts.input_size} px, {Path(facts.weights).name}"
        return f"{named}, {self.engine} {facts.precision}, {part}"

    @property
    def outputs(self) -> int:
        """How many outputs it has."""
        return 2 if self.operation is None and self.backbone.keep_blocks else 1

    def dtype(self, output: int) -> str:
        """What an output is kept as: whole feature maps are large, and half the precision is enough for a head."""
        return "<f2" if self.operation is None and output == 0 and self.backbone.pooling == "flatten" else "<f4"

    @property
    def engine(self) -> str:
        """What runs it: ``openvino`` or ``tensorflow``."""
        if self.backbone.engine != "auto":
            return self.backbone.engine
        return "tensorflow" if has_gpu() else "openvino"

    @property
    def fingerprint(self) -> str:
        """A hash of all that the outputs depend on; needs no TensorFlow."""
        known = {"weights": weights_id(self.backbone), "engine": self.engine, "cache_limit_gb": 0.0, "prompts": None}
        if self.operation is not None:  # below any pooling
            known |= {"pooling": "avg", "keep_blocks": 0}
        facts = {HUB: (FAMILIES, SEQUENCES, sorted(STAGED)), **ARCHITECTURES}.get(self.backbone.network)
        return fingerprint(
            self.backbone.model_copy(update=known),
            self.operation,
            self.statistics,
            *_CODE,
            repr(facts),
            version("keras"),
            version("pillow"),
            version({"openvino": "openvino", "tensorflow": "keras"}[self.engine]),
        )

    @classmethod
    def below(
        cls, model: Any, operation: int, backbone: Backbone, statistics: Path | None = None
    ) -> tuple["FrozenNetwork", int]:
        """Find the network, and the place among its outputs, for what a model computes up to an operation."""
        if statistics is None and operation == kept_operation(model, backbone):
            return cls(backbone), 1
        return cls(backbone, operation, statistics), 0

    def build(self) -> Any:
        """Build it as a Keras model: images (batch × size × size × 3, uint8) → its outputs (float32)."""
        import keras

        whole = network(self.backbone, self.statistics)
        last = whole.get_layer(POOLING) if self.operation is None else whole.operations[self.operation]
        outputs = [output(whole, last)]
        if self.outputs == 2:
            outputs.append(output(whole, whole.operations[kept_operation(whole, self.backbone)]))
        return keras.Model(whole.input, outputs)


def network(backbone: Backbone, statistics: Path | None = None) -> Any:
    """Build image → preprocessing → backbone → pooling as one flat Keras model, with its weights.

    Args:
        backbone: the configuration.
        statistics: see ``FrozenNetwork``.

    Raises:
        UserError: the weights cannot be had or do not fit.
    """
    import keras

    preset = hub.load(backbone) if backbone.network == HUB else None
    if preset:
        preprocessing = preset.preprocessing
    elif backbone.custom:
        preprocessing = Preprocessing(backbone.custom.scale, backbone.custom.offset)
    else:
        preprocessing = ARCHITECTURES[backbone.network].preprocessing
    image = keras.Input((backbone.input_size, backbone.input_size, 3), dtype="uint8", name="image")
    channels = keras.ops.flip(image, axis=-1) if preprocessing.bgr else image
    scaled = keras.layers.Rescaling(preprocessing.scale, preprocessing.offset, name=PREPROCESSING)(channels)
    if preset:
        seen = hub.apply(preset, scaled, backbone.pooling)
    else:
        seen = Seen(_custom(backbone, scaled) if backbone.custom else _application(backbone, scaled))
    whole = keras.Model(image, _pooled(seen, backbone.pooling), name=backbone.network)
    if statistics:
        with np.load(statistics) as known:
            for place, layer in enumerate(batchnorms(whole)):
                layer.moving_mean.assign(known[f"mean_{place}"])
                layer.moving_variance.assign(known[f"variance_{place}"])
    return whole


def batchnorms(model: Any) -> list[Any]:
    """Its BatchNorm layers, also inside others, in the order of ``model.layers`` (not all have names of their own)."""
    import keras

    return [
        one
        for layer in model.layers
        for one in layer._flatten_layers()
        if isinstance(one, keras.layers.BatchNormalization)
    ]


def _application(backbone: Backbone, scaled: Any) -> Any:
    """Continue with a network of the table; return its last feature maps."""
    import keras

    facts = ARCHITECTURES[backbone.network]
    if backbone.weights == "random":
        keras.utils.set_random_seed(0)  # the same random network every time, as the others are the same
    build = getattr(keras.applications, facts.builder)
    try:
        base = build(
            include_top=False,
            input_tensor=scaled,
            weights="imagenet" if backbone.weights == "imagenet" else None,
            **({"alpha": backbone.alpha} if len(facts.alphas) > 1 else {}),
        )
    except Exception as error:  # keras.utils.get_file raises a bare Exception when it cannot download
        if backbone.weights != "imagenet":
            raise
        raise UserError(
            f"weights: expected to download the ImageNet weights of {facts.builder} (alpha {backbone.alpha}), found: "
            f"{' '.join(str(error).split())}; "
            f"connect to the network, or fetch the file elsewhere and set 'weights:' to its path"
        ) from error
    if backbone.weights not in ("imagenet", "random"):
        load_weights(base, backbone)
        if facts.builder.startswith("EfficientNetB"):
            # With weights="imagenet", and only then, Keras divides by the square root of the deviations once more.
            layer = next(layer for layer in base.layers if isinstance(layer, keras.layers.Normalization))
            mean, variance, count = layer.get_weights()
            layer.set_weights([mean, variance * np.array(DEVIATION, np.float32), count])
            layer.finalize_state()
    return base.output


def _custom(backbone: Backbone, scaled: Any) -> Any:
    """Continue with a user's own network, layer by layer; return the output of its feature layer.

    Raises:
        UserError: the file holds no such network, or it does not take these images.
    """
    import keras

    assert backbone.custom is not None  # the caller has looked
    weights_id(backbone)  # exists
    path = weights_path(backbone.weights)
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        names = [layer.name for layer in model.layers]
        inputs = [tuple(tensor.shape) for tensor in model.inputs]
    except (ValueError, OSError, TypeError, AttributeError) as error:
        raise UserError(
            f"weights: expected a Keras model with layers in {path.name}, found: {' '.join(str(error).split())[:300]}; "
            f"save it with model.save('….keras')"
        ) from error
    wanted = tuple(scaled.shape[1:])
    fits = len(inputs) == 1 and len(inputs[0]) == 4
    if not fits or any(own not in (None, side) for own, side in zip(inputs[0][1:], wanted, strict=True)):
        raise UserError(
            f"input_size: expected {path.name} to take images of {wanted[0]} x {wanted[1]} x 3, found {inputs}; "
            f"correct 'input_size:'"
        )
    if backbone.custom.feature_layer not in names:
        raise UserError(
            f"custom.feature_layer: expected a layer of {path.name}, found {backbone.custom.feature_layer!r}; its last "
            f"ones are {', '.join(names[-5:])}"
        )
    own_names = {PREPROCESSING, POOLING} & {*names}
    if own_names:
        raise UserError(
            f"weights: expected other names for the layers of {path.name} than {', '.join(sorted(own_names))}, which "
            f"thaw uses itself; rename them and save the model again"
        )
    last = output(model, model.get_layer(backbone.custom.feature_layer))
    features = flat(keras.Model(model.inputs, last), scaled)
    if len(features.shape) not in (2, 4):
        raise UserError(
            f"custom.feature_layer: expected a layer that gives features or feature maps, found the shape "
            f"{features.shape} at {backbone.custom.feature_layer!r}; name another one"
        )
    return features


def _pooled(seen: Seen, pooling: str) -> Any:
    """From feature maps to features; what has no height and width any more is taken as it is."""
    from keras import layers

    average, maximum = layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D
    if len(seen.maps.shape) == 2:
        return layers.Identity(name=POOLING)(seen.maps)
    if pooling == "token":
        return layers.Identity(name=POOLING)(seen.token)
    if pooling == "token+avg":
        both = [layers.Identity(name=f"{POOLING}_token")(seen.token), average(name=f"{POOLING}_avg")(seen.maps)]
        return layers.Concatenate(name=POOLING)(both)
    if pooling == "avg+max":
        both = [average(name=f"{POOLING}_avg")(seen.maps), maximum(name=f"{POOLING}_max")(seen.maps)]
        return layers.Concatenate(name=POOLING)(both)
    return {"avg": average, "max": maximum, "flatten": layers.Flatten}[pooling](name=POOLING)(seen.maps)
