"""Adapted BatchNorm statistics: those of the images, computed once, used by the network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from tests.helpers import options, pictures
from tests.helpers.families import family
from thaw.config.schema import Augment, Backbone
from thaw.data.manifest import Record
from thaw.errors import UserError
from thaw.networks import adaptation
from thaw.networks.backbones import FrozenNetwork, batchnorms, network
from thaw.networks.views import View, Wanted, of


@pytest.fixture
def images(tmp_path: Path) -> list[View]:
    """More than a batch of 32 px pictures, and not a multiple of one."""
    records = []
    for n in range(adaptation.BATCH + 9):
        Image.fromarray(pictures.pixels(n, 32, 32)).save(tmp_path / f"{n}.png")
        records.append(Record(f"{n}.png", "a", "train", f"sha {n}", 32, 32, ""))
    return [image[0] for image in of(records, Augment.model_validate(options.AUGMENT), 0)]


def shown(images: list[View]) -> Wanted:
    """Each image as it is, and of one more, which is not learnt from."""
    other = replace(images[0], record=replace(images[0].record, path="no such file", split="val"))
    return [[image] for image in (*images, other)]


def test_the_first_statistics_are_those_of_all_images_together(
    toy: Backbone, images: list[View], tmp_path: Path
) -> None:
    found = np.load(adaptation.statistics(toy, shown(images), tmp_path))
    whole = network(toy)
    first = keras.Model(whole.input, batchnorms(whole)[0].input)
    maps = first.predict_on_batch(np.stack([view.load(tmp_path, 32, toy.fit) for view in images]))
    np.testing.assert_allclose(found["mean_0"], maps.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(found["variance_0"], maps.var(axis=(0, 1, 2)), rtol=1e-3)
    assert len(found.files) == 2 * len(batchnorms(whole))


def test_a_network_uses_them_and_is_another_one(toy: Backbone, images: list[View], tmp_path: Path) -> None:
    file = adaptation.statistics(toy, shown(images), tmp_path)
    plain, adapted = FrozenNetwork(toy), FrozenNetwork(toy, statistics=file)
    assert plain.fingerprint != adapted.fingerprint
    last = batchnorms(adapted.build())[-1]
    with np.load(file) as found:
        np.testing.assert_array_equal(last.moving_mean, found[f"mean_{len(found.files) // 2 - 1}"])
    x = np.stack([view.load(tmp_path, 32, toy.fit) for view in images[:3]])
    assert not np.allclose(plain.build().predict_on_batch(x), adapted.build().predict_on_batch(x))


def test_they_are_computed_once(
    toy: Backbone, images: list[View], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = adaptation.statistics(toy, shown(images), tmp_path)
    monkeypatch.setattr(adaptation, "_moments", None)
    assert adaptation.statistics(toy, shown(images), tmp_path) == first


def test_a_network_without_batchnorm_has_nothing_to_adapt(toy: Backbone, images: list[View], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected BatchNorm layers to adapt, found none in vgg16; set it to frozen"):
        adaptation.statistics(family(toy, "vgg16"), shown(images), tmp_path)


def test_folded_statistics_are_not_adapted(toy: Backbone, images: list[View], tmp_path: Path) -> None:
    plain: Any = keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=None, input_shape=(32, 32, 3))
    plain.save_weights(tmp_path / "folded.weights.h5")
    folded = toy.model_copy(update={"weights": str(tmp_path / "folded.weights.h5")})
    with pytest.raises(UserError, match="found means of 0 throughout, as where they are folded"):
        adaptation.statistics(folded, shown(images), tmp_path)
