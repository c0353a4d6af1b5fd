"""Networks, built once."""

from functools import lru_cache
from typing import Any

import pytest

from thaw.networks.backbones import FrozenNetwork

_build = FrozenNetwork.build


@lru_cache(maxsize=4)
def _built(fingerprint: str, network: FrozenNetwork) -> Any:
    return _build(network)


@pytest.fixture
def built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a network that has just been built as it is: to build the smallest takes longer than most tests."""
    monkeypatch.setattr(FrozenNetwork, "build", lambda network: _built(network.fingerprint, network))
