"""The classifier, what of it is trained, and where it is split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.helpers import options
from tests.helpers.families import FAMILIES, family, pictures, tops
from thaw.architectures import ARCHITECTURES
from thaw.config.schema import Backbone, Unfreeze
from thaw.errors import UserError
from thaw.learning import finetuning
from thaw.learning.examples import Inputs
from thaw.learning.finetuning import above, classifier, unfreeze
from thaw.learning.heads import Head
from thaw.networks.backbones import FrozenNetwork
from thaw.networks.cutting import blocks, cut, first_layer, output
from thaw.networks.outputs import Array
from thaw.networks.smoothing import smooth

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])


def _head(width: int) -> Head:
    random = np.random.default_rng(0)
    kernel = random.normal(size=(width, 3)).astype(np.float32) / width
    return Head([(kernel, random.normal(size=3).astype(np.float32))])


@pytest.fixture
def head() -> Head:
    return _head(1280)


@dataclass(frozen=True)
class Built:
    """A classifier, to be given back the weights that it began with: to build it takes longer than most tests."""

    model: Any
    backbone: Backbone
    width: int
    weights: list[Any]

    def fresh(self) -> tuple[Any, Backbone]:
        """The classifier as it began."""
        self.model.trainable = True
        self.model.set_weights(self.weights)
        return self.model, self.backbone


@pytest.fixture(scope="module", params=FAMILIES)
def built(request: pytest.FixtureRequest) -> Built:
    """A classifier of each family, with the smallest input."""
    backbone = family(Backbone.model_validate(options.BACKBONE), request.param)
    width = _width(backbone)
    model = classifier(backbone, _head(width), dropout=0, seed=0)
    return Built(model, backbone, width, model.get_weights())


def _width(backbone: Backbone) -> int:
    """How many features it has."""
    facts = ARCHITECTURES.get(backbone.network)
    return facts.features(backbone.alpha) if facts else FrozenNetwork(backbone).build().outputs[0].shape[-1]


def _enliven(model: Any) -> None:
    """Give it weights that keep signals at one size, where Keras' own may let them vanish, and drop nothing."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):  # EfficientNet drops whole blocks at random
            layer.rate = 0
        for weight in layer.weights:
            if len(weight.shape) == 4:
                alone = isinstance(layer, keras.layers.DepthwiseConv2D) or "depthwise" in weight.path
                inputs = np.prod(weight.shape[: 2 if alone else 3])
                weight.assign(random.normal(0, np.sqrt(2 / inputs), weight.shape))


def _below(model: Any, boundary: int) -> Any:
    return keras.Model(model.input, output(model, model.operations[boundary]))


def _unfrozen(model: Any, backbone: Backbone, top: Unfreeze) -> int:
    """Unfreeze the top; return where the model is cut."""
    first = first_layer(model, backbone, top)
    unfreeze(model, first)
    return cut(model, first)


def test_the_head_on_the_features_is_the_classifier(built: Built) -> None:
    model, backbone = built.fresh()
    x = pictures(backbone)
    features = FrozenNetwork(backbone).build().predict_on_batch(x)
    assert features.shape == (8, built.width)
    np.testing.assert_allclose(_head(built.width).logits(features), model.predict_on_batch(x), rtol=1e-4, atol=1e-4)


def test_saved_weights_loaded_again_give_the_same_logits(built: Built, tmp_path: Path) -> None:
    model, backbone = built.fresh()
    _enliven(model)
    x = pictures(backbone, 2)
    expected = model.predict_on_batch(x)
    model.save_weights(tmp_path / "model.weights.h5")
    other, _ = built.fresh()
    assert not np.array_equal(other.predict_on_batch(x), expected)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict_on_batch(x), expected)


def test_the_split_model_is_the_whole_model(built: Built) -> None:
    """For every top: the same logits, and the same gradient of every weight; what is below has nothing to train."""
    model, backbone = built.fresh()
    _enliven(model)
    images = pictures(backbone)
    for top in tops(backbone):
        boundary = _unfrozen(model, backbone, top)
        assert not any(getattr(one, "trainable_variables", []) for one in model.operations[: boundary + 1])
        part = above(model, boundary)
        x = _below(model, boundary)(images).numpy()  # as the whole model does: a deep random network enlarges rounding
        whole, split = (_logits_and_gradients(*pair) for pair in ((smooth(model), images), (part, x)))
        assert len(whole) == len(split) > 2
        rounding = 1e-6 * max(np.abs(expected).max() for expected in whole)  # all there is of the bias of keys
        for expected, found in zip(whole, split, strict=True):
            atol = max(1e-4 * np.abs(expected).max(), rounding)
            np.testing.assert_allclose(found, expected, atol=atol, rtol=1e-3)


def _logits_and_gradients(model: Any, x: Any) -> list[Any]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        logits = model(tf.convert_to_tensor(x), training=True)
        loss = keras.losses.sparse_categorical_crossentropy(LABELS, logits, from_logits=True)
    found = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    return [logits.numpy(), *(tf.convert_to_tensor(gradient).numpy() for gradient in found)]


def test_three_steps_lead_to_the_same_weights_and_leave_batchnorm_alone(built: Built) -> None:
    trained = []
    for split in (False, True):
        model, backbone = built.fresh()
        _enliven(model)
        boundary = _unfrozen(model, backbone, Unfreeze(blocks=2))
        frozen = {v.path: np.array(v) for v in model.non_trainable_variables if "seed" not in v.path}
        before = [np.array(variable) for variable in model.trainable_variables]
        x, part = pictures(backbone), smooth(model)
        if split:
            x, part = _below(model, boundary)(x).numpy(), above(model, boundary)
        # Plain gradient descent: the weights move by the gradients themselves. Eagerly, as graphs round in other ways.
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        part.compile(keras.optimizers.SGD(1e-3), loss, run_eagerly=True)
        part.fit(x, LABELS, batch_size=8, epochs=3, shuffle=False, verbose=0)
        for variable in model.non_trainable_variables:
            if "seed" not in variable.path:
                np.testing.assert_array_equal(np.array(variable), frozen[variable.path], err_msg=variable.path)
        trained.append([np.array(v) - old for v, old in zip(model.trainable_variables, before, strict=True)])
    for whole, parts, old in zip(*trained, before, strict=True):
        rounding = 2 * np.spacing(np.abs(old).max())  # of the weights themselves
        np.testing.assert_allclose(parts, whole, atol=max(1e-3 * np.abs(whole).max(), rounding), rtol=1e-2)


def test_without_batchnorm_there_is_none_to_train(toy: Backbone, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = family(toy, "hub dinov2")
    model = classifier(backbone, _head(_width(backbone)), dropout=0, seed=0)
    unfreeze(model, len(model.layers) - 1, batchnorm=True)
    assert "'batchnorm: train' has nothing to do: the network has no BatchNorm" in capsys.readouterr().out


def test_only_what_is_unfrozen_moves_and_no_batchnorm_does(toy: Backbone, head: Head) -> None:
    model = classifier(toy, head, dropout=0, seed=0)
    _unfrozen(model, toy, Unfreeze(blocks=2))
    before = {variable.path: np.array(variable) for variable in model.variables}
    meant = {variable.path for variable in model.trainable_variables}
    model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True))
    model.fit(pictures(toy), np.eye(3)[LABELS], epochs=1, verbose=0)
    moved = {
        v.path for v in model.variables if "seed" not in v.path and not np.array_equal(before[v.path], np.array(v))
    }
    assert moved == meant
    assert not any("BN" in path or "bn" in path for path in moved)
    assert any("block_16" in path for path in moved)
    assert not any("block_15" in path for path in moved)


def test_every_block_boundary_exists_and_blocks_run_from_the_output_to_the_input(built: Built) -> None:
    model, backbone = built.fresh()
    count = len(blocks(model, backbone))
    assert count > 1
    places = [first_layer(model, backbone, Unfreeze(blocks=number)) for number in range(1, count + 1)]
    assert places == sorted({*places}, reverse=True)
    trained = [layer.name for layer in model.layers[: places[-1]] if layer.trainable_weights]
    assert trained == [], "the last block is at the input"


def test_there_is_a_cut_close_below_every_block(built: Built) -> None:
    model, backbone = built.fresh()
    places = {id(operation): place for place, operation in enumerate(model.operations)}
    for number in range(1, len(blocks(model, backbone)) + 1):
        first = first_layer(model, backbone, Unfreeze(blocks=number))
        boundary = cut(model, first)
        never = (keras.layers.BatchNormalization, keras.layers.Normalization)
        above_it = next(layer for layer in model.layers[first:] if layer.weights and not isinstance(layer, never))
        assert 0 < places[id(above_it)] - boundary <= 27


def test_a_cut_does_not_depend_on_what_is_frozen(toy: Backbone, head: Head) -> None:
    """Else the outputs that extraction keeps for three blocks would be taken for those that two blocks start from."""
    model = classifier(toy, head, dropout=0, seed=0)
    firsts = [first_layer(model, toy, Unfreeze(blocks=blocks)) for blocks in (2, 3)]
    fresh = [cut(model, first) for first in firsts]
    assert len({*fresh}) == 2
    unfreeze(model, firsts[0])
    assert [cut(model, first) for first in firsts] == fresh
    kept = toy.model_copy(update={"keep_blocks": 3})
    assert FrozenNetwork.below(model, fresh[0], kept) == (FrozenNetwork(kept, fresh[0]), 0)
    assert FrozenNetwork.below(model, fresh[1], kept) == (FrozenNetwork(kept), 1)


@pytest.mark.parametrize(
    ("top", "message"), [(Unfreeze(layers=1000), "expected at most 153"), (Unfreeze(blocks=99), "expected at most 19")]
)
def test_more_than_there_is_cannot_be_unfrozen(toy: Backbone, head: Head, top: Unfreeze, message: str) -> None:
    with pytest.raises(UserError, match=message):
        first_layer(classifier(toy, head, dropout=0, seed=0), toy, top)


def test_fine_tuning_does_not_start_from_other_logits_than_the_head_s() -> None:
    random = np.random.default_rng(0)
    kernel, bias = random.normal(size=(4, 3)).astype(np.float32), np.zeros(3, np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.set_weights([kernel, bias])
    images = Inputs(Array(random.normal(size=(200, 1, 4)).astype(np.float32)), np.arange(200))
    finetuning.check_start(model, images, Head([(kernel, bias + 1e-4)]), images)
    with pytest.raises(UserError, match="expected to start from the logits of the trained head"):
        finetuning.check_start(model, images, Head([(kernel, bias + 1)]), images)
