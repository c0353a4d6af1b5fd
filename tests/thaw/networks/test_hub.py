"""KerasHub's backbones: what thaw makes of a preset is what KerasHub makes of it."""

import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import hub as presets
from tests.helpers.families import FAST, family, pictures, preset
from thaw.architectures import HUB, Family, named
from thaw.config.composing import compose
from thaw.config.schema import Backbone
from thaw.errors import UserError
from thaw.networks import backbones, cutting, weights
from thaw.networks.backbones import FrozenNetwork, network
from thaw.networks.weights import weights_at_hand, weights_id

TOKENS = {"dinov2": 3, "dinov3": 3, "vit": 1, "deit": 2, "clip": 1}  # before the patches: of the class, registers
SEES: list[Any] = [
    name if f"{HUB} {name}" in FAST else pytest.param(name, marks=pytest.mark.slow) for name in presets.PRESETS
]


def _of_keras_hub(name: str, images: Any) -> Any:
    """What KerasHub's own model gives for images, prepared by its own converter: tokens or feature maps."""
    import keras
    import keras_hub

    folder = str(preset(name))
    pixels = keras_hub.layers.ImageConverter.from_preset(folder)(images)
    sized = {"image_shape": (presets.SIDE, presets.SIDE, 3)} if name.startswith("dino") else {}
    model = keras_hub.models.Backbone.from_preset(folder, **sized)
    if name == "clip":
        model = model.vision_encoder
    if name == "siglip":
        model = keras.Model(model.vision_encoder.inputs, model.vision_encoder.post_layer_norm.output)
    found = model(pixels)
    return np.asarray([*found.values()][-1] if isinstance(found, dict) else found)


def _features(toy: Backbone, name: str, pooling: str) -> Any:
    backbone = family(toy, f"{HUB} {name}", pooling=pooling)
    return network(backbone).predict_on_batch(pictures(backbone, 4))


def test_a_checkpoint_of_transformers_sees_the_pixels_that_it_was_published_with(toy: Backbone, tmp_path: Path) -> None:
    import keras_hub

    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    folder = presets.write_transformers(tmp_path / "dinov2-small", mean, deviation)
    backbone = family(toy, f"{HUB} dinov2", pooling="token", weights=str(folder))
    images = pictures(backbone, 4)
    pixels = ((images / 255 - mean) / deviation).astype(np.float32)
    expected = np.asarray(keras_hub.models.Backbone.from_preset(str(folder))(pixels))[:, 0]
    found = network(backbone).predict_on_batch(images)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", SEES)
def test_features_are_those_of_keras_hub(toy: Backbone, name: str) -> None:
    expected = _of_keras_hub(name, pictures(family(toy, f"{HUB} {name}"), 4))
    patches = expected[:, TOKENS.get(name, 0) :] if expected.ndim == 3 else expected.reshape(4, -1, expected.shape[-1])
    wanted = {"avg": patches.mean(axis=1), "avg+max": np.concatenate([patches.mean(axis=1), patches.max(axis=1)], 1)}
    if name in TOKENS:
        wanted |= {"token": expected[:, 0], "token+avg": np.concatenate([expected[:, 0], patches.mean(axis=1)], 1)}
    for pooling, features in wanted.items():
        assert np.abs(features).max() > 1e-3
        found = _features(toy, name, pooling)
        np.testing.assert_allclose(found, features, atol=1e-5 * np.abs(features).max(), rtol=1e-4, err_msg=pooling)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_an_embedding_is_the_one_that_texts_share(toy: Backbone, name: str) -> None:
    import keras_hub

    pixels = keras_hub.layers.ImageConverter.from_preset(str(preset(name)))(pictures(family(toy, f"{HUB} {name}"), 4))
    expected = keras_hub.models.Backbone.from_preset(str(preset(name))).get_vision_embeddings(pixels)
    np.testing.assert_allclose(_features(toy, name, "embedding"), np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "pooling", "message"),
    [
        ("resnet", "token", "expected one that needs no class token, found token: resnet has none; set avg"),
        ("dinov2", "embedding", "expected avg, max or the like, found embedding: dinov2 has none"),
    ],
)
def test_what_a_family_has_not_cannot_be_asked(toy: Backbone, name: str, pooling: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _features(toy, name, pooling)


def test_other_networks_have_no_tokens(toy: Backbone) -> None:
    with pytest.raises(ValueError, match=r"pooling must be avg, max, avg\+max or flatten for mobilenet_v2"):
        Backbone.model_validate(toy.model_dump() | {"pooling": "token"})
    with pytest.raises(ValueError, match="weights must be a preset of KerasHub for a hub network, and is random"):
        Backbone.model_validate(toy.model_dump() | {"network": HUB, "alpha": 1.0, "weights": "random"})


def test_a_size_that_a_preset_does_not_take_is_said(toy: Backbone) -> None:
    with pytest.raises(UserError, match="expected 64 pixels, which vit was trained with, found 96; correct it"):
        network(family(toy, f"{HUB} vit", input_size=96))


def test_dinov2_takes_other_sizes_than_it_was_made_for(toy: Backbone) -> None:
    backbone = family(toy, f"{HUB} dinov2", input_size=96, pooling="flatten")
    assert network(backbone).output_shape == (None, 6 * 6 * 32)


def test_a_rotary_embedding_stands_above_no_cut(toy: Backbone) -> None:
    """It depends on no image, so that the tensor between two blocks is the only one."""
    backbone = family(toy, f"{HUB} dinov3")
    model = network(backbone)
    names = cutting.blocks(model, backbone)
    assert names == ("block_3", "block_2", "block_1", "dinov3_backbone_embeddings")
    operations = [operation.name for operation in model.operations]
    for block, below in pairwise(names):
        place = [layer.name for layer in model.layers].index(block)
        assert operations[cutting.cut(model, place)] == below


def test_weights_are_known_by_content_not_by_place_or_date(toy: Backbone, tmp_path: Path) -> None:
    backbone = family(toy, f"{HUB} vit")
    shutil.copytree(backbone.weights, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "metadata.json").write_text("{}", encoding="utf-8")
    same = backbone.model_copy(update={"weights": str(tmp_path / "elsewhere")})
    assert weights_id(same) == weights_id(backbone)
    with (tmp_path / "elsewhere" / "model.weights.h5").open("ab") as file:
        file.write(b"x")
    assert weights_id(same) != weights_id(backbone)


@pytest.mark.parametrize(
    "weights",
    ["dinov2_small", "kaggle://keras/dinov2/keras/dinov2_small/1", "presets/dinov2_small/", "C:\\x\\dinov2_small"],
)
def test_people_know_it_by_its_preset(weights: str) -> None:
    assert named({"network": HUB, "weights": weights}) == "dinov2_small"
    assert named({"network": HUB, "weights": "2024"}) == "2024"
    assert named({"network": "vgg16", "weights": "imagenet"}) == "vgg16"


def test_a_fingerprint_knows_whose_code_and_facts_a_network_is_made_by(
    toy: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = FrozenNetwork(family(toy, f"{HUB} hgnetv2")), FrozenNetwork(toy)
    own, others = [asked[0].fingerprint], {asked[1].fingerprint}
    changes: list[tuple[Any, str, Any]] = [
        (backbones, "FAMILIES", {**backbones.FAMILIES, "NewBackbone": Family(class_tokens=1)}),
        (backbones, "SEQUENCES", {**backbones.SEQUENCES, "NewEncoder": ("layers",)}),
        (backbones, "STAGED", set()),
        (weights, "_hub_version", lambda: "99"),
    ]
    for module, name, value in changes:
        monkeypatch.setattr(module, name, value)
        own.append(asked[0].fingerprint)
        others.add(asked[1].fingerprint)
    assert len({*own}) == 5
    assert len(others) == 1


def test_what_was_downloaded_is_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    assert not weights_at_hand("dinov2_small", HUB, 1.0)
    folder = tmp_path / "models" / "keras" / "dinov2" / "keras" / "dinov2_small" / "1"
    folder.mkdir(parents=True)
    (folder / "model.weights.h5").touch()
    assert weights_at_hand("dinov2_small", HUB, 1.0)
    assert weights_at_hand(str(preset("vit")), HUB, 1.0)


def _error(toy: Backbone, weights: str) -> str:
    with pytest.raises(UserError) as raised:
        FrozenNetwork(family(toy, f"{HUB} vit", weights=weights)).build()
    return str(raised.value)


def test_without_a_network_the_way_by_hand_is_said(toy: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLEHUB_CACHE", "/nowhere")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there
    said = _error(toy, "dinov2_small")
    assert said.startswith("weights: expected to download the preset dinov2_small, found: ")
    assert "https://www.kaggle.com/models/keras/dinov2/keras/dinov2_small/1" in said
    assert said.endswith("and set 'weights:' to their folder")


def test_a_misspelt_preset_is_said(toy: Backbone) -> None:
    assert "found 'dinov2_smal' (did you mean 'dinov2_small'?); correct it" in _error(toy, "dinov2_smal")


def test_a_folder_that_is_no_preset_is_said(toy: Backbone, tmp_path: Path) -> None:
    assert "expected a preset of KerasHub for images in" in _error(toy, str(tmp_path))


def test_a_preset_for_texts_is_no_backbone(toy: Backbone, tmp_path: Path) -> None:
    import keras_hub

    small = {"num_layers": 1, "num_heads": 1, "hidden_dim": 4, "intermediate_dim": 4, "max_sequence_length": 4}
    keras_hub.models.BertBackbone(vocabulary_size=8, **small).save_to_preset(str(tmp_path))
    assert "expected a preset of KerasHub for images in" in _error(toy, str(tmp_path))


def test_without_keras_hub_its_installation_is_said(toy: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = family(toy, f"{HUB} vit")  # which KerasHub writes
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(UserError, match="expected the package keras-hub for 'network: hub', found none"):
        network(backbone)


@pytest.mark.parametrize("option", ["dinov2_small", "siglip2_base", "swin_tiny", "resnet_vd_50"])
def test_its_options_are_presets_that_there_are(option: str) -> None:
    import keras_hub

    backbone = compose([f"backbone={option}"])["backbone"]
    assert backbone.network == HUB
    assert backbone.weights in keras_hub.models.Backbone.presets
