"""Random changes to training images, made anew from hashes: no state, so neither threads nor order change a picture.

The random numbers for an image are a hash of its content, the number of the view and the seed.
"""

import hashlib
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from thaw.config.schema import Augment

Pixels = NDArray[np.uint8]  # height × width × 3


def augment(image: Pixels, options: Augment, key: str, view: int, seed: int) -> Pixels:
    """Make one random variation of a picture.

    First it is flipped, turned, sheared, zoomed and shifted, in one step; then its light is changed; then come
    RandAugment's operations, and at last a part may be erased.

    Args:
        image: the picture.
        options: how much of each; nothing happens where all are 0.
        key: names the picture (its sha256).
        view: the number of the variation.
        seed: another one gives other variations.

    Returns:
        A picture of the same shape.
    """
    name = f"{seed}/{view}/{key}"
    image = _moved(image, options, name)
    if options.brightness or options.contrast:
        image = _relit(image, options, name)
    if options.randaugment:
        image = _randaugmented(image, options, name)
    if options.erase:
        image = _erased(image, options, name)
    return image


def share(options: Augment, key: str, view: int, seed: int) -> float:
    """How much of a mixed picture, and so of its label, is the picture itself; the rest is another one. See ``mix``."""
    return _mixture(options, f"{seed}/{view}/{key}")[1]


def mix(image: Pixels, other: Pixels, options: Augment, key: str, view: int, seed: int) -> Pixels:
    """Mix two pictures of the same size.

    Either both are blended (MixUp, Zhang et al. 2018, arXiv:1710.09412), or a rectangle of the second is pasted into
    the first (CutMix, Yun et al. 2019, arXiv:1905.04899); where both are configured, by turns of a coin. The larger
    part is always of the first.

    Args:
        image, other: the pictures, already augmented.
        options: ``mixup`` and ``cutmix``, of which one at least is not 0.
        key, view, seed: as in ``augment``.
    """
    name = f"{seed}/{view}/{key}"
    blend, own = _mixture(options, name)
    if blend:
        return np.rint(own * image + (1 - own) * other.astype(np.float64)).astype(np.uint8)
    height, width = image.shape[:2]
    side = math.sqrt(1 - own)
    x, y = _draw(name, "box", 2)
    top, left = round(y * (1 - side) * height), round(x * (1 - side) * width)
    pasted = image.copy()
    box = (slice(top, top + round(side * height)), slice(left, left + round(side * width)))
    pasted[box] = other[box]
    return pasted


def partner(count: int, key: str, view: int, seed: int) -> int:
    """Draw which of so many pictures a picture is mixed with."""
    return int(_draw(f"{seed}/{view}/{key}", "partner", 1)[0] * count)


def _mixture(options: Augment, name: str) -> tuple[bool, float]:
    """Whether to blend or to paste, and the share of the first picture."""
    (coin,) = _draw(name, "mixture", 1)
    blend = bool(options.mixup) and (not options.cutmix or coin < 0.5)
    alpha = options.mixup if blend else options.cutmix
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"beta").digest()
    drawn = np.random.default_rng(int.from_bytes(digest, "little")).beta(alpha, alpha)
    return blend, float(max(drawn, 1 - drawn))


def _draw(name: str, purpose: str, count: int) -> NDArray[np.float64]:
    """At most eight random numbers in [0, 1)."""
    digest = hashlib.blake2b(name.encode(), digest_size=8 * count, person=purpose.encode()).digest()
    return np.frombuffer(digest, "<u8") / 2.0**64


def _moved(image: Pixels, options: Augment, name: str) -> Pixels:
    mirror_x, mirror_y, turn, zoom, shift_x, shift_y = _draw(name, "", 6)
    (shear,) = _draw(name, "shear", 1)
    mirror = [
        -1 if options.flip in ("horizontal", "both") and mirror_x < 0.5 else 1,
        -1 if options.flip in ("vertical", "both") and mirror_y < 0.5 else 1,
    ]
    angle = math.radians((2 * turn - 1) * options.rotation)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    slope = math.tan(math.radians((2 * shear - 1) * options.shear))
    matrix = np.diag(mirror) @ rotation @ np.array([[1, slope], [0, 1]]) / (1 + (2 * zoom - 1) * options.zoom)
    return _transformed(image, matrix, options.shift * (2 * np.array([shift_x, shift_y]) - 1))


def _transformed(image: Pixels, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> Pixels:
    """Move a picture about its centre; what leaves the frame on one side is mirrored in on the other.

    Args:
        image: the picture.
        matrix: the way back, as PIL asks for it: where in the source each pixel of the result comes from (2 × 2).
        shift: to the right and down, as shares of the width and the height.
    """
    size = np.array([image.shape[1], image.shape[0]], dtype=float)
    offset = size / 2 - matrix @ (size / 2 + shift * size)
    # Outside the source PIL paints black, so the source is continued with its mirror image as far as it is looked at.
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * size @ matrix.T + offset
    margin = max(0, math.ceil(max(-corners.min(), (corners - size).max())))
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), "symmetric")
    affine = np.column_stack([matrix, offset + margin]).ravel().tolist()
    result = Image.fromarray(padded).transform(
        (image.shape[1], image.shape[0]), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    )
    return np.array(result)


def _relit(image: Pixels, options: Augment, name: str) -> Pixels:
    brightness, contrast = 2 * _draw(name, "light", 2) - 1
    picture = ImageEnhance.Brightness(Image.fromarray(image)).enhance(1 + brightness * options.brightness)
    return np.array(ImageEnhance.Contrast(picture).enhance(1 + contrast * options.contrast))


Change = Callable[[Image.Image, float], Image.Image]


def _affine(matrix: Callable[[float], list[list[float]]], shift: Callable[[float], list[float]]) -> Change:
    def change(picture: Image.Image, strength: float) -> Image.Image:
        moved = _transformed(np.array(picture), np.array(matrix(strength)), np.array(shift(strength)))
        return Image.fromarray(moved)

    return change


def _still(_: float) -> list[float]:
    return [0.0, 0.0]


def _upright(_: float) -> list[list[float]]:
    return [[1.0, 0.0], [0.0, 1.0]]


def _turned(strength: float) -> list[list[float]]:
    angle = math.radians(30 * strength)
    return [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]


# The operations of RandAugment (Cubuk et al. 2020, arXiv:1909.13719) without inverting; each takes a strength in
# [-1, 1], of which some use only the size. The largest changes are those of the paper.
OPERATIONS: Mapping[str, Change] = {
    "autocontrast": lambda picture, _: ImageOps.autocontrast(picture),
    "equalize": lambda picture, _: ImageOps.equalize(picture),
    "posterize": lambda picture, strength: ImageOps.posterize(picture, 8 - round(4 * abs(strength))),
    "solarize": lambda picture, strength: ImageOps.solarize(picture, 256 - round(256 * abs(strength))),
    "color": lambda picture, strength: ImageEnhance.Color(picture).enhance(1 + 0.9 * strength),
    "contrast": lambda picture, strength: ImageEnhance.Contrast(picture).enhance(1 + 0.9 * strength),
    "brightness": lambda picture, strength: ImageEnhance.Brightness(picture).enhance(1 + 0.9 * strength),
    "sharpness": lambda picture, strength: ImageEnhance.Sharpness(picture).enhance(1 + 0.9 * strength),
    "rotate": _affine(_turned, _still),
    "shear x": _affine(lambda strength: [[1.0, 0.3 * strength], [0.0, 1.0]], _still),
    "shear y": _affine(lambda strength: [[1.0, 0.0], [0.3 * strength, 1.0]], _still),
    "translate x": _affine(_upright, lambda strength: [0.45 * strength, 0.0]),
    "translate y": _affine(_upright, lambda strength: [0.0, 0.45 * strength]),
}


def _randaugmented(image: Pixels, options: Augment, name: str) -> Pixels:
    picture = Image.fromarray(image)
    operations = list(OPERATIONS.values())
    for choice, sign in _draw(name, "randaugment", 2 * options.randaugment).reshape(-1, 2):
        strength = options.magnitude if sign < 0.5 else -options.magnitude
        picture = operations[int(choice * len(operations))](picture, strength)
    return np.array(picture)


def _erased(image: Pixels, options: Augment, name: str) -> Pixels:
    """In every second view, paint a rectangle with one colour (Zhong et al. 2020, arXiv:1708.04896)."""
    happens, area, shape, x, y, *colour = _draw(name, "erase", 8)
    if happens >= 0.5:
        return image
    height, width = image.shape[:2]
    pixels = area * options.erase * height * width
    aspect = math.exp((2 * shape - 1) * math.log(3))  # from 1:3 to 3:1
    tall, wide = min(height, int(math.sqrt(pixels * aspect))), min(width, int(math.sqrt(pixels / aspect)))
    top, left = int(y * (height - tall + 1)), int(x * (width - wide + 1))
    erased = image.copy()
    erased[top : top + tall, left : left + wide] = (256 * np.array(colour)).astype(np.uint8)
    return erased
