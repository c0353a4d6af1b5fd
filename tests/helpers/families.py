"""The backbones of the table and of KerasHub, for tests that hold for each; most take long to build: slow tests."""

import re
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import hub
from thaw.architectures import ARCHITECTURES, HUB
from thaw.config.schema import Backbone, Unfreeze

FAST = ("mobilenet_v2", "vgg16", "hub dinov2")


def marked(names: Iterable[str]) -> list[Any]:
    """Parameters of tests, which are slow ones unless a network is built in no time."""
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


# Larger siblings of networks that are tested, and Inception with shortcuts: more of the same units, which the tests of
# the table look for.
LARGER = re.compile(
    r"resnet1..(_v2)?|densenet(169|201)|efficientnet_b[1-5]|efficientnet_v2_(b[1-3]|s)|convnext_(small|base)|vgg19"
    r"|inception_resnet_v2"
)
TABLE = marked(sorted(ARCHITECTURES))
FAMILIES = marked(
    [
        *(name for name in sorted(ARCHITECTURES) if not LARGER.fullmatch(name)),
        *(f"{HUB} {name}" for name in hub.PRESETS),
    ]
)


@cache
def preset(name: str) -> Path:
    """A random preset of a family of KerasHub, written once."""
    return hub.write(name, Path(tempfile.mkdtemp(prefix="preset")) / name)


def tops(backbone: Backbone) -> list[Unfreeze]:
    """Parts of a network that may be trained; those for tests are small if they are KerasHub's."""
    few = backbone.network == HUB
    return [Unfreeze(blocks=1), Unfreeze(blocks=2 if few else 3), Unfreeze(layers=3 if few else 12)]


def family(toy: Backbone, name: str, **changes: Any) -> Backbone:
    """The toy backbone as another network, with the smallest images that it takes."""
    if name.startswith(HUB):
        random = {"weights": str(preset(name.split()[1])), "input_size": hub.SIDE, "keep_blocks": 0, "alpha": 1.0}
        return toy.model_copy(update={"network": HUB, **random, **changes})
    facts = ARCHITECTURES[name]
    return toy.model_copy(
        update={"network": name, "alpha": facts.alphas[0], "input_size": facts.least, "weights": "random", **changes}
    )


def pictures(backbone: Backbone, count: int = 8) -> Any:
    """Noise of the size that a backbone takes."""
    side = backbone.input_size
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
