"""Small pictures for tests: every number gives a picture of its own."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixels(number: int, height: int = 6, width: int = 8) -> NDArray[np.uint8]:
    """Random pixels (height × width × 3)."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, number: int = 0) -> Path:
    """Write picture ``number`` in the format of the suffix, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(number)).save(path)
    return path


def fill(folder: Path, classes: dict[str, int], start: int = 0) -> Path:
    """Write so many different pictures into each class folder; no two calls with other ``start`` share one."""
    number = start
    for name, count in classes.items():
        for index in range(count):
            save(folder / name / f"{index:03d}.png", number)
            number += 1
    return folder
