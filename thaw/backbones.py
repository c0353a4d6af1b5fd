"""Pretrained backbones: the facts about each architecture in one table, and the networks built from them.

Every network here is one flat Keras graph from the raw image to its output::

    image (uint8) → preprocessing → backbone → pooling (bottleneck features) → dropout → Dense (logits)

so that a picture is prepared in the same way wherever it is used, and the graph can be cut anywhere.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from thaw.artifacts import PROJECT, fingerprint, workspace
from thaw.config import WITH_ALPHA, Backbone, Unfreeze
from thaw.errors import UserError
from thaw.machine import has_gpu

BUNDLED = PROJECT / "weights" / "thaw_mobilenet_v2_035.weights.h5"
BUNDLED_SHA256 = "223ff0010275fd99e7d176c73cbfca4bef0e4c6aa0b7ccd864f1f351d7ce65d3"

PREPROCESSING, POOLING = "preprocessing", "pooling"


@dataclass(frozen=True)
class Architecture:
    """What is particular about one family of ``keras.applications``.

    Attributes:
        builder: its name there.
        width: the number of bottleneck features, from the width multiplier.
        blocks: the first layer of each block, from the output to the input.
        scale, offset: its preprocessing, ``pixel * scale + offset`` for pixels of 0–255; an offset for each channel,
            or one for all. The defaults are for families that do it themselves.
        bgr: whether it was trained on blue, green, red.
    """

    builder: str
    width: Callable[[float], int]
    blocks: tuple[str, ...]
    scale: float = 1.0
    offset: float | tuple[float, float, float] = 0.0
    bgr: bool = False


IMAGENET_MEAN_BGR = (-103.939, -116.779, -123.68)  # subtracted
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)  # red, green, blue, of 1

ARCHITECTURES = {
    # Sandler et al. 2018, https://arxiv.org/abs/1801.04381; the last convolution is not narrowed below 1280 channels.
    "mobilenet_v2": Architecture(
        builder="MobileNetV2",
        width=lambda alpha: int(1280 * max(alpha, 1.0)),
        blocks=("Conv_1", *(f"block_{n}_expand" for n in range(16, 0, -1)), "expanded_conv_depthwise", "Conv1"),
        scale=1 / 127.5,
        offset=-1.0,
    ),
    # Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556
    "vgg16": Architecture(
        builder="VGG16",
        width=lambda _: 512,
        blocks=tuple(f"block{n}_conv1" for n in range(5, 0, -1)),
        offset=IMAGENET_MEAN_BGR,
        bgr=True,
    ),
    # He et al. 2015, https://arxiv.org/abs/1512.03385
    "resnet50": Architecture(
        builder="ResNet50",
        width=lambda _: 2048,
        blocks=(
            *(f"conv{n}_block{m}_1_conv" for n, units in ((5, 3), (4, 6), (3, 4), (2, 3)) for m in range(units, 0, -1)),
            "conv1_conv",
        ),
        offset=IMAGENET_MEAN_BGR,
        bgr=True,
    ),
    # Tan and Le 2019, https://arxiv.org/abs/1905.11946
    "efficientnet_b0": Architecture(
        builder="EfficientNetB0",
        width=lambda _: 1280,
        blocks=(
            "top_conv",
            *(
                f"block{n}{unit}_expand_conv"
                for n, units in ((7, "a"), (6, "dcba"), (5, "cba"), (4, "cba"), (3, "ba"), (2, "ba"))
                for unit in units
            ),
            "block1a_dwconv",
            "stem_conv",
        ),
    ),
}


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


@dataclass(frozen=True)
class FrozenNetwork:
    """A network that will not be trained: a backbone from the image up to one of its operations.

    Attributes:
        backbone: the configuration.
        operation: the place of its last operation in ``network``; None is the pooling layer, so that the output is the
            bottleneck features. A backbone with ``keep_blocks`` then has a second output, in the same pass: what stands
            below its last so many blocks, which is where fine-tuning those will go on.
    """

    backbone: Backbone
    operation: int | None = None

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
        return fingerprint(
            self.backbone.model_copy(update=known),
            self.operation,
            Path(__file__),
            version("keras"),
            version("pillow"),
            version({"openvino": "openvino", "tensorflow": "keras"}[self.engine]),
        )

    @classmethod
    def below(cls, model: Any, operation: int, backbone: Backbone) -> tuple["FrozenNetwork", int]:
        """Find the network, and the place among its outputs, for what a model computes up to an operation."""
        if operation == kept_operation(model, backbone):
            return cls(backbone), 1
        return cls(backbone, operation), 0

    def build(self) -> Any:
        """Build it as a Keras model: images (batch × size × size × 3, uint8) → its outputs (float32)."""
        import keras

        whole = network(self.backbone)
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


def network(backbone: Backbone) -> Any:
    """Build image → preprocessing → backbone → pooling as one flat Keras model, with its weights.

    Raises:
        UserError: the weights cannot be had or do not fit.
    """
    import keras

    facts = ARCHITECTURES[backbone.network]
    if backbone.weights == "random":
        keras.utils.set_random_seed(0)  # the same random network every time, as the others are the same
    image = keras.Input((backbone.input_size, backbone.input_size, 3), dtype="uint8", name="image")
    channels = keras.ops.flip(image, axis=-1) if facts.bgr else image
    scaled = keras.layers.Rescaling(facts.scale, facts.offset, name=PREPROCESSING)(channels)
    build = getattr(keras.applications, facts.builder)
    try:
        base = build(
            include_top=False,
            input_tensor=scaled,
            weights="imagenet" if backbone.weights == "imagenet" else None,
            **({"alpha": backbone.alpha} if backbone.network in WITH_ALPHA else {}),
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
            layer.set_weights([mean, variance * np.array(IMAGENET_DEVIATION, np.float32), count])
            layer.finalize_state()
    pooled = keras.layers.GlobalAveragePooling2D(name=POOLING)(base.output)
    return keras.Model(image, pooled, name=backbone.network)


def first_layer(model: Any, backbone: Backbone, top: Unfreeze) -> int:
    """Find where the top of a network begins: the place in ``model.layers`` of its first layer.

    Raises:
        UserError: more layers or blocks are wanted than there are.
    """
    names = [layer.name for layer in model.layers]
    if top.layers is not None:
        first = names.index(PREPROCESSING) + 1
        most = names.index(POOLING) - first
        if top.layers > most:
            raise UserError(
                f"unfreeze.layers: expected at most {most} for {backbone.network}, found {top.layers}; lower it"
            )
        return first + most - top.layers
    assert top.blocks is not None  # Unfreeze holds exactly one of both
    blocks = ARCHITECTURES[backbone.network].blocks
    if top.blocks > len(blocks):
        raise UserError(
            f"unfreeze.blocks: expected at most {len(blocks)} for {backbone.network}, found {top.blocks}; lower it"
        )
    return names.index(blocks[top.blocks - 1])


def cut(model: Any, first: int) -> int:
    """Find where a network can be split below a layer: nothing that is trained is below, all that is is above.

    The cut is the last operation below the first layer with weights whose output is the only tensor still in use. The
    graph's operations are walked, not its layers: some architectures hold operations that are no layers.

    Args:
        model: the network.
        first: the place in ``model.layers`` of the first layer that may be trained.

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
    trained = next(
        place[id(layer)]
        for layer in model.layers[first:]
        if layer.weights and not isinstance(layer, keras.layers.BatchNormalization)
    )
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
