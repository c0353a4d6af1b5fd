"""Copies that no hash finds: saved anew, resized, stretched, cropped, mirrored, turned, recoloured; and film frames.

What looks alike to the network is a candidate; the pixels decide. Two pictures are copies if the fine detail of one is
found in the other, at some scale and place, perhaps mirrored.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw import parallel
from thaw.audit.neighbours import Neighbours
from thaw.networks.outputs import Labels

CANDIDATES, LEAST_ALIKE = 3, 0.4  # of each picture: its nearest, where the features' correlation is so high
PAIRS = 4_000  # that are searched for each other's detail, at most: some ten seconds of two cores
LEAST = 24  # pixels of the shorter side: below, there is no detail to be found
SCALES = tuple(2 ** (-step / 12) for step in range(13))  # of one picture in the other, down to a half
FINER = tuple(2 ** (step / 48) for step in (-2, -1, 1, 2))  # around the best of them, for what may be a copy
DETAIL = 3  # pixels: what is wider than that is no detail, and alike in all pictures of a white sky
# Correlations from which on two pictures are copies; may be, at a closer look; and are worth the other half of SCALES.
SAME, NEARLY, PROMISING = 0.78, 0.6, 0.4
THUMB = 32  # pixels of a side, where pictures are compared as squares

Pair = tuple[int, int]
Floats = NDArray[np.floating[Any]]


def find(neighbours: Neighbours, pictures: Sequence[NDArray[np.uint8]]) -> dict[Pair, float]:
    """Find the copies among pictures: pairs of rows, the lower first, with their correlation.

    Args:
        neighbours: those whose features are most alike.
        pictures: in grey (height × width), all of one longer side but for those that are smaller.
    """
    nearest, similarity = neighbours.rows[:, :CANDIDATES], neighbours.similarity[:, :CANDIDATES]
    ones, column = np.nonzero(similarity >= LEAST_ALIKE)
    pairs = np.sort(np.stack([ones, nearest[ones, column]], axis=1), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    if len(pairs) > PAIRS:
        likely = np.maximum(similarity[ones, column][first], _overlaid(pictures, pairs))
        pairs = pairs[np.sort(np.argsort(-likely, kind="stable")[:PAIRS])]
    found = parallel.shown(lambda pair: shared(pictures[pair[0]], pictures[pair[1]]), pairs.tolist(), "audit: copies")
    return {(one, other): value for (one, other), value in zip(pairs.tolist(), found, strict=True) if value >= SAME}


def shared(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """How well the detail of one picture is found in the other (height × width each): the highest correlation.

    Normalised cross-correlation (Lewis 1995, "Fast normalized cross-correlation") of what is left when the surroundings
    of each pixel are taken away, over places, ``SCALES``, mirror images, and which is the part of which; and of both as
    squares, stretched and turned.

    Returns:
        Between -1 and 1; 0 where a picture is too small, or shows nothing.
    """
    if min(*one.shape, *other.shape) < LEAST:
        return 0.0
    best = _laid(*(_square(picture) for picture in (one, other)))
    for whole, part in ((one, other), (other, one)):
        search = _Search(whole)
        value, scale = max((search.correlation(part, scale), scale) for scale in SCALES[::2])
        if value >= PROMISING:
            value, scale = max((value, scale), *((search.correlation(part, scale), scale) for scale in SCALES[1::2]))
        if NEARLY <= value < SAME:
            value = max(value, *(search.correlation(part, min(1.0, scale * finer)) for finer in FINER))
        best = max(best, value)
    return best


class _Search:
    """A picture in which others are searched for."""

    def __init__(self, whole: NDArray[np.uint8]) -> None:
        self.detail = _detail(whole)
        self.spectrum = np.fft.rfft2(self.detail)
        self.sums, self.squares = _cumulative(self.detail), _cumulative(self.detail**2)

    def correlation(self, part: NDArray[np.uint8], scale: float) -> float:
        """The highest correlation of a picture, made smaller, or of its mirror image, with any place in this one."""
        height, width = (round(side * scale) for side in part.shape)
        if height > self.detail.shape[0] or width > self.detail.shape[1] or min(height, width) < LEAST / 2:
            return 0.0
        small = _detail(np.asarray(Image.fromarray(part).resize((width, height), Image.Resampling.BILINEAR)))
        small -= small.mean()
        energy = float((small**2).sum())
        energies = _boxes(self.squares, height, width) - _boxes(self.sums, height, width) ** 2 / (height * width)
        # Where there is next to no detail, noise would be compared with noise.
        enough = energies > max(0.1 * float(energies.max()), 1.0)
        if energy < 1.0 or not enough.any():
            return 0.0
        rows, columns = energies.shape  # of the places at which the part lies within the whole: nothing wraps around
        best, shape = 0.0, self.detail.shape
        for template in (small, small[:, ::-1]):
            products = np.fft.irfft2(self.spectrum * np.conj(np.fft.rfft2(template, shape)), shape)[:rows, :columns]
            best = max(best, float((products[enough] / np.sqrt(energies[enough] * energy)).max()))
        return best


def _overlaid(pictures: Sequence[NDArray[np.uint8]], pairs: Labels) -> Floats:
    """The correlations of pairs of pictures as squares, see ``_laid``."""
    squares = [_square(picture) for picture in pictures]
    return np.array([_laid(squares[one], squares[other]) for one, other in pairs], np.float32)


def _square(picture: NDArray[np.uint8]) -> Floats:
    """The detail of a picture that is made a square, of length 1; 0 where it shows nothing."""
    square = _detail(np.asarray(Image.fromarray(picture).resize((THUMB, THUMB), Image.Resampling.BOX)))
    length = float(np.linalg.norm(square))
    found: Floats = (square / length if length > 1 else np.zeros_like(square)).astype(np.float32)
    return found


def _laid(one: Floats, other: Floats) -> float:
    """The correlation of two squares that are laid on top of each other, turned and mirrored in every way."""
    ways = [np.rot90(turned, number) for turned in (other, other[:, ::-1]) for number in range(4)]
    return max(0.0, *(float(np.vdot(one, way)) for way in ways))


def _boxes(sums: Floats, height: int, width: int) -> Floats:
    """The sum over each box of so many pixels, from cumulative sums."""
    found: Floats = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    return found


def _cumulative(values: Floats) -> Floats:
    found: Floats = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    return found


def _detail(picture: NDArray[np.uint8]) -> Floats:
    """A picture less its surroundings: the mean of a box of 2 × ``DETAIL`` + 1 pixels."""
    side = 2 * DETAIL + 1
    sums = _cumulative(np.pad(picture.astype(np.float64), DETAIL, mode="edge"))
    return picture - _boxes(sums, side, side) / side**2
