"""The facts about each pretrained network in one table: all that a configuration may say, without importing Keras.

Blocks are the repeated units of an architecture, under Keras' names: a residual unit, an inverted bottleneck, a dense
unit, an Inception module. They are listed from the output to the input, as fine-tuning counts them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

HUB = "hub"  # the network is one of KerasHub's
Channels = float | tuple[float, float, float]  # one number for all channels, or one for each


@dataclass(frozen=True)
class Preprocessing:
    """What a network was trained to see: ``pixel * scale + offset`` for pixels of 0–255, perhaps blue first."""

    scale: Channels = 1.0
    offset: Channels = 0.0
    bgr: bool = False


INSIDE = Preprocessing()  # the network does it itself
BETWEEN_ONES = Preprocessing(scale=1 / 127.5, offset=-1.0)
CAFFE = Preprocessing(offset=(-103.939, -116.779, -123.68), bgr=True)  # ImageNet's mean is taken away
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue, of 1
TORCH = Preprocessing(
    scale=(1 / 255 / DEVIATION[0], 1 / 255 / DEVIATION[1], 1 / 255 / DEVIATION[2]),
    offset=(-MEAN[0] / DEVIATION[0], -MEAN[1] / DEVIATION[1], -MEAN[2] / DEVIATION[2]),
)


@dataclass(frozen=True)
class Architecture:
    """What is particular about one network of ``keras.applications``.

    Attributes:
        builder: its name there.
        width: the number of bottleneck features (channels before the pooling), at ``alpha`` 1.
        parameters: of the network without its top, at ``alpha`` 1.
        blocks: the first layer of each block, from the output to the input.
        preprocessing: of the pixels.
        size: of the images that it was trained with, in pixels.
        least: the smallest size that it takes.
        alphas: the width multipliers that it comes in.
        narrows: whether an ``alpha`` below 1 makes the features fewer.
        licence: of the ImageNet weights that Keras distributes, as their authors gave it.
        file: of the ImageNet weights that Keras downloads, without the top.
        below: whether ``blocks`` names the last layer below each block, as first layers have no names of their own.
    """

    builder: str
    width: int
    parameters: int
    blocks: tuple[str, ...]
    preprocessing: Preprocessing
    size: int = 224
    least: int = 32
    alphas: tuple[float, ...] = (1.0,)
    narrows: bool = True
    below: bool = False
    # These change no features, whose fingerprint is the repr.
    licence: str = field(default="Apache-2.0", repr=False)
    file: str = field(default="{name}_weights_tf_dim_ordering_tf_kernels_notop.h5", repr=False)

    def features(self, alpha: float) -> int:
        """The number of bottleneck features at a width multiplier."""
        return int(self.width * (alpha if self.narrows else max(alpha, 1.0)))

    def weights_file(self, alpha: float) -> str:
        """The name of the file that Keras keeps its ImageNet weights in."""
        tenths = "1_0" if alpha == 1 else f"{10 * alpha:.1f}".replace(".", "_")
        return self.file.format(name=self.builder.lower(), alpha=alpha, tenths=tenths)


def named(backbone: Mapping[str, Any]) -> str:
    """The name that people know a backbone's network by; KerasHub's are known by their presets."""
    if backbone["network"] != HUB:
        return str(backbone["network"])
    parts = [part for part in re.split(r"[/\\]", backbone["weights"]) if part]
    return next((part for part in reversed(parts) if not part.isdigit()), parts[-1])  # a handle ends in its version


def _units(name: str, units: Mapping[int, int]) -> tuple[str, ...]:
    """``name`` for each unit of each stage, from the output; ``units`` says how many a stage has."""
    return tuple(
        name.format(stage=stage, unit=unit, letter=ascii_lowercase[unit - 1])
        for stage, count in sorted(units.items(), reverse=True)
        for unit in range(count, 0, -1)
    )


def _efficientnet(units: Mapping[int, int]) -> tuple[str, ...]:
    """The blocks of an EfficientNet; those of stage 1 have no expansion."""
    expanding = {stage: count for stage, count in units.items() if stage > 1}
    plain = _units("block{stage}{letter}_dwconv", {1: units[1]})
    return ("top_conv", *_units("block{stage}{letter}_expand_conv", expanding), *plain, "stem_conv")


ARCHITECTURES: Mapping[str, Architecture] = {
    # Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556
    "vgg16": Architecture(
        "VGG16",
        512,
        14_714_688,
        _units("block{stage}_conv1", dict.fromkeys(range(1, 6), 1)),
        CAFFE,
        licence="CC BY 4.0",
    ),
    "vgg19": Architecture(
        "VGG19",
        512,
        20_024_384,
        _units("block{stage}_conv1", dict.fromkeys(range(1, 6), 1)),
        CAFFE,
        licence="CC BY 4.0",
    ),
    # He et al. 2015, https://arxiv.org/abs/1512.03385
    "resnet50": Architecture(
        "ResNet50",
        2048,
        23_587_712,
        (*_units("conv{stage}_block{unit}_1_conv", {2: 3, 3: 4, 4: 6, 5: 3}), "conv1_conv"),
        CAFFE,
        licence="MIT",
    ),
    # He et al. 2016, https://arxiv.org/abs/1603.05027
    "resnet50_v2": Architecture(
        "ResNet50V2",
        2048,
        23_564_800,
        (*_units("conv{stage}_block{unit}_preact_bn", {2: 3, 3: 4, 4: 6, 5: 3}), "conv1_conv"),
        BETWEEN_ONES,
    ),
    # Szegedy et al. 2015, https://arxiv.org/abs/1512.00567; the first module and the stem are one block.
    "inception_v3": Architecture(
        "InceptionV3",
        2048,
        21_802_784,
        (*(f"mixed{n}" for n in range(9, -1, -1)), "preprocessing"),
        BETWEEN_ONES,
        size=299,
        least=75,
        below=True,
        file="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    # Chollet 2016, https://arxiv.org/abs/1610.02357
    "xception": Architecture(
        "Xception",
        2048,
        20_861_480,
        (*_units("block{stage}_sepconv1", dict.fromkeys(range(2, 15), 1)), "block1_conv1"),
        BETWEEN_ONES,
        size=299,
        least=71,
        licence="MIT",
    ),
    # Howard et al. 2017, https://arxiv.org/abs/1704.04861
    "mobilenet": Architecture(
        "MobileNet",
        1024,
        3_228_864,
        (*_units("conv_dw_{stage}", dict.fromkeys(range(1, 14), 1)), "conv1"),
        BETWEEN_ONES,
        alphas=(0.25, 0.5, 0.75, 1.0),
        file="mobilenet_{tenths}_224_tf_no_top.h5",
    ),
    # Sandler et al. 2018, https://arxiv.org/abs/1801.04381; the last convolution never has fewer than 1280 channels.
    "mobilenet_v2": Architecture(
        "MobileNetV2",
        1280,
        2_257_984,
        (
            "Conv_1",
            *_units("block_{stage}_expand", dict.fromkeys(range(1, 17), 1)),
            "expanded_conv_depthwise",
            "Conv1",
        ),
        BETWEEN_ONES,
        alphas=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
        narrows=False,
        file="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224_no_top.h5",
    ),
    # Howard et al. 2019, https://arxiv.org/abs/1905.02244
    "mobilenet_v3_small": Architecture(
        "MobileNetV3Small",
        576,
        939_120,
        (
            "conv_1",
            *_units("expanded_conv_{stage}_expand", dict.fromkeys(range(1, 11), 1)),
            "expanded_conv_depthwise",
            "conv",
        ),
        INSIDE,
        alphas=(0.75, 1.0),
        file="weights_mobilenet_v3_small_224_{alpha}_float_no_top_v2.h5",
    ),
    "mobilenet_v3_large": Architecture(
        "MobileNetV3Large",
        960,
        2_996_352,
        (
            "conv_1",
            *_units("expanded_conv_{stage}_expand", dict.fromkeys(range(1, 15), 1)),
            "expanded_conv_depthwise",
            "conv",
        ),
        INSIDE,
        alphas=(0.75, 1.0),
        file="weights_mobilenet_v3_large_224_{alpha}_float_no_top_v2.h5",
    ),
    # Huang et al. 2016, https://arxiv.org/abs/1608.06993
    "densenet121": Architecture(
        "DenseNet121",
        1024,
        7_037_504,
        (
            *_units("conv{stage}_block{unit}_0_bn", {5: 16}),
            "pool4_bn",
            *_units("conv{stage}_block{unit}_0_bn", {4: 24}),
            "pool3_bn",
            *_units("conv{stage}_block{unit}_0_bn", {3: 12}),
            "pool2_bn",
            *_units("conv{stage}_block{unit}_0_bn", {2: 6}),
            "conv1_conv",
        ),
        TORCH,
        licence="BSD-3-Clause",
    ),
    # Tan and Le 2019, https://arxiv.org/abs/1905.11946
    "efficientnet_b0": Architecture(
        "EfficientNetB0",
        1280,
        4_049_571,
        _efficientnet({1: 1, 2: 2, 3: 2, 4: 3, 5: 3, 6: 4, 7: 1}),
        INSIDE,
        file="{name}_notop.h5",
    ),
    "efficientnet_b1": Architecture(
        "EfficientNetB1",
        1280,
        6_575_239,
        _efficientnet({1: 2, 2: 3, 3: 3, 4: 4, 5: 4, 6: 5, 7: 2}),
        INSIDE,
        size=240,
        file="{name}_notop.h5",
    ),
    "efficientnet_b2": Architecture(
        "EfficientNetB2",
        1408,
        7_768_569,
        _efficientnet({1: 2, 2: 3, 3: 3, 4: 4, 5: 4, 6: 5, 7: 2}),
        INSIDE,
        size=260,
        file="{name}_notop.h5",
    ),
    "efficientnet_b3": Architecture(
        "EfficientNetB3",
        1536,
        10_783_535,
        _efficientnet({1: 2, 2: 3, 3: 3, 4: 5, 5: 5, 6: 6, 7: 2}),
        INSIDE,
        size=300,
        file="{name}_notop.h5",
    ),
    # Tan and Le 2021, https://arxiv.org/abs/2104.00298
    "efficientnet_v2_b0": Architecture(
        "EfficientNetV2B0",
        1280,
        5_919_312,
        (
            "top_conv",
            *_units("block{stage}{letter}_expand_conv", {2: 2, 3: 2, 4: 3, 5: 5, 6: 8}),
            "block1a_project_conv",
            "stem_conv",
        ),
        INSIDE,
        file="efficientnetv2-b0_notop.h5",
    ),
    # Liu et al. 2022, https://arxiv.org/abs/2201.03545
    "convnext_tiny": Architecture(
        "ConvNeXtTiny",
        768,
        27_820_128,
        (
            *(f"convnext_tiny_stage_3_block_{n}_depthwise_conv" for n in (2, 1, 0)),
            "convnext_tiny_downsampling_block_2",
            *(f"convnext_tiny_stage_2_block_{n}_depthwise_conv" for n in range(8, -1, -1)),
            "convnext_tiny_downsampling_block_1",
            *(f"convnext_tiny_stage_1_block_{n}_depthwise_conv" for n in (2, 1, 0)),
            "convnext_tiny_downsampling_block_0",
            *(f"convnext_tiny_stage_0_block_{n}_depthwise_conv" for n in (2, 1, 0)),
            "convnext_tiny_stem",
        ),
        INSIDE,
        file="convnext_tiny_notop.h5",
        licence="MIT",
    ),
}


@dataclass(frozen=True)
class Family:
    """What is particular about one family of KerasHub's image networks.

    Attributes:
        vision: the attribute with the network that sees, where there is one that reads as well.
        class_tokens: how many tokens stand before the patches, registers not counted: the first says what the image is.
        embedding: the attributes with what makes the embedding that images and texts share out of the network's output.
        tokens: the attribute with the last layer whose output is tokens, where the network goes on.
        resizes: whether its presets, made for one size, take another one.
    """

    vision: str = ""
    class_tokens: int = 0
    embedding: tuple[str, ...] | None = None
    tokens: str = ""
    resizes: bool = False


# By KerasHub's name of the class. Families that are not here work as well, if they have one output: feature maps.
FAMILIES: Mapping[str, Family] = {
    # Oquab et al. 2023, https://arxiv.org/abs/2304.07193; Darcet et al. 2023, https://arxiv.org/abs/2309.16588
    "DINOV2Backbone": Family(class_tokens=1, resizes=True),
    # Siméoni et al. 2025, https://arxiv.org/abs/2508.10104
    "DINOV3Backbone": Family(class_tokens=1, resizes=True),
    # Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929
    "ViTBackbone": Family(class_tokens=1),
    # Touvron et al. 2020, https://arxiv.org/abs/2012.12877: a class token, and one for the distillation
    "DeiTBackbone": Family(class_tokens=2),
    # Radford et al. 2021, https://arxiv.org/abs/2103.00020
    "CLIPBackbone": Family("vision_encoder", class_tokens=1, embedding=("vision_pooler", "vision_projection")),
    # Zhai et al. 2023, https://arxiv.org/abs/2303.15343; Tschannen et al. 2025, https://arxiv.org/abs/2502.14786
    "SigLIPBackbone": Family("vision_encoder", embedding=(), tokens="post_layer_norm"),
    # Liu et al. 2021, https://arxiv.org/abs/2103.14030
    "SwinTransformerBackbone": Family(),
}
# Layers of KerasHub that hold a whole encoder or stage, and what they run one after the other: attributes with a layer,
# or a list of them.
SEQUENCES: Mapping[str, tuple[str, ...]] = {
    "DINOV2Encoder": ("layers",),
    "DINOV3Encoder": ("layers",),
    "ViTEncoder": ("dropout", "encoder_layers", "layer_norm"),
    "DeiTEncoder": ("encoder_layers", "layer_norm"),
    "SwinTransformerStage": ("blocks", "downsample"),
    "HGNetV2Encoder": ("stages_list",),
    "HGNetV2Stage": ("downsample_layer", "blocks_list"),
}
STAGED = {"HGNetV2Encoder"}  # where what stands between them is an output as well
