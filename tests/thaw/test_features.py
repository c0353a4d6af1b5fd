"""The feature store: what was computed once is not computed again, by whoever."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thaw import features, images
from thaw.backbones import FrozenNetwork
from thaw.config import Augment, Backbone
from thaw.features import Store, extract, views
from thaw.manifest import Record, Split

NONE = Augment(views=0, flip="none", rotation=0, shift=0, zoom=0)
LIGHT = Augment(views=2, flip="horizontal", rotation=10, shift=0.05, zoom=0.1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for n in range(6):
        Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{n}.png")
    return folder


def _records(count: int = 6) -> list[Record]:
    splits: list[Split] = ["train", "train", "val", "test", "train", "test"]
    return [Record(f"{n}.png", "a", splits[n], f"hash{n}", 48, 40, "") for n in range(count)]


def _network(toy: Backbone) -> FrozenNetwork:
    # TensorFlow needs no conversion, which is all that would take time here.
    return FrozenNetwork(toy.model_copy(update={"engine": "tensorflow"}))


def test_features_stand_in_the_order_wanted(toy: Backbone, data: Path, tmp_path: Path) -> None:
    extract(_network(toy), views(_records(), NONE, 0), data, tmp_path / "all.npy", "")
    computed = extract(_network(toy), views(_records()[::-1], NONE, 0), data, tmp_path / "reversed.npy", "")
    forwards, backwards = np.load(tmp_path / "all.npy"), np.load(tmp_path / "reversed.npy")
    assert forwards.shape == (6, 1, 1280)
    assert computed == 0
    np.testing.assert_array_equal(forwards, backwards[::-1])


def test_only_what_is_missing_is_computed(toy: Backbone, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    assert extract(_network(toy), views(_records(4), NONE, 0), data, out, "") == 4
    assert extract(_network(toy), views(_records(6), NONE, 0), data, out, "") == 2
    assert extract(_network(toy), views(_records(6), NONE, 1), data, out, "") == 0, "a seed changes no plain image"
    assert extract(_network(toy), views(_records(6), LIGHT, 0), data, out, "") == 2 * 3, "two views of three images"
    assert extract(_network(toy), views(_records(6), LIGHT, 1), data, out, "") == 2 * 3, "other views"


def test_other_code_for_the_pixels_finds_no_stale_features(
    toy: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = views(_records(1), NONE, 0)
    assert extract(_network(toy), wanted, data, tmp_path / "x.npy", "") == 1
    edited = tmp_path / "images.py"
    edited.write_text("# another way to resize\n")
    monkeypatch.setattr(images, "__file__", str(edited))
    assert extract(_network(toy), wanted, data, tmp_path / "x.npy", "") == 1


def test_only_training_images_are_augmented(toy: Backbone, data: Path, tmp_path: Path) -> None:
    extract(_network(toy), views(_records(), LIGHT, 0), data, tmp_path / "x.npy", "")
    x = np.load(tmp_path / "x.npy")
    assert x.shape == (6, 3, 1280)
    for record, row in zip(_records(), x, strict=True):
        assert np.array_equal(row[0], row[1]) == (record.split != "train")


def test_a_killed_extraction_keeps_its_shards(
    toy: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SHARD_BYTES", 4 * 1280 * 2)  # two images a shard
    load = images.load

    def load_until(path: Path, size: int) -> Any:
        if path.name == "4.png":
            raise KeyboardInterrupt
        return load(path, size)

    with monkeypatch.context() as patch:
        patch.setattr(images, "load", load_until)
        with pytest.raises(KeyboardInterrupt):
            extract(_network(toy), views(_records(), NONE, 0), data, tmp_path / "x.npy", "")
    assert not (tmp_path / "x.npy").exists()
    assert extract(_network(toy), views(_records(), NONE, 0), data, tmp_path / "x.npy", "") == 2


def test_two_processes_may_fill_one_store(tmp_path: Path) -> None:
    ours, theirs = Store(tmp_path), Store(tmp_path)
    ours.add(["a", "b"], np.zeros((2, 3), np.float32))
    theirs.add(["b", "c"], np.ones((2, 3), np.float32))
    both = Store(tmp_path)
    assert all(key in both for key in "abc")
    both.copy([["c"], ["a"]], tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy")[:, 0, 0], [1, 0])


def test_a_shard_without_its_keys_does_not_count(tmp_path: Path) -> None:
    Store(tmp_path).add(["a"], np.zeros((1, 3), np.float32))
    next(tmp_path.glob("*.keys")).unlink()
    assert "a" not in Store(tmp_path)


def test_an_augmented_view_is_known_by_how_it_was_made() -> None:
    def keys(augment: Augment, seed: int = 0) -> list[str]:
        return [view.key for image in views(_records(1), augment, seed) for view in image]

    more = LIGHT.model_copy(update={"views": 3})
    assert keys(LIGHT)[0] == "hash0"
    assert keys(more)[:3] == keys(LIGHT), "more views keep the ones there are"
    assert not set(keys(LIGHT)[1:]) & set(keys(LIGHT, seed=1))
    assert not set(keys(LIGHT)[1:]) & set(keys(LIGHT.model_copy(update={"zoom": 0.2})))
