"""Heads on subsets: nested, with the shares of the classes, whole groups, the same twice, and bounded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaw.data.manifest import Record
from thaw.learning import subsets

CLASSES = ["cat", "cow", "dog"]


def made(folder: Path, images: int = 240, seed: int = 0, group: str = "") -> tuple[Path, list[Record]]:
    """Features that tell the classes apart ever better, and the manifest."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(CLASSES), images)
    records = [
        Record(
            f"{row}.png", CLASSES[label], "val" if row % 3 == 0 else "train", f"sha {row}", 9, 9, group and f"{row % 9}"
        )
        for row, label in enumerate(labels.tolist())
    ]
    features = (1.5 * np.eye(len(CLASSES), 12)[labels] + random.normal(size=(images, 12))).astype(np.float32)
    np.save(folder / "features.npy", features[:, np.newaxis])
    return folder / "features.npy", records


def measure(made: tuple[Path, list[Record]], **options: Any) -> subsets.Measured | None:
    return subsets.measure(*made, CLASSES, "none", 0, **options)


def test_more_images_make_heads_better(tmp_path: Path) -> None:
    found = measure(made(tmp_path, images=1200))
    assert found is not None
    assert found.sizes == [100, 200, 400, 800]
    assert found.images == 800
    assert [right.shape for right in found.right] == [(subsets.DRAWS, 400)] * 3 + [(1, 400)]
    accuracies = [right.mean() for right in found.right]
    assert accuracies[0] < accuracies[1] < accuracies[3]
    assert 0.6 < accuracies[0] < accuracies[3] < 0.95


def test_the_same_twice_and_another_with_another_seed(tmp_path: Path) -> None:
    made_ = made(tmp_path)
    first, again = measure(made_), measure(made_)
    other = subsets.measure(*made_, CLASSES, "none", 1)
    assert first is not None
    assert again is not None
    assert other is not None
    assert all((one == two).all() for one, two in zip(first.right, again.right, strict=True))
    assert not all((one == two).all() for one, two in zip(first.right, other.right, strict=True))


def test_a_part_of_the_images_is_all_that_is_seen(tmp_path: Path) -> None:
    found = measure(made(tmp_path), within=0.5)
    assert found is not None
    assert found.sizes[-1] == found.images == 80


def test_too_much_work_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "WORK", 80 * 12 * len(CLASSES))
    found = measure(made(tmp_path))
    assert found is not None
    assert found.sizes == [10, 20, 40, 80]
    assert found.images == 160


@pytest.mark.parametrize("images", [30, 3 * subsets.LEAST - 3])
def test_few_images_say_nothing(tmp_path: Path, images: int) -> None:
    assert measure(made(tmp_path, images=images)) is None


def test_class_weights_count(tmp_path: Path) -> None:
    made_ = made(tmp_path)
    weighted = subsets.measure(*made_, CLASSES, {"cat": 50.0, "cow": 1.0, "dog": 1.0}, 0)
    plain = measure(made_)
    assert weighted is not None
    assert plain is not None
    cats = plain.y == 0
    assert weighted.right[-1][0][cats].mean() > plain.right[-1][0][cats].mean()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_every_beginning_has_the_shares_of_the_whole_and_whole_groups(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    y = np.repeat(np.arange(len(counts)), counts)
    groups = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=len(y), max_size=len(y)))
    size = data.draw(st.integers(1, len(y)))
    order = subsets.ordered(y, groups, np.random.default_rng(data.draw(st.integers(0, 9))))
    assert sorted(order.tolist()) == list(range(len(y)))
    for number, count in enumerate(counts):
        own = order[y[order] == number]
        taken = np.isin(own, order[:size]).sum()
        assert abs(taken - size * count / len(y)) <= len(counts) + 1
        of = [groups[place] for place in own]
        assert [name for name, before in zip(of, ["", *of], strict=False) if name != before] == list(dict.fromkeys(of))
