"""Backbones: their table, their weights, and what identifies a frozen network."""

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.helpers import options
from tests.helpers.families import TABLE, family, pictures
from thaw.architectures import ARCHITECTURES
from thaw.config.composing import compose
from thaw.config.schema import Backbone, Custom, Unfreeze
from thaw.errors import UserError
from thaw.networks import weights
from thaw.networks.backbones import FrozenNetwork, network
from thaw.networks.cutting import cut, first_layer
from thaw.networks.weights import weights_id


def _with(backbone: Backbone, **changes: Any) -> Backbone:
    return backbone.model_copy(update=changes)


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights of one headless MobileNetV2 0.35 in each format, and of one with its top."""
    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(7)
    model = keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=None, input_shape=(32, 32, 3))
    files = {kind: folder / f"net{kind}" for kind in (".weights.h5", ".keras")}
    model.save_weights(files[".weights.h5"])
    model.save(files[".keras"])
    keras.utils.set_random_seed(8)
    topped = keras.applications.MobileNetV2(alpha=0.35, weights=None, input_shape=(32, 32, 3), classes=4)
    topped.save_weights(folder / "topped.weights.h5")
    return files | {"topped": folder / "topped.weights.h5"}


@pytest.mark.parametrize("kind", [".weights.h5", ".keras"])
def test_weights_come_from_a_file(toy: Backbone, headless: dict[str, Path], kind: str) -> None:
    keras.utils.set_random_seed(7)
    expected = keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=None, input_shape=(32, 32, 3))
    loaded = network(_with(toy, weights=str(headless[kind])))
    for ours, theirs in zip(loaded.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module", params=TABLE)
def whole(request: pytest.FixtureRequest) -> tuple[Backbone, Any]:
    """Each backbone of the table, at full width, and its network."""
    backbone = family(Backbone.model_validate(options.BACKBONE), request.param, alpha=1.0)
    return backbone, network(backbone)


def test_the_preprocessing_is_that_of_keras(whole: tuple[Backbone, Any]) -> None:
    backbone, model = whole
    pixels = pictures(backbone, 2)
    scaled = keras.Model(model.input, model.get_layer("preprocessing").output)
    package: Any = importlib.import_module(
        getattr(keras.applications, ARCHITECTURES[backbone.network].builder).__module__
    )
    expected = package.preprocess_input(pixels.astype(np.float32))
    np.testing.assert_allclose(scaled.predict_on_batch(pixels), expected, atol=1e-4)


def test_the_table_has_the_right_figures(whole: tuple[Backbone, Any]) -> None:
    backbone, model = whole
    facts = ARCHITECTURES[backbone.network]
    assert (model.output.shape[-1], model.count_params()) == (facts.width, facts.parameters)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_network_of_the_table_has_its_option(name: str) -> None:
    backbone = compose([f"backbone={name}"], ["backbone"])["backbone"]
    assert backbone.network == name
    assert backbone.input_size in (ARCHITECTURES[name].size, 160)
    assert len(ARCHITECTURES[name].blocks) > backbone.keep_blocks > 0


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("avg", lambda maps: maps.mean(axis=(1, 2))),
        ("max", lambda maps: maps.max(axis=(1, 2))),
        ("avg+max", lambda maps: np.concatenate([maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))], axis=1)),
        ("flatten", lambda maps: maps.reshape(len(maps), -1)),
    ],
)
def test_features_are_pooled_as_asked(toy: Backbone, pooling: str, expected: Any) -> None:
    backbone = _with(toy, input_size=64, pooling=pooling)
    whole = network(backbone)
    maps = keras.Model(whole.input, whole.get_layer("out_relu").output).predict_on_batch(pictures(backbone, 2))
    assert maps.shape == (2, 2, 2, 1280)
    found = whole.predict_on_batch(pictures(backbone, 2))
    np.testing.assert_allclose(found, expected(maps), rtol=1e-5, atol=1e-6)
    everything = first_layer(whole, backbone, Unfreeze(layers=153))
    with pytest.raises(UserError, match="expected at most 153"):
        first_layer(whole, backbone, Unfreeze(layers=154))
    assert whole.layers[everything].name == "Conv1"


@pytest.mark.slow
def test_efficientnet_is_the_network_that_its_imagenet_weights_were_made_for(
    toy: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras adds a layer if, and only if, it loads them itself; from a file the features have to be the same."""
    keras.utils.set_random_seed(3)
    plain = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    normalization = next(layer for layer in plain.layers if isinstance(layer, keras.layers.Normalization))
    mean, _, count = normalization.get_weights()
    normalization.set_weights([mean, np.array([0.2, 0.3, 0.4], np.float32), count])
    plain.save_weights(tmp_path / "b0.weights.h5")
    module = sys.modules["keras.src.applications.efficientnet"]
    monkeypatch.setattr(module.file_utils, "get_file", lambda *_, **__: str(tmp_path / "b0.weights.h5"))
    monkeypatch.setattr(module.file_utils, "exists", lambda _: False, raising=False)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    backbone = family(toy, "efficientnet_b0")
    theirs = network(_with(backbone, weights="imagenet")).predict_on_batch(pixels)
    ours = network(_with(backbone, weights=str(tmp_path / "b0.weights.h5"))).predict_on_batch(pixels)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    # And so they stay when the whole network, as fine-tuning saves it, is loaded again.
    saved = network(_with(backbone, weights=str(tmp_path / "b0.weights.h5")))
    saved.save_weights(tmp_path / "whole.weights.h5")
    saved.load_weights(tmp_path / "whole.weights.h5")
    np.testing.assert_allclose(saved.predict_on_batch(pixels), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.35, 1.3])
def test_the_table_knows_the_number_of_features(toy: Backbone, alpha: float) -> None:
    assert network(_with(toy, alpha=alpha)).output.shape == (None, ARCHITECTURES["mobilenet_v2"].features(alpha))


def test_a_file_with_the_top_serves_as_well(toy: Backbone, headless: dict[str, Path]) -> None:
    keras.utils.set_random_seed(8)
    topped = keras.applications.MobileNetV2(alpha=0.35, weights=None, input_shape=(32, 32, 3), classes=4)
    loaded = network(_with(toy, weights=str(headless["topped"]))).get_weights()
    for ours, theirs in zip(loaded, topped.get_weights(), strict=False):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", [".weights.h5", ".keras"])
def test_weights_of_another_network_are_refused(toy: Backbone, headless: dict[str, Path], kind: str) -> None:
    with pytest.raises(UserError, match="expected weights of MobileNetV2 .* which does not fit"):
        network(_with(toy, alpha=0.5, weights=str(headless[kind])))


@pytest.mark.parametrize("name", ["broken.weights.h5", "broken.h5", "broken.keras", "broken.txt"])
def test_a_file_that_holds_no_weights_is_refused(toy: Backbone, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("not weights")
    with pytest.raises(UserError, match="which does not fit"):
        network(_with(toy, weights=str(tmp_path / name)))


def test_a_missing_weights_file_is_named(toy: Backbone) -> None:
    with pytest.raises(UserError, match=r"found no file .*nowhere\.h5"):
        _ = FrozenNetwork(_with(toy, weights="nowhere.h5")).fingerprint


def test_bundled_weights_that_are_not_what_was_shipped_are_refused(
    toy: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thaw.weights.h5").write_bytes(b"something else")
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "thaw.weights.h5")
    with pytest.raises(UserError, match="expected thaw.weights.h5 with sha256 .* 'git checkout -- weights'"):
        weights_id(_with(toy, weights="bundled"))


def test_bundled_weights_load(toy: Backbone) -> None:
    bundled = network(_with(toy, weights="bundled")).get_weights()
    assert not all(np.array_equal(a, b) for a, b in zip(bundled, network(toy).get_weights(), strict=True))


@pytest.mark.parametrize(
    ("name", "alpha", "file"),
    [
        ("mobilenet", 0.25, "mobilenet_2_5_224_tf_no_top.h5"),
        ("mobilenet", 0.75, "mobilenet_7_5_224_tf_no_top.h5"),
        ("mobilenet_v2", 0.35, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"),
    ],
)
def test_imagenet_weights_load_offline_from_keras_home(
    toy: Backbone, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, alpha: float, file: str
) -> None:
    # Keras fixes its home when it is imported, so it is the downloader's default folder that has to change.
    home = tmp_path / "keras_home"
    shutil.copytree(shared / "weights" / "keras_home", home, copy_function=shutil.copyfile)
    from keras.src.utils import file_utils

    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(home))
    genuine = family(toy, name, alpha=alpha, weights="imagenet", input_size=224)
    loaded, expected = network(genuine), network(_with(genuine, weights=str(home / "models" / file)))
    for ours, theirs in zip(loaded.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(loaded.get_weights()[0], network(_with(genuine, weights="random")).get_weights()[0])


@pytest.mark.parametrize("name", TABLE)
def test_imagenet_weights_without_a_network_say_how_to_supply_a_file(
    toy: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from keras.src.utils import file_utils

    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # a closed port: no network, on any machine
    asked: list[str] = []
    get_file = file_utils.get_file
    monkeypatch.setattr(file_utils, "get_file", lambda name, *a, **k: asked.append(name) or get_file(name, *a, **k))
    backbone = family(toy, name, weights="imagenet", input_size=96)
    with pytest.raises(UserError, match="expected to download the ImageNet weights .* set 'weights:' to its path"):
        network(backbone)
    assert asked == [ARCHITECTURES[name].weights_file(backbone.alpha)]


def test_a_fingerprint_changes_with_whatever_changes_the_outputs(toy: Backbone, headless: dict[str, Path]) -> None:
    same = FrozenNetwork(toy).fingerprint
    assert FrozenNetwork(_with(toy)).fingerprint == same
    others = [
        FrozenNetwork(_with(toy, input_size=64)),
        FrozenNetwork(_with(toy, alpha=0.5)),
        FrozenNetwork(_with(toy, engine="tensorflow")),
        FrozenNetwork(_with(toy, precision="bfloat16")),
        FrozenNetwork(_with(toy, weights=str(headless[".weights.h5"]))),
        FrozenNetwork(toy, operation=5),
    ]
    assert len({same, *(other.fingerprint for other in others)}) == len(others) + 1


def test_the_same_weights_under_another_name_are_the_same_network(
    toy: Backbone, headless: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copy(headless[".weights.h5"], tmp_path / "copy.weights.h5")
    fingerprints = {FrozenNetwork(_with(toy, weights=str(w))).fingerprint for w in (headless[".weights.h5"], copy)}
    assert len(fingerprints) == 1


# A network of one's own.


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What people have: a frozen network inside a model, with a top of their own."""
    keras.utils.set_random_seed(5)
    image = keras.Input((32, 32, 3))
    base = keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=None, input_shape=(32, 32, 3))
    base.trainable = False
    features = keras.layers.GlobalAveragePooling2D(name="features")(base(image, training=False))
    model = keras.Model(image, keras.layers.Dense(3, name="mine")(keras.layers.Dropout(0.5)(features)))
    file = tmp_path_factory.mktemp("own") / "mine.keras"
    model.save(file)
    return file


def _own(toy: Backbone, file: Path, layer: str = "features", blocks: tuple[str, ...] = ()) -> Backbone:
    custom = Custom(feature_layer=layer, blocks=[*blocks], scale=1 / 127.5, offset=-1.0)
    return _with(toy, network="custom", alpha=1.0, weights=str(file), custom=custom)


@pytest.mark.parametrize("layer", ["features", "mobilenetv2_0.35_32"])
def test_a_network_of_one_s_own_gives_the_features_of_its_layer(toy: Backbone, own: Path, layer: str) -> None:
    backbone = _own(toy, own, layer)
    x = pictures(backbone)
    model = keras.models.load_model(own)
    expected = keras.Model(model.input, model.get_layer("features").output).predict_on_batch(x / 127.5 - 1)
    np.testing.assert_allclose(network(backbone).predict_on_batch(x), expected, rtol=1e-4, atol=1e-5)


def test_a_sequential_network_of_one_s_own(toy: Backbone, tmp_path: Path) -> None:
    layers = keras.layers
    convolution, maps = layers.Conv2D(4, 3, strides=2, name="maps"), layers.ReLU(name="features")
    model = keras.Sequential([keras.Input((32, 32, 3)), convolution, maps, layers.Flatten(), layers.Dense(2)])
    model.save(tmp_path / "mine.keras")
    backbone = _own(toy, tmp_path / "mine.keras", blocks=("maps",))
    x = pictures(backbone)
    expected = np.asarray(maps(convolution(x / 127.5 - 1))).mean(axis=(1, 2))
    np.testing.assert_allclose(network(backbone).predict_on_batch(x), expected, rtol=1e-4, atol=1e-5)


def test_a_network_inside_one_s_own_can_be_fine_tuned_and_cut(toy: Backbone, own: Path) -> None:
    backbone = _own(toy, own, blocks=("Conv_1", "block_16_expand"))
    model = network(backbone)
    first = first_layer(model, backbone, Unfreeze(blocks=2))
    assert model.layers[first].name == "block_16_expand"
    assert all(layer.trainable for layer in model.layers)
    assert model.operations[cut(model, first)].name == "block_15_add"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": "nowhere"}, "expected a layer of mine.keras, found 'nowhere'; its last ones are .*features.*mine"),
        ({"input_size": 64}, "input_size: expected mine.keras to take images of 64 x 64 x 3, found .*32, 32, 3"),
        ({"blocks": ("nothing",)}, "custom.blocks: expected names of layers, found 'nothing'"),
        ({"blocks": ()}, "unfreeze.blocks: expected at most 0 for custom, found 1"),
    ],
)
def test_mistakes_about_one_s_own_network_are_one_sentence(
    toy: Backbone, own: Path, changes: dict[str, Any], message: str
) -> None:
    size = changes.pop("input_size", 32)
    backbone = _with(_own(toy, own, **changes), input_size=size)
    with pytest.raises(UserError, match=message):
        first_layer(network(backbone), backbone, Unfreeze(blocks=1))


@pytest.mark.parametrize(
    ("shape", "name", "message"),
    [
        ((8,), "features", "expected mine.keras to take images of 32 x 32 x 3, found .*8"),
        ((32, 32, 3), "pooling", "expected other names for the layers of mine.keras than pooling"),
    ],
)
def test_a_network_of_one_s_own_that_cannot_serve_is_refused(
    toy: Backbone, tmp_path: Path, shape: tuple[int, ...], name: str, message: str
) -> None:
    image = keras.Input(shape)
    keras.Model(image, keras.layers.Flatten(name=name)(image)).save(tmp_path / "mine.keras")
    with pytest.raises(UserError, match=message):
        network(_own(toy, tmp_path / "mine.keras", name))


def test_a_file_that_holds_no_model_is_refused(toy: Backbone, tmp_path: Path) -> None:
    (tmp_path / "mine.keras").write_text("no model")
    with pytest.raises(UserError, match="expected a Keras model with layers in mine.keras, found: .*model.save"):
        network(_own(toy, tmp_path / "mine.keras"))
