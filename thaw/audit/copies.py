"""Copies that no hash finds: saved anew, resized, stretched, cropped, mirrored, turned, recoloured; and film frames.

What looks alike to the network is a candidate; the pixels decide. Two pictures are copies if the fine detail of one is
found in the other, at some scale and place, perhaps mirrored.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import uniform_filter

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
HELD = 64  # pictures of which is kept what has been worked out: a few hundred kilobytes each

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
    # Pairs follow each other by their first picture, so what has been worked out for that one is at hand.
    at_hand = lru_cache(HELD)(lambda row: _Picture(pictures[row]))
    found = parallel.shown(lambda pair: _shared(*map(at_hand, pair)), pairs.tolist(), "audit: copies")
    return {(one, other): value for (one, other), value in zip(pairs.tolist(), found, strict=True) if value >= SAME}


def shared(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """How well the detail of one picture is found in the other (height × width each): the highest correlation.

    Normalised cross-correlation (Lewis 1995, "Fast normalized cross-correlation") of what is left when the surroundings
    of each pixel are taken away, over places, ``SCALES``, mirror images, and which is the part of which; and of both as
    squares, stretched and turned.

    Returns:
        Between -1 and 1; 0 where a picture is too small, or shows nothing.
    """
    return _shared(_Picture(one), _Picture(other))


def _shared(one: "_Picture", other: "_Picture") -> float:
    if min(*one.grey.shape, *other.grey.shape) < LEAST:
        return 0.0
    best = _laid(_square(one.grey), _square(other.grey))
    for whole, part in ((one, other), (other, one)):
        value, scale = whole.search(part, SCALES[::2])
        if value >= PROMISING:
            value, scale = max((value, scale), whole.search(part, SCALES[1::2]))
        if NEARLY <= value < SAME:
            value = max(value, whole.search(part, [min(1.0, scale * finer) for finer in FINER])[0])
        best = max(best, value)
    return best


class _Picture:
    """A picture in which others are searched for, and which is searched for in others; keeps what is asked again."""

    def __init__(self, grey: NDArray[np.uint8]) -> None:
        self.grey, self._image, detail = grey, Image.fromarray(grey), _detail(grey)
        self._sums, self._squares = _cumulative(detail), _cumulative(detail**2)
        # Sides whose Fourier transform is fast, and no shorter: nothing wraps around to a place within the picture.
        self._shape = tuple(next_fast_len(side, real=True) for side in grey.shape)
        self._spectrum = rfft2(detail.astype(np.float32), self._shape)
        self._smaller: dict[float, Floats] = {}
        self._lengths: dict[tuple[int, ...], Floats] = {}

    def search(self, part: "_Picture", scales: Sequence[float]) -> tuple[float, float]:
        """The highest correlation of a picture, made smaller, or of its mirror image, with any place in this one.

        All scales at once: the pictures are so small that to call for each would take longer than to compute.

        Returns:
            The correlation, 0 at least, and its scale.
        """
        fitting = [(scale, small) for scale in scales if self._holds(small := part.smaller(scale))]
        templates = np.zeros((len(fitting), 2, *self._shape), np.float32)
        for both, (_, small) in zip(templates, fitting, strict=True):
            height, width = small.shape
            both[0, :height, :width], both[1, :height, :width] = small, small[:, ::-1]
        products = irfft2(self._spectrum * np.conj(rfft2(templates)), self._shape)
        best = (0.0, max(scales))
        for both, (scale, small) in zip(products, fitting, strict=True):
            lengths = self._of_places(small.shape)
            rows, columns = lengths.shape
            best = max(best, (float((both[:, :rows, :columns] * lengths).max()), scale))
        return best

    def smaller(self, scale: float) -> Floats:
        """The detail of this picture, made smaller, of mean 0 and length 1; empty where that shows nothing."""
        if scale not in self._smaller:
            height, width = (round(side * scale) for side in self.grey.shape)
            small = _detail(np.asarray(self._image.resize((width, height), Image.Resampling.BILINEAR)))
            small -= small.mean()
            length = np.linalg.norm(small)
            shows = length >= 1.0 and min(height, width) >= LEAST / 2
            self._smaller[scale] = (small / length).astype(np.float32) if shows else np.zeros((0, 0), np.float32)
        return self._smaller[scale]

    def _holds(self, small: Floats) -> bool:
        return all(0 < side <= mine for side, mine in zip(small.shape, self.grey.shape, strict=True))

    def _of_places(self, shape: tuple[int, ...]) -> Floats:
        """What the products of a template with each place in this picture, of its shape, are multiplied by.

        It is one by the length of the detail there. Where there is next to none, noise would be compared with noise:
        there it is 0.
        """
        if shape not in self._lengths:
            height, width = shape
            count = height * width
            energies = _boxes(self._squares, height, width) - _boxes(self._sums, height, width) ** 2 / count
            least = max(0.1 * float(energies.max()), 1.0)
            lengths = np.where(energies > least, 1 / np.sqrt(np.maximum(energies, least)), 0)
            self._lengths[shape] = lengths.astype(np.float32)
        return self._lengths[shape]


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
    found = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    values.cumsum(axis=0).cumsum(axis=1, out=found[1:, 1:])
    return found


def _detail(picture: NDArray[np.uint8]) -> Floats:
    """A picture less its surroundings: the mean of a box of 2 × ``DETAIL`` + 1 pixels."""
    exact = picture.astype(np.float64)
    found: Floats = exact - uniform_filter(exact, 2 * DETAIL + 1, mode="nearest")
    return found
