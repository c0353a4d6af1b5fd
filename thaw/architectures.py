"""The facts about each pretrained network in one table: all that a configuration may say, without importing Keras.

Blocks are the repeated units of an architecture, under Keras' names: a residual unit, an inverted bottleneck, a dense
unit, an Inception module. They are listed from the output to the input, as fine-tuning counts them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        name.format(stage=stage, unit=unit, letter=chr(ord("a") + unit - 1))
        for stage, count in sorted(units.items(), reverse=True)
        for unit in range(count, 0, -1)
    )


def _efficientnet(name: str, width: int, parameters: int, size: int, *units: int) -> Architecture:
    """An EfficientNet, with so many units in each stage; those of the first one have no expansion."""
    blocks = _expanding("dwconv", units)
    return Architecture(f"EfficientNet{name}", width, parameters, blocks, INSIDE, size, file="{name}_notop.h5")


def _efficientnet_v2(name: str, width: int, parameters: int, size: int, *units: int) -> Architecture:
    """An EfficientNetV2, with so many units in each stage; those of the first one have no expansion."""
    blocks, file = _expanding("project_conv", units), f"efficientnetv2-{name.lower()}_notop.h5"
    return Architecture(f"EfficientNetV2{name}", width, parameters, blocks, INSIDE, size, file=file)


def _expanding(plain: str, units: Sequence[int]) -> tuple[str, ...]:
    """The blocks of both; ``plain`` is the first layer of a unit that has no expansion."""
    first, *others = units
    expanding = _units("block{stage}{letter}_expand_conv", dict(enumerate(others, 2)))
    return ("top_conv", *expanding, *_units(f"block{{stage}}{{letter}}_{plain}", {1: first}), "stem_conv")


def _resnet(layer: str, units: Mapping[int, int]) -> tuple[str, ...]:
    """The blocks of a ResNet; ``layer`` is the first one of a unit."""
    return (*_units(f"conv{{stage}}_block{{unit}}_{layer}", units), "conv1_conv")


def _densenet(units: Mapping[int, int]) -> tuple[str, ...]:
    """The blocks of a DenseNet: units, and the transitions between its four stages."""
    stages = [_units("conv{stage}_block{unit}_0_bn", {stage: units[stage]}) for stage in (5, 4, 3, 2)]
    return (*stages[0], "pool4_bn", *stages[1], "pool3_bn", *stages[2], "pool2_bn", *stages[3], "conv1_conv")


def _inception_resnet() -> tuple[str, ...]:
    """The last layer below each block of an Inception-ResNet-v2: units, and what shrinks the maps between stages."""
    last, middle, first = (
        [f"{name}_{unit}_ac" for unit in range(count, 0, -1)]
        for name, count in (("block8", 9), ("block17", 20), ("block35", 10))
    )
    return (*last, "mixed_7a", *middle, "mixed_6a", *first, "mixed_5b", "preprocessing")


def _convnext(name: str, width: int, parameters: int, *units: int) -> Architecture:
    """A ConvNeXt, with so many units in each stage, and what halves the maps between the stages; both count from 0."""
    prefix = f"convnext_{name.lower()}"
    blocks = tuple(
        block
        for stage, count in reversed([*enumerate(units)])
        for block in (
            *(f"{prefix}_stage_{stage}_block_{unit}_depthwise_conv" for unit in reversed(range(count))),
            f"{prefix}_downsampling_block_{stage - 1}" if stage else f"{prefix}_stem",
        )
    )
    file = f"{prefix}_notop.h5"
    return Architecture(f"ConvNeXt{name}", width, parameters, blocks, INSIDE, licence="MIT", file=file)


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
        "ResNet50", 2048, 23_587_712, _resnet("1_conv", {2: 3, 3: 4, 4: 6, 5: 3}), CAFFE, licence="MIT"
    ),
    "resnet101": Architecture(
        "ResNet101", 2048, 42_658_176, _resnet("1_conv", {2: 3, 3: 4, 4: 23, 5: 3}), CAFFE, licence="MIT"
    ),
    "resnet152": Architecture(
        "ResNet152", 2048, 58_370_944, _resnet("1_conv", {2: 3, 3: 8, 4: 36, 5: 3}), CAFFE, licence="MIT"
    ),
    # He et al. 2016, https://arxiv.org/abs/1603.05027
    "resnet50_v2": Architecture(
        "ResNet50V2", 2048, 23_564_800, _resnet("preact_bn", {2: 3, 3: 4, 4: 6, 5: 3}), BETWEEN_ONES
    ),
    "resnet101_v2": Architecture(
        "ResNet101V2", 2048, 42_626_560, _resnet("preact_bn", {2: 3, 3: 4, 4: 23, 5: 3}), BETWEEN_ONES
    ),
    "resnet152_v2": Architecture(
        "ResNet152V2", 2048, 58_331_648, _resnet("preact_bn", {2: 3, 3: 8, 4: 36, 5: 3}), BETWEEN_ONES
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
    # Szegedy et al. 2016, https://arxiv.org/abs/1602.07261; the last unit and the last convolution are one block,
    # and so are the first module and the stem.
    "inception_resnet_v2": Architecture(
        "InceptionResNetV2",
        1536,
        54_336_736,
        _inception_resnet(),
        BETWEEN_ONES,
        size=299,
        least=75,
        below=True,
        file="inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
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
        "DenseNet121", 1024, 7_037_504, _densenet({2: 6, 3: 12, 4: 24, 5: 16}), TORCH, licence="BSD-3-Clause"
    ),
    "densenet169": Architecture(
        "DenseNet169", 1664, 12_642_880, _densenet({2: 6, 3: 12, 4: 32, 5: 32}), TORCH, licence="BSD-3-Clause"
    ),
    "densenet201": Architecture(
        "DenseNet201", 1920, 18_321_984, _densenet({2: 6, 3: 12, 4: 48, 5: 32}), TORCH, licence="BSD-3-Clause"
    ),
    # Tan and Le 2019, https://arxiv.org/abs/1905.11946
    "efficientnet_b0": _efficientnet("B0", 1280, 4_049_571, 224, 1, 2, 2, 3, 3, 4, 1),
    "efficientnet_b1": _efficientnet("B1", 1280, 6_575_239, 240, 2, 3, 3, 4, 4, 5, 2),
    "efficientnet_b2": _efficientnet("B2", 1408, 7_768_569, 260, 2, 3, 3, 4, 4, 5, 2),
    "efficientnet_b3": _efficientnet("B3", 1536, 10_783_535, 300, 2, 3, 3, 5, 5, 6, 2),
    "efficientnet_b4": _efficientnet("B4", 1792, 17_673_823, 380, 2, 4, 4, 6, 6, 8, 2),
    "efficientnet_b5": _efficientnet("B5", 2048, 28_513_527, 456, 3, 5, 5, 7, 7, 9, 3),
    # Tan and Le 2021, https://arxiv.org/abs/2104.00298
    "efficientnet_v2_b0": _efficientnet_v2("B0", 1280, 5_919_312, 224, 1, 2, 2, 3, 5, 8),
    "efficientnet_v2_b1": _efficientnet_v2("B1", 1280, 6_931_124, 240, 2, 3, 3, 4, 6, 9),
    "efficientnet_v2_b2": _efficientnet_v2("B2", 1408, 8_769_374, 260, 2, 3, 3, 4, 6, 10),
    "efficientnet_v2_b3": _efficientnet_v2("B3", 1536, 12_930_622, 300, 2, 3, 3, 5, 7, 12),
    "efficientnet_v2_s": _efficientnet_v2("S", 1280, 20_331_360, 384, 2, 4, 4, 6, 9, 15),
    # Liu et al. 2022, https://arxiv.org/abs/2201.03545
    "convnext_tiny": _convnext("Tiny", 768, 27_820_128, 3, 3, 9, 3),
    "convnext_small": _convnext("Small", 768, 49_454_688, 3, 3, 27, 3),
    "convnext_base": _convnext("Base", 1024, 87_566_464, 3, 3, 27, 3),
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
