"""Presets of KerasHub, tiny and random, written as KerasHub writes them: a family each."""

import io
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE = 64  # pixels
SCALE, OFFSET = [1 / 127.5, 1 / 120, 1 / 110], [-1.0, -0.9, -1.1]
IMAGE = (SIDE, SIDE, 3)
TRANSFORMER = {"num_layers": 3, "hidden_dim": 32, "num_heads": 2}


def _resnet(models: Any) -> Any:
    return models.ResNetBackbone(
        input_conv_filters=[16, 16, 64],
        input_conv_kernel_sizes=[3, 3, 3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[2, 1],
        stackwise_num_strides=[1, 2],
        block_type="bottleneck_block_vd",
    )


def _efficientnet(models: Any) -> Any:
    return models.EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3, 5],
        stackwise_num_repeats=[1, 2, 2],
        stackwise_input_filters=[16, 8, 8],
        stackwise_output_filters=[8, 8, 16],
        stackwise_expansion_ratios=[1, 6, 6],
        stackwise_squeeze_and_excite_ratios=[0.25] * 3,
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=["v1"] * 3,
        stackwise_width_coefficients=[1.0] * 3,
        stackwise_depth_coefficients=[1.0] * 3,
    )


def _mobilenet(models: Any) -> Any:
    return models.MobileNetBackbone(
        stackwise_expansion=[[40, 56], [64, 144]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[16, 16], [24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [1, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=64,
        input_num_filters=16,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=32,
        squeeze_and_excite=0.5,
        image_shape=IMAGE,
    )


def _hgnet(models: Any) -> Any:
    return models.HGNetV2Backbone(
        depths=[1, 2],
        embedding_size=16,
        hidden_sizes=[32, 64],
        stem_channels=[3, 8, 16],
        hidden_act="relu",
        use_learnable_affine_block=False,
        stackwise_stage_filters=[[16, 16, 32, 1, 2, 3], [32, 16, 64, 2, 2, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, True],
        image_shape=IMAGE,
    )


def _towers(models: Any, kind: str) -> Any:
    """A network for images and texts; KerasHub offers its towers only together."""
    vision = {"patch_size": 16, "intermediate_dim": 64, "image_shape": IMAGE, **TRANSFORMER}
    text = {
        "vocabulary_size": 64,
        "embedding_dim": 32,
        "intermediate_dim": 64,
        "max_sequence_length": 32,
        **TRANSFORMER,
    }
    if kind == "clip":
        from keras_hub.src.models.clip.clip_text_encoder import CLIPTextEncoder
        from keras_hub.src.models.clip.clip_vision_encoder import CLIPVisionEncoder

        return models.CLIPBackbone(CLIPVisionEncoder(**vision), CLIPTextEncoder(**text), projection_dim=24)
    from keras_hub.src.models.siglip.siglip_text_encoder import SigLIPTextEncoder
    from keras_hub.src.models.siglip.siglip_vision_encoder import SigLIPVisionEncoder

    return models.SigLIPBackbone(SigLIPVisionEncoder(**vision), SigLIPTextEncoder(**text))


def clip_tokenizer(tokenizers: Any) -> Any:
    """Letters, of which the last of a word is another one, and the word "cat"; CLIP's end has the highest number."""
    letters = string.ascii_lowercase
    tokens = [
        *letters,
        *(f"{one}</w>" for one in letters),
        ".</w>",
        "ca",
        "cat</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    tokenizer = tokenizers.CLIPTokenizer()
    # Given to it, they would be lost: see thaw.networks.texts.
    tokenizer.vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer.merges = ["c a", "ca t</w>"]
    return tokenizer


def siglip_tokenizer(tokenizers: Any) -> Any:
    """What SentencePiece learns from a few sentences, with the first SigLIP's only special token."""
    proto = _pieces(eos_id=0, eos_piece="</s>", unk_id=1, pad_id=-1, bos_id=-1)
    return tokenizers.SigLIPTokenizer(proto=proto, add_eos=True)


def siglip2_tokenizer(tokenizers: Any) -> Any:
    """The same with those of Gemma, which SigLIP 2 has."""
    special = {"pad_id": 0, "pad_piece": "<pad>", "eos_id": 1, "eos_piece": "<eos>", "bos_id": 2, "bos_piece": "<bos>"}
    return tokenizers.GemmaTokenizer(proto=_pieces(unk_id=3, **special))


def _pieces(**special: Any) -> bytes:
    import sentencepiece

    sentences = [f"a photo of a {one} {two}" for one in ("cat", "dog", "green") for two in string.ascii_lowercase]
    learnt = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=learnt, vocab_size=32, minloglevel=2, **special
    )
    return learnt.getvalue()


TOKENIZERS: dict[str, Callable[[Any], Any]] = {"clip": clip_tokenizer, "siglip": siglip_tokenizer}
PRESETS: dict[str, Callable[[Any], Any]] = {
    "dinov2": lambda models: models.DINOV2Backbone(
        patch_size=16,
        intermediate_dim=64,
        num_register_tokens=2,
        image_shape=(96, 96, 3),
        position_embedding_shape=(96, 96, 3),
        **TRANSFORMER,
    ),
    "dinov3": lambda models: models.DINOV3Backbone(
        patch_size=16, intermediate_dim=64, num_register_tokens=2, image_shape=(96, 96, 3), **TRANSFORMER
    ),
    "vit": lambda models: models.ViTBackbone(image_shape=IMAGE, patch_size=16, mlp_dim=64, **TRANSFORMER),
    "deit": lambda models: models.DeiTBackbone(image_shape=IMAGE, patch_size=16, intermediate_dim=64, **TRANSFORMER),
    "clip": lambda models: _towers(models, "clip"),
    "siglip": lambda models: _towers(models, "siglip"),
    "swin": lambda models: models.SwinTransformerBackbone(
        image_shape=IMAGE, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4, drop_path=0.0
    ),
    "resnet": _resnet,
    "efficientnet": _efficientnet,
    "mobilenet": _mobilenet,
    "densenet": lambda models: models.DenseNetBackbone(stackwise_num_repeats=[2, 2], growth_rate=8),
    "hgnetv2": _hgnet,
}


def write(family: str, folder: Path) -> Path:
    """Write a preset of a family: backbone, with random weights, image converter and, if it reads, tokenizer."""
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    model = PRESETS[family](keras_hub.models)
    # Where weights start at zero or one, as LayerScale, tokens and statistics do, an error would not be seen.
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(weight + keras.random.normal(weight.shape, stddev=0.05, seed=1) * (1 if weight.ndim else 0))
    kinds = keras_hub.layers.ImageConverter
    converters = {one.backbone_cls: one for one in vars(keras_hub.layers).values() if _converts(one, kinds)}
    converter = converters[type(model)](image_size=(SIDE, SIDE), scale=SCALE, offset=OFFSET)
    model.save_to_preset(str(folder))
    converter.save_to_preset(str(folder))
    if family in TOKENIZERS:
        TOKENIZERS[family](keras_hub.tokenizers).save_to_preset(str(folder))
    return folder


def _converts(one: Any, kinds: Any) -> bool:
    return isinstance(one, type) and issubclass(one, kinds) and one is not kinds and one.backbone_cls is not None


def write_transformers(folder: Path, mean: list[float], deviation: list[float]) -> Path:
    """Write a tiny, random DINOv2 as ``transformers`` does, whose checkpoints KerasHub reads as well."""
    import numpy as np
    from safetensors.numpy import save_file

    width, layers, patch = 32, 2, 16
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, (SIDE // patch) ** 2 + 1, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
    }
    dense = {f"attention.attention.{name}": (width, width) for name in ("query", "key", "value")}
    dense |= {"attention.output.dense": (width, width), "mlp.fc1": (2 * width, width), "mlp.fc2": (width, 2 * width)}
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        for name, shape in dense.items():
            shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "layer_scale1.lambda1"):
            shapes[f"{at}.{name}"] = (width,)
        shapes[f"{at}.layer_scale2.lambda1"] = (width,)
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    tensors = {name: random.normal(scale=0.5, size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, str(folder / "model.safetensors"))
    config = {"model_type": "dinov2", "image_size": SIDE, "patch_size": patch, "num_hidden_layers": layers}
    config |= {"hidden_size": width, "num_attention_heads": 2, "mlp_ratio": 2, "layerscale_value": 1.0}
    config |= {"use_swiglu_ffn": False, "hidden_dropout_prob": 0.0, "drop_path_rate": 0.0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    pixels = {"image_mean": mean, "image_std": deviation, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels), encoding="utf-8")
    return folder
