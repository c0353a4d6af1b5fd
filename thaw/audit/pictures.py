"""Every picture, looked at once: what it is by itself, without a network, and which are odd.

The measures are those of cleanvision, and are taken at ``SIDE`` pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.data import images
from thaw.errors import UserError

SIDE = 64  # pixels of the longer side
DARK, LIGHT = 50, 205  # of 255: nothing is brighter (but for 1% of the pixels), or darker, than that
EMPTY = 2.0  # of 255: the brightness of an empty picture has a lower standard deviation
LONG = 3.0  # times as long as wide
SMALL = 0.1  # of the median number of pixels
BLURRED = 0.25  # of the median sharpness, and
ONLY_BLURRED = 0.02  # at most so sharp


@dataclass(frozen=True)
class Look:
    """What a picture is by itself.

    Attributes:
        grey: brightness, 0 to 255 (height × width, at most ``SIDE`` pixels long).
        kind: the format of the file.
        width, height: pixels.
        size: bytes of the file.
        camera: as the file names it, or nothing.
        colour: mean saturation, 0 to 1.
    """

    grey: NDArray[np.uint8]
    kind: str
    width: int
    height: int
    size: int
    camera: str
    colour: float

    @property
    def brightness(self) -> float:
        """The mean, 0 to 255."""
        return float(self.grey.mean())

    @property
    def contrast(self) -> float:
        """The standard deviation, 0 to 255."""
        return float(self.grey.std())

    @property
    def sharpness(self) -> float:
        """The variance of the Laplacian, as a share of the picture's own variance: 0 for what is blurred."""
        if min(self.grey.shape) < 3:
            return 1.0
        grey = self.grey.astype(np.float64)
        middle = grey[1:-1, 1:-1]
        laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
        return float(laplacian.var() / max(grey.var(), 1.0))


def look(path: Path) -> Look:
    """Look at a picture that ``prepare`` accepted.

    Raises:
        UserError: it is not usable any more.
    """
    try:
        picture = images.decode(path, at_least=2 * SIDE)
        kind, (width, height) = images.about(path)
    except images.Unusable as error:
        raise UserError(
            f"{path}: expected the image that prepare indexed, found {error}; run 'dvc repro' again"
        ) from None
    scale = min(1.0, SIDE / max(picture.size))
    side = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture.resize(side, Image.Resampling.BOX)
    saturation = float(np.asarray(small.convert("HSV"))[..., 1].mean()) / 255
    return Look(
        np.asarray(small.convert("L")), kind, width, height, images.length(path), images.camera(path), saturation
    )


def odd(looks: Sequence[Look]) -> dict[int, str]:
    """Say what is odd about pictures, by row: empty, dark, light, long, or small or blurred beside the others."""
    pixels = np.array([one.width * one.height for one in looks])
    sharpness = np.array([one.sharpness for one in looks])
    blurred = min(BLURRED * float(np.median(sharpness)), ONLY_BLURRED)
    found = {}
    for row, one in enumerate(looks):
        low, high = np.percentile(one.grey, [1, 99])
        longer, shorter = max(one.width, one.height), min(one.width, one.height)
        if one.contrast < EMPTY:
            found[row] = "Nothing is to be seen: all of it has the same brightness."
        elif high < DARK:
            found[row] = "It is nearly black."
        elif low > LIGHT:
            found[row] = "It is nearly white."
        elif longer > LONG * shorter:
            found[row] = f"It is {longer / shorter:.1f} times as long as wide: {one.width} × {one.height} pixels."
        elif pixels[row] < SMALL * np.median(pixels):
            found[row] = f"It has few pixels beside the others: {one.width} × {one.height}."
        elif sharpness[row] < blurred:
            found[row] = "It is blurred: it has little detail beside the others."
    return found
