"""How deep, how fast and how long; and what validation keeps of it."""

import math
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import options
from tests.helpers.families import FAMILIES, family
from thaw.architectures import ARCHITECTURES
from thaw.config.composing import compose
from thaw.config.schema import Auto, Backbone, Finetune, Unfreeze
from thaw.learning import policy
from thaw.learning.examples import Examples
from thaw.learning.policy import paced, rungs, settle
from thaw.learning.training import Rung, Validation, weights
from thaw.networks import cutting
from thaw.networks.backbones import network
from thaw.networks.outputs import Array


def _auto(effort: str = "normal") -> Auto:
    return Auto.model_validate(options.AUTO | {"effort": effort})


def test_by_hand_there_is_one_rung_which_is_what_was_set(toy: Backbone) -> None:
    config = Finetune.model_validate(options.FINETUNE | {"epochs": 3, "warmup": 0.5, "batch_size": 16})
    assert rungs(config, None, toy, 100) == [Rung(Unfreeze(blocks=1), 0.0001, 10, 21, 16)]


@pytest.fixture(scope="module")
def model() -> Any:
    return network(Backbone.model_validate(options.BACKBONE))


@settings(max_examples=50, deadline=None)
@given(images=st.integers(3, 100_000), effort=st.sampled_from([*policy.LADDERS]))
def test_few_images_are_not_learnt_by_heart_and_of_many_none_is_left_out(model: Any, images: int, effort: str) -> None:
    epoch = math.ceil(images / 64)
    for rung in rungs(_auto(effort), model, Backbone.model_validate(options.BACKBONE), images):
        assert 2 * epoch <= rung.steps <= rung.most <= 20 * epoch
        assert rung.most <= 400 or rung.most == 2 * epoch
        assert 0 < rung.warmup < rung.steps


@pytest.mark.parametrize("name", FAMILIES)
def test_half_of_every_network_is_trained_and_all_of_it_by_the_thorough(toy: Backbone, name: str) -> None:
    backbone = family(toy, name)
    whole = network(backbone)
    half, everything = rungs(_auto("thorough"), whole, backbone, 1000)
    assert half.unfreeze.blocks == len(cutting.blocks(whole, backbone)) // 2
    assert cutting.first_layer(whole, backbone, half.unfreeze) > cutting.span(whole)[0]
    assert everything.unfreeze == Unfreeze(all=True)
    assert rungs(_auto(), whole, backbone, 1000) == [half]
    (third,) = rungs(_auto("quick"), whole, backbone, 1000)
    assert (third.unfreeze.blocks or 0) < (half.unfreeze.blocks or 0)


def test_a_network_whose_blocks_are_not_known_is_counted_in_layers(toy: Backbone, monkeypatch: Any, model: Any) -> None:
    monkeypatch.setattr(cutting, "blocks", lambda *_: ())
    (rung,) = rungs(_auto(), model, toy, 1000)
    first, above = cutting.span(model)
    assert rung.unfreeze == Unfreeze(layers=(above - first) // 2)


def test_a_narrow_network_is_given_more_steps_because_each_is_cheap(toy: Backbone) -> None:
    steps = {}
    for alpha, size in ((0.35, 32), (1.0, 224)):
        backbone = toy.model_copy(update={"alpha": alpha, "input_size": size})
        (rung,) = rungs(_auto(), network(backbone), backbone, 1000)
        steps[alpha] = rung.steps
    assert steps == {0.35: 320, 1.0: 125}


def test_a_multiplication_is_counted_for_each_weight_and_place() -> None:
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same"),
            layers.DepthwiseConv2D(3, strides=2, padding="same"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )
    assert policy.multiplications(model, 0) == 64 * 9 * 3 * 4 + 16 * 9 * 4 + 4 * 5
    assert policy.multiplications(model, 1) == 16 * 9 * 4 + 4 * 5


# How fast.

HIGHEST = Rung(Unfreeze(blocks=2), None, 10, 100, 32)


def _network(scale: float, images: int = 200) -> tuple[Any, Examples]:
    """A linear model with an output that is ``scale`` times as sensitive to its weights, and what it learns from."""
    random = np.random.default_rng(0)
    y = random.integers(0, 3, images)
    x = random.normal(size=(images, 5)).astype(np.float32)
    layers = keras.layers
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3, use_bias=False), layers.Rescaling(scale)])
    model.layers[0].kernel.assign(random.normal(size=(5, 3)) / scale)
    return model, Examples(Array(x[:, np.newaxis]), np.arange(images), y)


@pytest.mark.parametrize("images", [200, 20])
def test_the_rate_is_lower_where_a_step_moves_the_output_further(images: int) -> None:
    rates = [paced(HIGHEST, _auto(), *_network(scale, images), 0, {"steps": 0}).learning_rate for scale in (1e4, 2e4)]
    assert rates[0] == pytest.approx(2 * (rates[1] or 0), rel=0.05)


@pytest.mark.parametrize(("rate", "steps"), [(1e-3, 100), (4e-4, 200), (1e-4, 250)])
def test_where_the_rate_has_to_be_low_there_are_more_steps(rate: float, steps: int) -> None:
    rung = Rung(Unfreeze(blocks=2), None, 10, 100, 32, most=250)
    found = paced(rung, _auto(), None, None, 0, {"steps": 5, "rate": rate})  # type: ignore[arg-type]
    assert (found.learning_rate, found.steps, found.warmup) == (rate, steps, min(50, steps // 3))


def test_finding_the_rate_leaves_the_weights_and_stays_in_its_bounds() -> None:
    for scale, bound in ((1e-6, policy.RATES[1]), (1e9, policy.RATES[0])):
        model, train = _network(scale)
        before, story = weights(model), {"steps": 0}
        assert paced(HIGHEST, _auto(), model, train, 0, story).learning_rate == story["rate"] == bound
        np.testing.assert_array_equal(weights(model), before)


def test_a_rung_that_goes_on_keeps_its_rate_and_one_set_by_hand_the_one_that_was_set() -> None:
    going_on: dict[str, Any] = {"steps": 5, "rate": 0.003}
    assert paced(HIGHEST, _auto(), None, None, 0, going_on).learning_rate == 0.003  # type: ignore[arg-type]
    by_hand = Rung(Unfreeze(blocks=2), 0.25, 10, 100, 32)
    assert paced(by_hand, _auto(), None, None, 0, {"steps": 0}) is by_hand  # type: ignore[arg-type]


# What validation keeps.

RUNG = Rung(Unfreeze(blocks=2), 0.001, 10, 100, 32)


def _settled(after: np.ndarray[Any, Any], images: int = 200, seed: int = 0) -> tuple[dict[str, Any], Any, Any]:
    """A linear model, whose weights before and after a rung are given, on images that the identity tells apart."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, images)
    x = (2 * np.eye(3)[y] + random.normal(size=(images, 3))).astype(np.float32)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, use_bias=False)])
    model.layers[0].kernel.assign(np.eye(3) + 0.8 * random.normal(size=(3, 3)))
    before = weights(model)
    model.layers[0].kernel.assign(after)
    found = settle(model, before, Validation(Examples(Array(x[:, np.newaxis]), np.arange(images), y)), RUNG)
    (start,) = before
    return found, start, np.array(model.layers[0].kernel)


def test_what_is_better_is_kept() -> None:
    found, _, kept = _settled(np.eye(3))
    assert found["share"] == 1.0
    np.testing.assert_array_equal(kept, np.eye(3))
    assert [one["share"] for one in found["found"]] == [*policy.SHARES]
    assert found["found"][0]["change"] == 0
    assert found["found"][-1]["change"] == pytest.approx(found["found"][-1]["brier"] - found["found"][0]["brier"])
    assert found["images"] == 3200
    assert found["done"] == "the last 2 blocks, 100 steps at up to 0.001"


def test_what_is_worse_is_taken_back() -> None:
    found, before, kept = _settled(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], float))
    assert found["share"] == 0
    np.testing.assert_array_equal(kept, before)


def test_of_what_went_too_far_a_share_is_kept() -> None:
    _, before, _ = _settled(np.eye(3))
    found, _, kept = _settled(before + 2 * (np.eye(3) - before))
    assert found["share"] == 0.5
    assert [one["share"] for one in found["found"]] == [*policy.SHARES]
    np.testing.assert_allclose(kept, np.eye(3), atol=1e-6)


def test_what_is_the_same_stays_the_same() -> None:
    _, before, _ = _settled(np.eye(3))
    _, start, kept = _settled(before)
    np.testing.assert_allclose(kept, start, atol=1e-6)


def test_few_images_choose_nothing_outright_and_many_the_best() -> None:
    """The best share is the half. By a few images it is about as likely as the whole, which is not taken for it."""
    shares = []
    for images in (3, 30, 3000):
        _, before, _ = _settled(np.eye(3), images=images)
        shares.append(_settled(before + 2 * (np.eye(3) - before), images=images)[0]["share"])
    assert shares[0] not in policy.SHARES
    assert shares[-1] == 0.5


def test_a_hill_between_two_good_places_is_taken_back() -> None:
    """Hidden units in another order are the same function, and those of both orders mixed are a worse one."""
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 200)
    x = (2 * np.eye(3)[y] + random.normal(size=(200, 3))).astype(np.float32)
    layers, turned = keras.layers, np.eye(3)[[1, 2, 0]]
    hidden = layers.Dense(3, use_bias=False, activation="relu")
    model = keras.Sequential([keras.Input((3,)), hidden, layers.Dense(3, use_bias=False)])
    model.set_weights([np.eye(3), 2 * np.eye(3)])
    before = weights(model)
    model.set_weights([turned, 2 * turned.T])
    found = settle(model, before, Validation(Examples(Array(x[:, np.newaxis]), np.arange(200), y)), RUNG)
    assert found["share"] == 0
    first, *_, last = found["found"]
    assert last["brier"] == pytest.approx(first["brier"])


def test_what_chance_explains_is_no_reason_to_take_all_back() -> None:
    _, before, _ = _settled(np.eye(3), images=30)
    worse = 0
    for seed in range(20):
        after = before + 0.7 * np.random.default_rng(seed).normal(size=(3, 3))
        found, *_ = _settled(after, images=30)
        rest = [one for one in found["found"] if one["share"] not in policy.SHARES]
        for mean in rest:
            assert (found["share"] == mean["share"]) == (mean["change"] <= mean["error"])
            worse += 0 < mean["change"] <= mean["error"]
    assert worse


def test_noise_in_the_weights_moves_what_is_kept_by_as_little() -> None:
    """No difference of the last bits decides between all and nothing."""
    _, before, _ = _settled(np.eye(3), images=30)
    after = before + 2 * (np.eye(3) - before)
    noise = [1e-4 * np.random.default_rng(seed).normal(size=(3, 3)) for seed in range(10)]
    shares = [_settled(after + one, images=30)[0]["share"] for one in noise]
    assert max(shares) - min(shares) <= 0.01


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_extraction_keeps_what_stands_below_the_half_that_is_trained(name: str) -> None:
    backbone = compose([f"backbone={name}"], ["backbone"])["backbone"]
    assert backbone.keep_blocks == len(ARCHITECTURES[name].blocks) // 2
