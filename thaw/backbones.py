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

from thaw.artifacts import PROJECT, fingerprint, workspace
from thaw.config import Backbone
from thaw.errors import UserError

BUNDLED = PROJECT / "weights" / "thaw_mobilenet_v2_035.weights.h5"
BUNDLED_SHA256 = "223ff0010275fd99e7d176c73cbfca4bef0e4c6aa0b7ccd864f1f351d7ce65d3"

PREPROCESSING, POOLING = "preprocessing", "pooling"


@dataclass(frozen=True)
class Architecture:
    """What is particular about one family of ``keras.applications``.

    Attributes:
        builder: its name there.
        scale, offset: its preprocessing, ``pixel * scale + offset`` for pixels of 0–255.
        width: the number of bottleneck features, from the width multiplier.
        blocks: the first layer of each block, from the output to the input.
    """

    builder: str
    scale: float
    offset: float
    width: Callable[[float], int]
    blocks: tuple[str, ...]


ARCHITECTURES = {
    # Sandler et al. 2018, https://arxiv.org/abs/1801.04381; the last convolution is not narrowed below 1280 channels.
    "mobilenet_v2": Architecture(
        builder="MobileNetV2",
        scale=1 / 127.5,
        offset=-1.0,
        width=lambda alpha: int(1280 * max(alpha, 1.0)),
        blocks=("Conv_1", *(f"block_{n}_expand" for n in range(16, 0, -1)), "expanded_conv_depthwise", "Conv1"),
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
            bottleneck features.
    """

    backbone: Backbone
    operation: int | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of all that the outputs depend on; needs no TensorFlow."""
        return fingerprint(
            self.backbone.model_copy(update={"weights": weights_id(self.backbone.weights)}),
            self.operation,
            Path(__file__),
            version("keras"),
            version("pillow"),
            version({"openvino": "openvino", "tensorflow": "keras"}[self.backbone.engine]),
        )

    def build(self) -> Any:
        """Build it as a Keras model: images (batch × size × size × 3, uint8) → outputs (float32)."""
        import keras

        whole = network(self.backbone)
        last = whole.get_layer(POOLING) if self.operation is None else whole.operations[self.operation]
        return keras.Model(whole.input, last.output)


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
    scaled = keras.layers.Rescaling(facts.scale, facts.offset, name=PREPROCESSING)(image)
    build = getattr(keras.applications, facts.builder)
    try:
        base = build(
            alpha=backbone.alpha,
            include_top=False,
            input_tensor=scaled,
            weights="imagenet" if backbone.weights == "imagenet" else None,
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
    pooled = keras.layers.GlobalAveragePooling2D(name=POOLING)(base.output)
    return keras.Model(image, pooled, name=backbone.network)


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
