"""The backbones of the table, for tests that hold for each; the ones that take long to build are slow tests."""

from typing import Any

import numpy as np
import pytest

from thaw.architectures import ARCHITECTURES
from thaw.config.schema import Backbone

FAMILIES: list[Any] = [
    name if name in ("mobilenet_v2", "vgg16") else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(ARCHITECTURES)
]


def family(toy: Backbone, name: str, **changes: Any) -> Backbone:
    """The toy backbone as another network, with the smallest images that it takes."""
    facts = ARCHITECTURES[name]
    return toy.model_copy(
        update={"network": name, "alpha": facts.alphas[0], "input_size": facts.least, "weights": "random", **changes}
    )


def pictures(backbone: Backbone, count: int = 8) -> Any:
    """Noise of the size that a backbone takes."""
    side = backbone.input_size
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
