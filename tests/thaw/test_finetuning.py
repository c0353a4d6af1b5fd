"""The classifier, what of it is trained, and where it is split."""

from typing import Any

import keras
import numpy as np
import pytest

from thaw import finetuning
from thaw.backbones import ARCHITECTURES, FrozenNetwork
from thaw.config import Backbone, Unfreeze
from thaw.errors import UserError
from thaw.finetuning import above, classifier, cut, unfreeze
from thaw.heads import Head
from thaw.training import compiled

TOPS = [Unfreeze(blocks=1), Unfreeze(blocks=2), Unfreeze(layers=20), Unfreeze(layers=60)]


@pytest.fixture
def head() -> Head:
    random = np.random.default_rng(0)
    return Head(random.normal(size=(1280, 3)).astype(np.float32), random.normal(size=3).astype(np.float32))


@pytest.fixture
def pictures() -> Any:
    return np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


def _below(model: Any, boundary: int) -> Any:
    return keras.Model(model.inputs, model.operations[boundary].output)


def test_the_head_on_the_features_is_the_classifier(toy: Backbone, head: Head, pictures: Any) -> None:
    keras.utils.set_random_seed(0)
    features = FrozenNetwork(toy).build().predict_on_batch(pictures)
    keras.utils.set_random_seed(0)
    logits = classifier(toy, head, dropout=0, seed=0).predict_on_batch(pictures)
    assert features.shape == (8, ARCHITECTURES["mobilenet_v2"].width(toy.alpha))
    np.testing.assert_allclose(head.logits(features), logits, atol=1e-5)


@pytest.mark.parametrize("top", TOPS, ids=str)
def test_the_split_model_has_the_logits_of_the_whole_model(
    toy: Backbone, head: Head, pictures: Any, top: Unfreeze
) -> None:
    model = classifier(toy, head, dropout=0, seed=0)
    unfreeze(model, toy, top)
    boundary = cut(model)
    below = _below(model, boundary).predict_on_batch(pictures)
    np.testing.assert_allclose(
        above(model, boundary).predict_on_batch(below), model.predict_on_batch(pictures), atol=1e-5
    )


@pytest.mark.parametrize("top", TOPS, ids=str)
def test_the_split_model_learns_as_the_whole_model_does(
    toy: Backbone, head: Head, pictures: Any, top: Unfreeze
) -> None:
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    trained = []
    for split in (False, True):
        keras.utils.set_random_seed(0)
        model = classifier(toy, head, dropout=0, seed=0)
        unfreeze(model, toy, top)
        x: Any = pictures
        part = model
        if split:
            boundary = cut(model)
            x, part = _below(model, boundary).predict_on_batch(pictures), above(model, boundary)
        # Plain gradient descent: the weights move by the gradients themselves.
        part.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        part.fit(x, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
        trained.append(model.get_weights())
    assert len(model.trainable_variables) > 0
    for whole, parts in zip(*trained, strict=True):
        np.testing.assert_allclose(parts, whole, atol=1e-4, rtol=1e-3)


def test_only_what_is_unfrozen_moves_and_no_batchnorm_does(toy: Backbone, head: Head, pictures: Any) -> None:
    model = classifier(toy, head, dropout=0, seed=0)
    unfreeze(model, toy, Unfreeze(blocks=2))
    before = {variable.path: np.array(variable) for variable in model.variables}
    meant = {variable.path for variable in model.trainable_variables}
    compiled(model, 1e-3).fit(pictures, np.array([0, 1, 2, 0, 1, 2, 0, 1]), epochs=1, verbose=0)
    moved = {
        v.path for v in model.variables if "seed" not in v.path and not np.array_equal(before[v.path], np.array(v))
    }
    assert moved == meant
    assert not any("BN" in path or "bn" in path for path in moved)
    assert any("block_16" in path for path in moved)
    assert not any("block_15" in path for path in moved)


def test_every_block_boundary_exists_and_blocks_run_from_the_output_to_the_input(toy: Backbone, head: Head) -> None:
    names = [layer.name for layer in classifier(toy, head, dropout=0, seed=0).layers]
    places = [names.index(block) for block in ARCHITECTURES["mobilenet_v2"].blocks]
    assert places == sorted(places, reverse=True)


@pytest.mark.parametrize(
    ("top", "message"), [(Unfreeze(layers=1000), "expected at most 153"), (Unfreeze(blocks=99), "expected at most 19")]
)
def test_more_than_there_is_cannot_be_unfrozen(toy: Backbone, head: Head, top: Unfreeze, message: str) -> None:
    with pytest.raises(UserError, match=message):
        unfreeze(classifier(toy, head, dropout=0, seed=0), toy, top)


def test_fine_tuning_does_not_start_from_other_logits_than_the_head_s() -> None:
    logits = np.zeros((2, 3), np.float32)
    finetuning.check_start(logits, logits + 1e-4)
    with pytest.raises(UserError, match="expected to start from the logits of the trained head"):
        finetuning.check_start(logits, logits + 1)
