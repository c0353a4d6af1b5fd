"""Changes of low rank: what is trained, where it starts, and what is left of it."""

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from tests.helpers.families import FAST, family, pictures
from thaw.config.schema import Backbone, Unfreeze
from thaw.errors import UserError
from thaw.learning import lora, training
from thaw.learning.finetuning import above, classifier, rates, unfreeze
from thaw.learning.heads import Head
from thaw.networks.backbones import FrozenNetwork
from thaw.networks.cutting import cut, first_layer, output

RANK = 2
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])
ADAPTED = [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
    for name in (
        *(f"hub {one}" for one in ("dinov2", "dinov3", "vit", "deit", "clip", "siglip", "swin")),
        "convnext_tiny",
    )
]


def _adapted(toy: Backbone, name: str, count: int = 2, seed: int = 0, precision: str = "float32") -> tuple[Any, int]:
    """A classifier whose last blocks have changes of low rank, and where it is cut."""
    backbone = family(toy, name)
    model = _plain(backbone, precision)
    first = first_layer(model, backbone, Unfreeze(blocks=count))
    unfreeze(model, first, rank=RANK, seed=seed)
    return model, cut(model, first)


def _plain(backbone: Backbone, precision: str = "float32") -> Any:
    width = FrozenNetwork(backbone).build().outputs[0].shape[-1]
    random = np.random.default_rng(0)
    kernel, bias = random.normal(size=(width, 3)) / width, random.normal(size=3)
    head = Head([(kernel.astype(np.float32), bias.astype(np.float32))])
    return classifier(backbone, head, dropout=0, seed=0, precision=precision)


def _nudge(model: Any) -> None:
    """Change all that is trained, so that the factors B are not zero any more."""
    random = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(variable + random.normal(0, 0.05, variable.shape))


def _logits(model: Any, images: Any) -> Any:
    return np.asarray(model(images))


@pytest.mark.parametrize("name", ADAPTED)
def test_only_changes_of_low_rank_and_the_head_are_trained(toy: Backbone, name: str) -> None:
    model, boundary = _adapted(toy, name)
    _nudge(model)
    below = keras.Model(model.inputs, output(model, model.operations[boundary])).predict_on_batch(
        pictures(family(toy, name))
    )
    part = above(model, boundary)
    assert {id(one) for one in part.trainable_variables} == {id(one) for one in model.trainable_variables}
    assert {one.path.split("/")[-1] if "logits" not in one.path else one.path for one in part.trainable_variables} == {
        "lora_kernel_a",
        "lora_kernel_b",
        "logits/kernel",
        "logits/bias",
    }
    for variable, gradient in zip(part.trainable_variables, _gradients(part, below), strict=True):
        assert gradient is not None, variable.path
        assert np.abs(gradient).max() > 0, variable.path


def _gradients(model: Any, x: Any) -> list[Any]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = keras.losses.sparse_categorical_crossentropy(LABELS, model(x, training=True), from_logits=True)
    found = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    return [None if one is None else tf.convert_to_tensor(one).numpy() for one in found]


@pytest.mark.parametrize("name", ADAPTED)
def test_at_first_nothing_is_changed(toy: Backbone, name: str) -> None:
    backbone = family(toy, name)
    model, _ = _adapted(toy, name)
    np.testing.assert_array_equal(_logits(model, pictures(backbone)), _logits(_plain(backbone), pictures(backbone)))


@pytest.mark.parametrize("name", ADAPTED)
def test_the_split_model_is_trained_as_the_whole_model(toy: Backbone, name: str) -> None:
    """Three steps of plain gradient descent, in which the weights move by the gradients themselves."""
    trained = []
    for split in (False, True):
        model, boundary = _adapted(toy, name)
        _nudge(model)
        before = training.weights(model)
        x, part = pictures(family(toy, name)), model
        if split:
            x = keras.Model(model.inputs, output(model, model.operations[boundary])).predict_on_batch(x)
            part = above(model, boundary)
        part.compile(keras.optimizers.SGD(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        part.fit(x, LABELS, batch_size=8, epochs=3, shuffle=False, verbose=0)
        trained.append([new - old for new, old in zip(training.weights(model), before, strict=True)])
    for whole, parts, old in zip(*trained, before, strict=True):
        rounding = 2 * np.spacing(np.abs(old).max())  # of the weights themselves
        np.testing.assert_allclose(parts, whole, atol=max(1e-3 * np.abs(whole).max(), rounding), rtol=1e-2)


@pytest.mark.parametrize("name", ADAPTED)
def test_merged_it_says_the_same_and_is_an_ordinary_network(toy: Backbone, tmp_path: Path, name: str) -> None:
    backbone = family(toy, name)
    model, boundary = _adapted(toy, name)
    top, plain, images = above(model, boundary), _plain(backbone), pictures(backbone)
    x = keras.Model(model.inputs, output(model, model.operations[boundary])).predict_on_batch(images)
    start, before = _logits(model, images), training.weights(top)
    _nudge(model)
    expected, traced = _logits(model, images), top.predict_on_batch(x)
    lora.merge(top, before)
    assert np.abs(expected - start).max() > 0.01
    np.testing.assert_allclose(_logits(model, images), expected, atol=1e-5)
    np.testing.assert_allclose(top.predict_on_batch(x), traced, atol=1e-5)  # a function from before the merging
    assert [one.shape for one in model.variables] == [one.shape for one in plain.variables]
    model.save_weights(tmp_path / "model.weights.h5")
    plain.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(_logits(plain, images), _logits(model, images))


def _arrays(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, one: found.update({name: one.dtype} if isinstance(one, h5py.Dataset) else {}))
    return found


def test_a_file_of_merged_weights_holds_what_it_holds_without_even_if_trained_in_bfloat16(
    toy: Backbone, tmp_path: Path
) -> None:
    model, _ = _adapted(toy, "hub dinov2", precision="bfloat16")
    lora.merge(model, training.weights(model))
    model.save_weights(tmp_path / "merged.weights.h5")
    _plain(family(toy, "hub dinov2")).save_weights(tmp_path / "plain.weights.h5")
    # What differs in name is what the process has built before.
    merged, plain = (_arrays(tmp_path / f"{which}.weights.h5") for which in ("merged", "plain"))
    assert [*merged.values()] == [*plain.values()]


def test_between_before_and_after_are_mixtures_of_kernels(toy: Backbone) -> None:
    """As ``policy.settle`` makes them: the line between two products is not that between their factors."""
    model, boundary = _adapted(toy, "hub dinov2")
    top = above(model, boundary)
    kernels = {one.path: np.array(one) for one in top.variables if one.path.endswith("/kernel")}
    before = training.weights(top)
    _nudge(top)
    before = lora.merge(top, before)
    assert len(before) == len(top.trainable_variables) > 2
    for variable, old in zip(top.trainable_variables, before, strict=True):
        if variable.path.endswith("/kernel"):
            np.testing.assert_array_equal(old, kernels[variable.path])
            assert np.abs(np.array(variable) - old).max() > 0


def test_without_changes_there_is_nothing_to_merge(toy: Backbone) -> None:
    model = _plain(toy)
    before = training.weights(model)
    after = lora.merge(model, before)
    assert [id(one) for one in after] == [id(one) for one in before]


def _factors(model: Any, layer: str) -> list[Any]:
    return [np.array(one) for one in model.trainable_variables if layer in one.path and one.path.endswith("_a")]


def test_where_a_layer_starts_depends_on_the_seed_and_not_on_what_else_is_unfrozen(toy: Backbone) -> None:
    two, three, other = (
        _factors(_adapted(toy, "hub dinov2", count, seed)[0], "layers_2") for count, seed in ((2, 0), (3, 0), (2, 1))
    )
    assert len(two) == 6
    for found, deeper, reseeded in zip(two, three, other, strict=True):
        np.testing.assert_array_equal(found, deeper)
        assert not np.array_equal(found, reseeded)
    shapes = [(one.shape, one.tobytes()) for one in two]
    assert len({*shapes}) == len(shapes), "queries, keys and values start from factors of their own"


def test_rates_fall_from_block_to_block(toy: Backbone) -> None:
    model, _ = _adapted(toy, "hub dinov2")
    found = rates(model, family(toy, "hub dinov2"), 0.5)
    shares = {one.path: found[one.path] for one in model.trainable_variables}
    assert {share for path, share in shares.items() if "layers_2" in path} == {0.5}
    assert {share for path, share in shares.items() if "layers_1" in path} == {0.25}


def test_a_convolutional_network_is_refused(toy: Backbone) -> None:
    with pytest.raises(UserError, match=r"lora: expected Dense layers in the part .* found none; set it to 0"):
        _adapted(toy, "mobilenet_v2")
