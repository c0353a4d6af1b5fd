"""Networks, built once, and pictures for them."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thaw.config.schema import Backbone
from thaw.data.manifest import Record, Split
from thaw.networks.backbones import FrozenNetwork

_build = FrozenNetwork.build


@lru_cache(maxsize=4)
def _built(fingerprint: str, network: FrozenNetwork) -> Any:
    return _build(network)


@pytest.fixture
def built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a network that has just been built as it is: to build the smallest takes longer than most tests."""
    monkeypatch.setattr(FrozenNetwork, "build", lambda network: _built(network.fingerprint, network))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six pictures of noise, see ``records``."""
    random = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for n in range(6):
        Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{n}.png")
    return folder


def records(count: int = 6) -> list[Record]:
    """The manifest's rows of the first of them."""
    splits: list[Split] = ["train", "train", "val", "test", "train", "test"]
    return [Record(f"{n}.png", "a", splits[n], f"hash{n}", 48, 40, "") for n in range(count)]


def plain(toy: Backbone) -> Backbone:
    """A backbone that TensorFlow runs: it needs no conversion, which is all that would take time here."""
    return toy.model_copy(update={"engine": "tensorflow"})
