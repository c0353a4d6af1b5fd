"""Backbones: networks with their weights, built from the table of architectures, and where they can be cut.

Every network here is one flat Keras graph from the raw image to its output::

    image (uint8) → preprocessing → backbone → pooling (bottleneck features) → dropout → Dense (logits)

so that a picture is prepared in the same way wherever it is used, and the graph can be cut anywhere.
"""

import hashlib
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from thaw.architectures import ARCHITECTURES, DEVIATION, Preprocessing
from thaw.artifacts import PROJECT, fingerprint, workspace
from thaw.config import Backbone, Unfreeze
from thaw.errors import UserError
from thaw.machine import has_gpu

BUNDLED = PROJECT / "weights" / "thaw_mobilenet_v2_035.weights.h5"
BUNDLED_SHA256 = "223ff0010275fd99e7d176c73cbfca4bef0e4c6aa0b7ccd864f1f351d7ce65d3"

PREPROCESSING, POOLING = "preprocessing", "pooling"


def weights_id(weights: str) -> str:
    """Say which weights a configuration means, by content: part of every fingerprint, found without TensorFlow.

    Raises:
        UserError: the file is missing, or the bundled one is not what was shipped.
    """
    if weights == "imagenet":
        return f"imagenet of keras {version('keras')}"  # Keras checks what it downloads
    if weights == "random":
        return "random"
    path = weights_path(weights)
    if not path.is_file():
        raise UserError(
            f"weights: expected imagenet, bundled, random or a weights file, found no file {path}; correct the path"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if weights == "bundled" and found != BUNDLED_SHA256:
        raise UserError(
            f"weights: expected {path.name} with sha256 {BUNDLED_SHA256[:12]}…, found {found[:12]}…; "
            f"restore it with 'git checkout -- weights'"
        )
    return f"sha256 {found}"


def weights_path(weights: str) -> Path:
    """The file that holds ``weights``; a relative path is looked up in the project."""
    return BUNDLED if weights == "bundled" else workspace() / Path(weights).expanduser()


def weights_at_hand(weights: str, network: str, alpha: float) -> bool:
    """Whether weights are on this machine: shipped, in a file, or downloaded by Keras before."""
    if weights != "imagenet":
        return weights_path(weights).is_file()
    home = Path(os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser())  # as Keras has it
    return network in ARCHITECTURES and (home / "models" / ARCHITECTURES[network].weights_file(alpha)).is_file()


@dataclass(frozen=True)
class FrozenNetwork:
    """A network that will not be trained: a backbone from the image up to one of its operations.

    Attributes:
        backbone: the configuration.
        operation: the place of its last operation in ``network``; None is the pooling layer, so that the output is the
            bottleneck features. A backbone with ``keep_blocks`` then has a second output, in the same pass: what stands
            below its last so many blocks, which is where fine-tuning those will go on.
        statistics: a file of BatchNorm statistics to use in the place of its own, see ``thaw.adaptation``.
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
        known = {"weights": weights_id(self.backbone.weights), "engine": self.engine, "cache_limit_gb": 0.0}
        if self.operation is not None:  # below any pooling
            known |= {"pooling": "avg", "keep_blocks": 0}
        return fingerprint(
            self.backbone.model_copy(update=known),
            self.operation,
            self.statistics,
            Path(__file__),
            repr(ARCHITECTURES.get(self.backbone.network)),
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
        outputs = [last.output]
        if self.outputs == 2:
            outputs.append(whole.operations[kept_operation(whole, self.backbone)].output)
        return keras.Model(whole.input, outputs)


def kept_operation(model: Any, backbone: Backbone) -> int | None:
    """The place in ``model.operations`` of what ``keep_blocks`` keeps; None if it keeps nothing."""
    if not backbone.keep_blocks:
        return None
    return cut(model, first_layer(model, backbone, Unfreeze(blocks=backbone.keep_blocks)))


def network(backbone: Backbone, statistics: Path | None = None) -> Any:
    """Build image → preprocessing → backbone → pooling as one flat Keras model, with its weights.

    Args:
        backbone: the configuration.
        statistics: see ``FrozenNetwork``.

    Raises:
        UserError: the weights cannot be had or do not fit.
    """
    import keras

    if backbone.custom:
        preprocessing = Preprocessing(backbone.custom.scale, backbone.custom.offset)
    else:
        preprocessing = ARCHITECTURES[backbone.network].preprocessing
    image = keras.Input((backbone.input_size, backbone.input_size, 3), dtype="uint8", name="image")
    channels = keras.ops.flip(image, axis=-1) if preprocessing.bgr else image
    scaled = keras.layers.Rescaling(preprocessing.scale, preprocessing.offset, name=PREPROCESSING)(channels)
    maps = _custom(backbone, scaled) if backbone.custom else _application(backbone, scaled)
    whole = keras.Model(image, _pooled(maps, backbone.pooling), name=backbone.network)
    if statistics:
        with np.load(statistics) as known:
            for place, layer in enumerate(batchnorms(whole)):
                layer.moving_mean.assign(known[f"mean_{place}"])
                layer.moving_variance.assign(known[f"variance_{place}"])
    return whole


def batchnorms(model: Any) -> list[Any]:
    """Its BatchNorm layers, in the order of ``model.layers`` (some architectures give them no names of their own)."""
    import keras

    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


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
        _load_weights(base, backbone)
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
    weights_id(backbone.weights)  # exists
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
    last = model.get_layer(backbone.custom.feature_layer)._inbound_nodes[-1].output_tensors[0]
    features = _flat(keras.Model(model.inputs, last), scaled)
    if len(features.shape) not in (2, 4):
        raise UserError(
            f"custom.feature_layer: expected a layer that gives features or feature maps, found the shape "
            f"{features.shape} at {backbone.custom.feature_layer!r}; name another one"
        )
    return features


def _flat(model: Any, tensor: Any) -> Any:
    """Apply a model so that its layers, and those of models inside it, stand in the graph themselves."""
    import keras

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        return _flat(layer, *arguments) if isinstance(layer, keras.Model) else layer(*arguments, **options)

    functional = getattr(model, "_functional", None) or model  # a Sequential has one inside
    (output,) = keras.tree.flatten(functional._run_through_graph(tensor, operation_fn=lambda one: one, call_fn=call))
    for layer in model.layers:
        layer.trainable = True  # until fine-tuning says what stays frozen
    return output


def _pooled(maps: Any, pooling: str) -> Any:
    """From feature maps to features; what has no height and width any more is taken as it is."""
    from keras import layers

    average, maximum = layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D
    if len(maps.shape) == 2:
        return layers.Identity(name=POOLING)(maps)
    if pooling == "avg+max":
        both = [average(name=f"{POOLING}_avg")(maps), maximum(name=f"{POOLING}_max")(maps)]
        return layers.Concatenate(name=POOLING)(both)
    return {"avg": average, "max": maximum, "flatten": layers.Flatten}[pooling](name=POOLING)(maps)


def span(model: Any) -> tuple[int, int]:
    """Where the backbone is in ``model.layers``: the places of its first layer, and of the first one above it."""
    names = [layer.name for layer in model.layers]
    above = next(place for place, name in enumerate(names) if name.startswith(POOLING))
    return names.index(PREPROCESSING) + 1, above


def blocks(backbone: Backbone) -> tuple[str, ...]:
    """The names that ``first_layer`` finds blocks by, from the output to the input."""
    if backbone.custom:
        return tuple(backbone.custom.blocks)
    return ARCHITECTURES[backbone.network].blocks


def first_layer(model: Any, backbone: Backbone, top: Unfreeze) -> int:
    """Find where the top of a network begins: the place in ``model.layers`` of its first layer.

    Raises:
        UserError: more layers or blocks are wanted than there are.
    """
    first, above = span(model)
    if top.all:
        return first
    if top.layers is not None:
        if top.layers > above - first:
            raise UserError(
                f"unfreeze.layers: expected at most {above - first} for {backbone.network}, found {top.layers}; "
                f"lower it"
            )
        return above - top.layers
    assert top.blocks is not None  # Unfreeze holds exactly one of them
    named = blocks(backbone)
    if top.blocks > len(named):
        raise UserError(
            f"unfreeze.blocks: expected at most {len(named)} for {backbone.network}, found {top.blocks}; lower it"
        )
    block, names = named[top.blocks - 1], [layer.name for layer in model.layers]
    if block not in names:
        raise UserError(
            f"custom.blocks: expected names of layers, found {block!r}, which the network has not; correct it"
        )
    below = not backbone.custom and ARCHITECTURES[backbone.network].below
    return names.index(block) + (1 if below else 0)


def cut(model: Any, first: int, batchnorm: bool = False) -> int:
    """Find where a network can be split below a layer: nothing that is trained is below, all that is is above.

    The cut is the last operation below the first layer with weights whose output is the only tensor still in use. The
    graph's operations are walked, not its layers: some architectures hold operations that are no layers.

    Args:
        model: the network.
        first: the place in ``model.layers`` of the first layer that may be trained.
        batchnorm: whether BatchNorm layers are trained too.

    Returns:
        The place of that operation in ``model.operations``.
    """
    import keras

    operations = model.operations
    place = {id(operation): index for index, operation in enumerate(operations)}
    last_use: dict[int, int] = {}
    for index, operation in enumerate(operations):
        for node in operation._inbound_nodes:
            for parent in node.parent_nodes:
                source = place.get(id(parent.operation))
                if source is not None:
                    last_use[source] = max(index, last_use.get(source, 0))
    # Not by what is trainable now: where a network can be cut does not depend on what has been frozen.
    never = keras.layers.Normalization if batchnorm else (keras.layers.Normalization, keras.layers.BatchNormalization)
    trained = next(place[id(layer)] for layer in model.layers[first:] if layer.weights and not isinstance(layer, never))
    return max(index for index in range(trained) if all(last_use.get(earlier, 0) <= index for earlier in range(index)))


def _load_weights(base: Any, backbone: Backbone) -> None:
    """Load a weights file into the headless backbone, all of it or not at all."""
    import keras

    weights_id(backbone.weights)  # exists, and is what was shipped
    path = weights_path(backbone.weights)
    try:
        if path.suffix == ".keras":
            stored = keras.models.load_model(path, compile=False, safe_mode=True).get_weights()
            if [w.shape for w in stored] != [w.shape for w in base.get_weights()]:
                raise ValueError(
                    f"{len(stored)} arrays where the network has {len(base.get_weights())}, or other shapes"
                )
            base.set_weights(stored)
        else:
            base.load_weights(str(path))
    except (ValueError, KeyError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"weights: expected weights of {ARCHITECTURES[backbone.network].builder} (alpha {backbone.alpha}, without "
            f"its top) as .weights.h5, .h5 or .keras, found {path.name}, which does not fit: {reason}; "
            f"correct 'weights:', 'alpha:' or 'network:'"
        ) from error
