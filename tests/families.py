"""The backbones of the table, for tests that hold for each; the ones that take long to build are slow tests."""

from typing import Any

import pytest

from thaw.backbones import ARCHITECTURES
from thaw.config import WITH_ALPHA, Backbone

FAMILIES: list[Any] = [
    name if name in ("mobilenet_v2", "vgg16") else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(ARCHITECTURES)
]


def family(toy: Backbone, name: str, **changes: Any) -> Backbone:
    """The toy backbone as another network."""
    alpha = toy.alpha if name in WITH_ALPHA else 1.0
    return toy.model_copy(update={"network": name, "alpha": alpha, **changes})
