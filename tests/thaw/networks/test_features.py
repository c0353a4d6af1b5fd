"""The feature store: what was computed once is not computed again, by whoever."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import options
from tests.thaw.networks.conftest import plain, records
from thaw.artifacts import cache
from thaw.config.schema import Augment, Backbone
from thaw.data import images
from thaw.errors import UserError
from thaw.networks import engine, features, views
from thaw.networks.backbones import FrozenNetwork, network
from thaw.networks.cutting import kept_operation
from thaw.networks.features import Store, extract, frozen, prune, size
from thaw.networks.outputs import Source
from thaw.networks.views import of

pytestmark = pytest.mark.usefixtures("built_once")
NONE = Augment.model_validate(options.AUGMENT)
LIGHT = NONE.model_copy(update={"views": 2, "flip": "horizontal", "rotation": 10, "shift": 0.05, "zoom": 0.1})


def _limited(toy: Backbone, limit: float) -> FrozenNetwork:
    return FrozenNetwork(plain(toy).model_copy(update={"cache_limit_gb": limit / 1e9}))


def test_features_stand_in_the_order_wanted(toy: Backbone, data: Path, tmp_path: Path) -> None:
    extract(plain(toy), of(records(), NONE, 0), data, tmp_path / "all.npy")
    computed = extract(plain(toy), of(records()[::-1], NONE, 0), data, tmp_path / "reversed.npy")
    forwards, backwards = np.load(tmp_path / "all.npy"), np.load(tmp_path / "reversed.npy")
    assert forwards.shape == (6, 1, 1280)
    assert computed == 0
    np.testing.assert_array_equal(forwards, backwards[::-1])


def test_only_what_is_missing_is_computed(toy: Backbone, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    assert extract(plain(toy), of(records(4), NONE, 0), data, out) == 4
    assert extract(plain(toy), of(records(6), NONE, 0), data, out) == 2
    assert extract(plain(toy), of(records(6), NONE, 1), data, out) == 0, "a seed changes no plain image"
    assert extract(plain(toy), of(records(6), LIGHT, 0), data, out) == 2 * 3, "two views of three images"
    assert extract(plain(toy), of(records(6), LIGHT, 1), data, out) == 2 * 3, "other views"


@pytest.mark.parametrize("module", ["images", "augmentation", "engine"])
def test_other_code_finds_no_stale_features(
    toy: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    wanted = of(records(1), NONE, 0)
    assert extract(plain(toy), wanted, data, tmp_path / "x.npy") == 1
    edited = tmp_path / f"{module}.py"
    edited.write_text("# another way\n")
    monkeypatch.setattr(features, "CODE", [edited if path.stem == module else path for path in features.CODE])
    assert extract(plain(toy), wanted, data, tmp_path / "x.npy") == 1


def test_only_training_images_are_augmented(toy: Backbone, data: Path, tmp_path: Path) -> None:
    extract(plain(toy), of(records(), LIGHT, 0), data, tmp_path / "x.npy")
    x = np.load(tmp_path / "x.npy")
    assert x.shape == (6, 3, 1280)
    for record, row in zip(records(), x, strict=True):
        assert np.array_equal(row[0], row[1]) == (record.split != "train")


def test_a_killed_extraction_keeps_its_shards(
    toy: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SHARD_BYTES", 4 * 1280 * 2)  # two images a shard
    monkeypatch.setattr(engine, "BATCH", 2)
    load = images.load

    def load_until(path: Path, size: int, fit: str) -> Any:
        if path.name == "4.png":
            raise KeyboardInterrupt
        return load(path, size, fit)

    with monkeypatch.context() as patch:
        patch.setattr(images, "load", load_until)
        with pytest.raises(KeyboardInterrupt):
            extract(plain(toy), of(records(), NONE, 0), data, tmp_path / "x.npy")
    assert not (tmp_path / "x.npy").exists()
    assert extract(plain(toy), of(records(), NONE, 0), data, tmp_path / "x.npy") == 2


def test_two_processes_may_fill_one_store(tmp_path: Path) -> None:
    ours, theirs = Store(tmp_path, "<f4"), Store(tmp_path, "<f4")
    ours.add(["a", "b"], np.zeros((2, 3), np.float32))
    theirs.add(["b", "c"], np.ones((2, 3), np.float32))
    both = Store(tmp_path, "<f4")
    assert all(key in both for key in "abc")
    both.copy([["c"], ["a"]], tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy")[:, 0, 0], [1, 0])


def test_shards_are_of_whole_batches(
    toy: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is not full takes a GPU as long as one that is."""
    monkeypatch.setattr(engine, "BATCH", 2)
    for room, rows in ((1, [2, 2, 2]), (5 * 1280 * 4, [4, 2])):
        monkeypatch.setattr(features, "SHARD_BYTES", room)
        monkeypatch.setenv("THAW_CACHE", str(tmp_path / f"cache_{room}"))
        extract(plain(toy), of(records(), NONE, 0), data, tmp_path / "x.npy")
        kept = [len(file.read_text().split()) for file in (cache() / "features").glob("*/*.keys")]
        assert sorted(kept, reverse=True) == rows


def test_a_shard_without_its_keys_does_not_count(tmp_path: Path) -> None:
    Store(tmp_path, "<f4").add(["a"], np.zeros((1, 3), np.float32))
    next(tmp_path.glob("*.keys")).unlink()
    assert "a" not in Store(tmp_path, "<f4")


def test_an_augmented_view_is_known_by_how_it_was_made() -> None:
    def keys(augment: Augment, seed: int = 0) -> list[str]:
        return [view.key for image in of(records(1), augment, seed) for view in image]

    more = LIGHT.model_copy(update={"views": 3})
    assert keys(LIGHT)[0] == "hash0"
    assert keys(more)[:3] == keys(LIGHT), "more views keep the ones there are"
    assert not set(keys(LIGHT)[1:]) & set(keys(LIGHT, seed=1))
    assert not set(keys(LIGHT)[1:]) & set(keys(LIGHT.model_copy(update={"zoom": 0.2})))


# Outputs of a frozen part for training: from the store, or streamed.


def _everything(source: Source, count: int) -> Any:
    rows = np.arange(count)
    return np.stack([source.take(rows, view) for view in range(source.views)], axis=1)


@pytest.mark.parametrize("name", ["openvino", "tensorflow"])
def test_what_is_streamed_is_what_is_stored(toy: Backbone, data: Path, name: str) -> None:
    keeping = FrozenNetwork(toy.model_copy(update={"engine": name}), 60)
    wanted = of(records(), LIGHT, 0)
    streamed = frozen(FrozenNetwork(keeping.backbone.model_copy(update={"cache_limit_gb": 0.0}), 60), 0, wanted, data)
    assert not [*(cache() / "features").glob("*/*.npy")], "nothing is kept"
    before = _everything(streamed, 6)
    stored = frozen(keeping, 0, wanted, data)
    assert (streamed.views, streamed.shape) == (stored.views, stored.shape) == (3, before.shape[2:])
    np.testing.assert_array_equal(_everything(stored, 6), before)
    again = stored.take(np.array([4, 1]), 2)
    np.testing.assert_array_equal(again, before[[4, 1], 2])
    np.testing.assert_array_equal(streamed.take(np.array([4, 1]), 2), again)


def test_the_limit_is_what_the_outputs_take(toy: Backbone, data: Path) -> None:
    wanted = of(records(), LIGHT, 0)
    needed = size(wanted, (1280,))
    assert needed == {"outputs": 6 + 2 * 3, "shape": [1280], "bytes": 12 * 1280 * 4}
    assert isinstance(frozen(_limited(toy, needed["bytes"] - 1), 0, wanted, data), features.Streamed)
    assert isinstance(frozen(_limited(toy, needed["bytes"] + 1), 0, wanted, data), features.Stored)
    assert isinstance(frozen(_limited(toy, 0), 0, wanted, data), features.Stored), "it is there: nothing to save"


def test_more_than_the_disk_holds_is_streamed(toy: Backbone, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage(data)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert isinstance(frozen(_limited(toy, 1e9), 0, of(records(), NONE, 0), data), features.Streamed)


def test_a_complete_store_needs_no_engine(toy: Backbone, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = of(records(), NONE, 0)
    first = _everything(frozen(_limited(toy, 1e9), 0, wanted, data), 6)
    monkeypatch.setattr(engine, "start", None)
    np.testing.assert_array_equal(_everything(frozen(_limited(toy, 1e9), 0, wanted, data), 6), first)


def test_extraction_keeps_what_fine_tuning_will_start_from(toy: Backbone, data: Path, tmp_path: Path) -> None:
    keeping, wanted = plain(toy).model_copy(update={"keep_blocks": 2}), of(records(), LIGHT, 0)
    assert extract(keeping, wanted, data, tmp_path / "x.npy") == 6 + 2 * 3
    whole = network(keeping)
    below = FrozenNetwork.below(whole, kept_operation(whole, keeping), keeping)
    assert below == (FrozenNetwork(keeping), 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "start", None)
        found = _everything(frozen(*below, wanted, data), 6)
    alone = FrozenNetwork(plain(toy), kept_operation(whole, keeping))
    np.testing.assert_allclose(found, _everything(frozen(alone, 0, wanted, data), 6), atol=1e-5)
    extract(plain(toy), wanted, data, tmp_path / "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), np.load(tmp_path / "y.npy"), atol=1e-5)


def test_what_extraction_would_keep_beyond_the_limit_it_does_not(toy: Backbone, data: Path, tmp_path: Path) -> None:
    limited = plain(toy).model_copy(update={"keep_blocks": 2, "cache_limit_gb": 0.0})
    wanted = of(records(), NONE, 0)
    assert extract(limited, wanted, data, tmp_path / "x.npy") == 6, "the features themselves are needed"
    assert extract(limited, wanted, data, tmp_path / "x.npy") == 0
    streamed = frozen(FrozenNetwork(limited), 1, wanted, data)
    assert isinstance(streamed, features.Streamed)
    more = limited.model_copy(update={"cache_limit_gb": 1.0})
    assert extract(more, wanted, data, tmp_path / "x.npy") == 6
    np.testing.assert_array_equal(
        _everything(frozen(FrozenNetwork(more), 1, wanted, data), 6), _everything(streamed, 6)
    )


# What the cache holds, and getting rid of it.


def test_prune_deletes_what_was_not_used_for_long(toy: Backbone, data: Path, tmp_path: Path) -> None:
    small, large = (toy.model_copy(update={"engine": "openvino", "input_size": side}) for side in (32, 64))
    for backbone in (small, large):
        extract(backbone, of(records(), NONE, 0), data, tmp_path / "x.npy")
    long_ago = time.time() - 10 * features.DAY
    for one in features.contents():
        if "32 px" in one.name:
            os.utime(next(file for file in one.files if file.name == features.NAME), (long_ago, long_ago))
    assert prune(days=11) == 0
    assert prune(days=9) > 6 * 1280 * 4
    assert [one.outputs for one in features.contents() if one.outputs] == [6], "what is used stays"
    assert extract(large, of(records(), NONE, 0), data, tmp_path / "x.npy") == 0
    assert extract(small, of(records(), NONE, 0), data, tmp_path / "x.npy") == 6, "and is computed again"
    prune(days=0)
    assert [path for path in cache().rglob("*") if path.is_file()] == []


def test_using_features_keeps_them_from_being_pruned(toy: Backbone, data: Path, tmp_path: Path) -> None:
    extract(plain(toy), of(records(), NONE, 0), data, tmp_path / "x.npy")
    (used,) = cache().glob(f"features/*/{features.NAME}")
    os.utime(used, (0, 0))
    extract(plain(toy), of(records(), NONE, 0), data, tmp_path / "x.npy")
    assert prune(days=1) == 0


def test_the_command_lists_and_prunes(
    toy: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(plain(toy), of(records(), NONE, 0), data, tmp_path / "x.npy")
    monkeypatch.setattr("sys.argv", ["features"])
    features.main()
    said = capsys.readouterr().out
    assert "6 outputs  used   0 days ago  mobilenet_v2 0.35, 32 px, random, tensorflow float32, bottleneck" in said
    monkeypatch.setattr("sys.argv", ["features", "--prune"])
    features.main()
    assert "0.0 MB deleted: unused for 30 days" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["features", "--prune", "0"])
    features.main()
    assert "6 outputs" not in capsys.readouterr().out


def test_training_images_are_mixed_with_each_other_and_the_labels_follow(data: Path) -> None:
    mixing = LIGHT.model_copy(update={"mixup": 0.5, "cutmix": 1.0})
    six = records(6)
    wanted = of(six, mixing, 0)
    mixed = views.mixes(wanted)
    train = [row for row, record in enumerate(six) if record.split == "train"]
    assert {*mixed.partners[train, 1:].ravel()} <= {*train}
    assert (mixed.shares[:, 0] == 1).all(), "the image itself"
    assert all((mixed.shares[row] == 1).all() for row in range(len(six)) if row not in train)
    assert (mixed.shares[train, 1:] < 1).any()
    assert not np.array_equal(
        wanted[train[0]][1].load(data, 16, "crop"), of(six, LIGHT, 0)[train[0]][1].load(data, 16, "crop")
    )
    assert wanted[train[0]][1].key != of(six, LIGHT, 0)[train[0]][1].key


def test_features_for_which_there_is_no_room_are_refused_before_the_work(
    toy: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 100))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="expected 0.0 GB of free disk for the bottleneck features, found 0.0 GB"):
        extract(plain(toy), of(records(2), NONE, 0), data, tmp_path / "x.npy")
    assert "bottleneck features: 2 x (1280,), 0 MB" in capsys.readouterr().out
    assert not (tmp_path / "x.npy").exists()
