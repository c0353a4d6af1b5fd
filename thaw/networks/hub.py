"""Backbones of KerasHub: what sees in a preset, taken apart into its blocks, with the pixels that it was trained on.

A transformer's encoder is one layer in KerasHub's graph. Run layer by layer it is the same function, and then the graph
can be cut below every block, as those of ``keras.applications`` can.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thaw.architectures import FAMILIES, HUB, SEQUENCES, STAGED, Family, Preprocessing, named
from thaw.config.schema import Backbone
from thaw.config.wording import nearest
from thaw.errors import UserError
from thaw.networks.cutting import flat
from thaw.networks.weights import preset_folder


@dataclass(frozen=True)
class Preset:
    """A preset of KerasHub, loaded.

    Attributes:
        name: of the preset, or its folder's.
        model: KerasHub's backbone, with its weights.
        family: what is particular about it.
        preprocessing: of the pixels, as its own image converter has it.
    """

    name: str
    model: Any
    family: Family
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Seen:
    """What a preset's network says of an image, before any pooling.

    Attributes:
        maps: feature maps, which tokens of patches are as well; or an embedding, which needs no pooling.
        token: the class token, if there is one.
    """

    maps: Any
    token: Any = None


def load(backbone: Backbone) -> Preset:
    """Load the preset that ``weights`` names: of this machine, or downloaded by KerasHub.

    Raises:
        UserError: there is no KerasHub or no such preset, it cannot be had, or it does not see.
    """
    import keras

    try:
        import keras_hub
        from keras_hub.src.utils.preset_utils import get_preset_loader
    except ImportError as error:
        raise UserError(
            f"network: expected the package keras-hub for 'network: hub', found none ({error}); "
            f"pip install '.[hub]', in the project's folder"
        ) from error
    folder = preset_folder(backbone.weights)
    preset = str(folder or backbone.weights)
    try:
        size = (backbone.input_size, backbone.input_size, 3)
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
        pixels = _pixels(converter) if converter else _of_transformers(preset)
        family = FAMILIES.get(get_preset_loader(preset).check_backbone_class().__name__, Family())
        sized = {"image_shape": size} if family.resizes else {}
        policy = keras.config.dtype_policy().name
        model = keras_hub.models.Backbone.from_preset(preset, dtype=policy, **sized)
    except Exception as error:  # of Kaggle, of Hugging Face, of HTTP, of HDF5, of Keras, and bare ones
        reason = " ".join(str(error).split())[:300]
        known = sorted(keras_hub.models.Backbone.presets)
        if folder:
            raise UserError(
                f"weights: expected a preset of KerasHub for images in {folder}, found: {reason}; "
                f"a preset is what save_to_preset writes of a backbone and of its image converter"
            ) from error
        if "://" not in preset and preset not in known:
            raise UserError(
                f"weights: expected a preset of KerasHub, its handle (kaggle://…, hf://…) or its folder, found "
                f"{preset!r}{nearest(preset, known)}; correct it"
            ) from error
        raise UserError(
            f"weights: expected to download the preset {preset}, found: {reason}; connect to the network and accept "
            f"its licence, if it asks for that, or fetch its files elsewhere, from {_page(preset)}, and set 'weights:' "
            f"to their folder"
        ) from error
    return Preset(named({"network": HUB, "weights": backbone.weights}), model, family, pixels)


def _pixels(converter: Any) -> Preprocessing:
    """What a preset's image converter does to pixels."""
    return Preprocessing(_channels(converter.scale, 1), _channels(converter.offset, 0))


def _of_transformers(preset: str) -> Preprocessing:
    """The same, for a checkpoint of ``transformers``, whose own file says it: (rescaled - mean) / deviation."""
    from keras_hub.src.utils.preset_utils import get_file

    facts = json.loads(Path(get_file(preset, "preprocessor_config.json")).read_text(encoding="utf-8"))
    rescaled = facts["rescale_factor"] if facts.get("do_rescale", True) else 1
    both = (
        zip(facts["image_mean"], facts["image_std"], strict=True) if facts.get("do_normalize", True) else [(0, 1)] * 3
    )
    offset, scale = zip(*((-mean / deviation, rescaled / deviation) for mean, deviation in both), strict=True)
    return Preprocessing(scale, offset)


def _channels(value: Any, default: float) -> Any:
    """A number for all channels, or one for each."""
    if value is None:
        return float(default)
    return tuple(float(one) for one in value) if isinstance(value, list | tuple) else float(value)


def _page(preset: str) -> str:
    """Where people find a preset and its licence."""
    import keras_hub

    handle = str(keras_hub.models.Backbone.presets.get(preset, {}).get("kaggle_handle", preset))
    scheme, _, path = handle.partition("://")
    return {"kaggle": "https://www.kaggle.com/models/", "hf": "https://huggingface.co/"}.get(scheme, "") + path


def apply(preset: Preset, scaled: Any, pooling: str) -> Seen:
    """Continue with a preset's network, layer by layer.

    Args:
        preset: the network.
        scaled: images, as it takes them: batch × size × size × 3.
        pooling: ``embedding`` asks for what its family shares with texts.

    Raises:
        UserError: it does not take images of this size, or has no such output.
    """
    import keras

    family, vision = preset.family, preset.model
    if family.vision:
        vision = getattr(vision, family.vision)
    if len(vision.inputs) != 1:
        raise UserError(
            f"weights: expected a network that takes images alone, found {preset.name}; take another preset"
        )
    size, wanted = scaled.shape[1], vision.inputs[0].shape[1]
    if wanted not in (None, size):
        raise UserError(
            f"input_size: expected {wanted} pixels, which {preset.name} was trained with, found {size}; correct it"
        )
    if pooling == "embedding":
        return Seen(_embedding(preset, vision, scaled))
    if family.tokens:
        vision = keras.Model(vision.inputs, getattr(vision, family.tokens).output)
    seen = _unrolled(vision, scaled)
    if pooling in ("token", "token+avg") and (len(seen.shape) != 3 or not family.class_tokens):
        raise UserError(
            f"pooling: expected one that needs no class token, found {pooling}: {preset.name} has none; set avg"
        )
    if len(seen.shape) != 3:
        return Seen(seen)
    above = family.class_tokens + getattr(vision, "num_register_tokens", 0)
    side = math.isqrt(seen.shape[1] - above)
    maps = keras.layers.Reshape((side, side, seen.shape[2]), name="patches")(seen[:, above:])
    return Seen(maps, seen[:, 0] if family.class_tokens else None)


def _embedding(preset: Preset, vision: Any, scaled: Any) -> Any:
    """The embedding that images and texts share."""
    if preset.family.embedding is None:
        raise UserError(
            f"pooling: expected avg, max or the like, found embedding: {preset.name} has none, which networks for "
            f"images and texts have; correct it"
        )
    embedding = _unrolled(vision, scaled)
    for name in preset.family.embedding:
        embedding = getattr(preset.model, name)(embedding)
    return embedding


def _unrolled(model: Any, tensor: Any) -> Any:
    """Apply a model so that each of its blocks is a layer of the graph; the last output counts."""
    import keras

    blocks = 0

    def run(layer: Any, x: Any, **options: Any) -> Any:
        nonlocal blocks
        kind = type(layer).__name__
        if kind.endswith("RopePositionEmbedding"):  # says where patches are, the same for all images: no part of a cut
            return keras.tree.map_structure(keras.ops.convert_to_numpy, layer(keras.ops.zeros((1, *tensor.shape[1:]))))
        if kind == "SigLIPVisionEmbedding":  # says that it gives a token more than it does
            return layer(x, **options)[:, -layer.num_positions :]
        if kind not in SEQUENCES:
            return layer(x, **options)
        if kind == "DeiTEncoder":  # its blocks would return None as well, which a graph cannot hold
            options = {"return_attention_scores": True}
        states = [x]
        for name in SEQUENCES[kind]:
            part = getattr(layer, name)
            if isinstance(part, list):
                for one in part:
                    if type(one).__name__ not in SEQUENCES:
                        blocks += 1
                        one.name, one.trainable = f"block_{blocks}", True
                    states.append(keras.tree.flatten(run(one, states[-1], **options))[0])
            elif part is not None:
                part.name, part.trainable = f"{layer.name}_{part.name}", True
                how = dict(zip("HW", layer.input_resolution, strict=True)) if name == "downsample" else {}
                states.append(part(states[-1], **how))
        return tuple(states) if kind in STAGED else states[-1]

    return flat(model, tensor, run)
