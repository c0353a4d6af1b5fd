"""Heat maps: the gradient and the feature maps that Keras has, for every backbone, pooling and head."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.families import family, marked, pictures
from thaw.architectures import HUB
from thaw.config.schema import Backbone, Custom
from thaw.learning import finetuning
from thaw.learning.heads import Head
from thaw.networks import backbones, engine
from thaw.networks.activation import Layers, Mapped, Unmapped
from thaw.networks.backbones import FrozenNetwork
from thaw.networks.cutting import POOLING

CLASSES = 4
# The ways in which networks end before they are pooled: activation, normalisation, concatenation, tokens.
ENDS = marked(["mobilenet_v2", "vgg16", "densenet121", "convnext_tiny", "hub dinov2", "hub swin", "hub hgnetv2"])
WEIGHTS = np.array([[1, -1, 0, 0], [0, 0, 1, -1], [1, 0, -1, 0]], np.float32)


def head(*widths: int) -> Head:
    """A head of random weights: widths of features, hidden layers and logits."""
    random = np.random.default_rng(0)
    layers = [(random.normal(size=pair), random.normal(size=pair[1])) for pair in itertools.pairwise(widths)]
    return Head(
        [((kernel / np.sqrt(len(kernel))).astype(np.float32), bias.astype(np.float32)) for kernel, bias in layers]
    )


def expected(images: Any, to_maps: Any, from_maps: Any, layers: Layers) -> list[Any]:
    """The maps by Keras and TensorFlow: images → feature maps → features → logits, and the gradient of these."""
    import tensorflow as tf

    maps = tf.convert_to_tensor(to_maps.predict_on_batch(images))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        x = from_maps(maps)
        for number, (kernel, bias) in enumerate(layers):
            x = (tf.nn.relu(x) if number else x) @ kernel + bias
        totals = tf.reduce_sum(x * WEIGHTS, axis=1)
    own = np.sum(maps * tape.gradient(totals, maps), axis=-1)
    _, height, width = own.shape
    return [one * height * width + (total - one.sum()) for one, total in zip(own, np.array(totals), strict=True)]


def same(found: Sequence[Any], wanted: Sequence[Any], tolerance: float = 1e-3) -> None:
    assert len(found) == len(wanted) == len(WEIGHTS)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert min(one.shape) > 1
        np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max())


def parts(backbone: Backbone) -> tuple[Any, Any]:
    """A backbone in Keras: image → feature maps → features."""
    import keras

    whole = backbones.network(backbone)
    maps = next(layer for layer in whole.layers if layer.name.startswith(POOLING)).input
    return keras.Model(whole.input, maps), keras.Model(maps, whole.output)


@pytest.mark.parametrize("name", ENDS)
def test_with_average_pooling_a_place_has_what_the_head_says_of_it(toy: Backbone, tmp_path: Path, name: str) -> None:
    backbone = family(toy, name, **({} if name.startswith(HUB) else {"input_size": 128}))
    images = pictures(backbone, len(WEIGHTS))
    engine.copy(FrozenNetwork(backbone), tmp_path / "backbone.xml")
    maps = parts(backbone)[0].predict_on_batch(images)
    linear = head(maps.shape[-1], CLASSES)
    mapped = Mapped(tmp_path / "backbone.xml", linear.layers)
    assert mapped.places == maps.shape[1:3]
    found = [*mapped.maps(images, WEIGHTS)]
    places = maps @ linear.layers[0][0] + linear.layers[0][1]
    same(found, [(logits * row).sum(-1) for logits, row in zip(places, WEIGHTS, strict=True)])
    logits = linear.logits(maps.mean(axis=(1, 2)))
    np.testing.assert_allclose([one.mean() for one in found], (logits * WEIGHTS).sum(1), rtol=1e-3, atol=1e-3)


@pytest.fixture
def small(toy: Backbone, tmp_path: Path) -> Backbone:
    """A network of one's own that is built in no time; like MobileNetV2's, its maps have many equal maxima."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu", padding="same")(image)
    x = keras.layers.Conv2D(24, 3, strides=2, activation="relu6", padding="same", name="maps")(9 * x)
    keras.Model(image, x).save(tmp_path / "small.keras")
    own = Custom(feature_layer="maps", blocks=[], scale=1 / 127.5, offset=-1.0)
    return toy.model_copy(update={"network": "custom", "weights": str(tmp_path / "small.keras"), "custom": own})


@pytest.mark.parametrize("hidden", [(), (16, 8)], ids=["linear", "hidden"])
@pytest.mark.parametrize("pooling", ["avg", "max", "avg+max", "flatten"])
def test_every_pooling_and_head_has_the_gradient_of_tensorflow(
    small: Backbone, tmp_path: Path, pooling: str, hidden: tuple[int, ...]
) -> None:
    backbone = small.model_copy(update={"pooling": pooling})
    images = pictures(backbone, len(WEIGHTS))
    below, above = parts(backbone)
    own = head(above.output.shape[1], *hidden, CLASSES)
    wanted = expected(images, below, above, own.layers)
    engine.copy(FrozenNetwork(backbone), tmp_path / "backbone.xml")
    same([*Mapped(tmp_path / "backbone.xml", own.layers).maps(images, WEIGHTS)], wanted)
    engine.save_ir(finetuning.classifier(backbone, own, 0.5, 0), 1, tmp_path / "model.xml")
    same([*Mapped(tmp_path / "model.xml").maps(images, WEIGHTS)], wanted)


def test_a_network_that_was_trained_in_bfloat16_has_maps(small: Backbone, tmp_path: Path) -> None:
    images = pictures(small, len(WEIGHTS))
    below, above = parts(small)
    own = head(24, 16, CLASSES)
    engine.save_ir(finetuning.classifier(small, own, 0.5, 0, precision="bfloat16"), 1, tmp_path / "model.xml")
    found = [*Mapped(tmp_path / "model.xml").maps(images, WEIGHTS)]
    same(found, expected(images, below, above, own.layers), tolerance=0.1)


def custom(build: Any) -> tuple[Any, Any]:
    """A small network of one's own: image → feature maps, and from there as ``build`` has it."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((24, 24, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(image)
    maps = keras.layers.Conv2D(6, 3, strides=4, activation="swish", padding="same")(x)
    return keras.Model(image, maps), keras.Model(maps, build(keras.layers, maps))


def joined(below: Any, above: Any) -> Any:
    import keras

    return keras.Model(below.input, above(below.output))


def normalised(layers: Any, maps: Any) -> Any:
    x = layers.Dense(8, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(maps))
    norm = layers.BatchNormalization()
    x = norm(layers.Flatten()(x))
    norm.set_weights(np.random.default_rng(0).uniform(0.5, 2, (4, 8)))
    return layers.Dense(5, use_bias=False)(x)


def test_a_network_of_ones_own_has_maps_if_only_what_is_known_follows_them(tmp_path: Path) -> None:
    below, above = custom(normalised)
    images = np.random.default_rng(1).integers(0, 256, (len(WEIGHTS), 24, 24, 3), dtype=np.uint8)
    engine.save_ir(joined(below, above), 1, tmp_path / "backbone.xml")
    own = head(5, CLASSES)
    found = [*Mapped(tmp_path / "backbone.xml", own.layers).maps(images, WEIGHTS)]
    same(found, expected(images, below, above, own.layers))


@pytest.mark.parametrize(
    "build",
    [
        lambda layers, maps: layers.GlobalAveragePooling2D()(layers.AveragePooling2D(6)(maps)),
        lambda layers, maps: layers.Concatenate()(
            [layers.GlobalAveragePooling2D()(x) for x in (maps, layers.Conv2D(4, 3, activation="relu")(maps))]
        ),
        lambda layers, maps: layers.Dense(4, activation="tanh")(layers.Flatten()(maps)),
        lambda layers, maps: layers.GlobalAveragePooling1D()(
            layers.LayerNormalization()(layers.Reshape((36, 6))(maps))
        ),
    ],
    ids=["one place", "maps of two depths", "no step backwards", "a row of tokens"],
)
def test_a_network_without_one_kind_of_places_has_none(tmp_path: Path, build: Any) -> None:
    engine.save_ir(joined(*custom(build)), 1, tmp_path / "backbone.xml")
    with pytest.raises(Unmapped):
        Mapped(tmp_path / "backbone.xml")
