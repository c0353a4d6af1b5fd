"""Which pictures look alike to the network: the nearest neighbours of each, by cached features."""

from dataclasses import dataclass

import numpy as np

from thaw.networks.outputs import Floats, Labels

NEAREST = 20  # neighbours of each picture
DIRECTIONS = 256  # that features are reduced to: what is left out is noise to a neighbourhood, and time
BLOCK, GROUP = 1024, 64  # pictures that are compared with all others at a time, and that are searched at a time


@dataclass(frozen=True)
class Neighbours:
    """The nearest neighbours of each picture, the nearest first.

    Attributes:
        rows: pictures × neighbours.
        similarity: of the features, between -1 and 1 (pictures × neighbours).
    """

    rows: Labels
    similarity: Floats


def nearest(features: Floats) -> Neighbours:
    """Compare all pictures with each other, by the correlation of their features.

    In blocks, and exactly but for the reduction to principal components: that is fast enough, see docs/evidence.md.

    Args:
        features: pictures × features, each row of length 1.
    """
    known = _reduced(features)
    count = len(known)
    kept, groups = min(NEAREST, count - 1), -(-count // GROUP)
    rows, similarity = np.empty((count, kept), np.int64), np.empty((count, kept), np.float32)
    products = np.full((BLOCK, groups * GROUP), -2, np.float32)  # what is beyond the last picture is like none
    for start in range(0, count, BLOCK):
        place = np.arange(min(BLOCK, count - start))
        products[place, :count] = known[start : start + BLOCK] @ known.T
        products[place, start + place] = -2  # no picture is its own neighbour
        # Only a few are wanted: the highest of each group is known, and one group changes with each that is taken.
        grouped = products.reshape(BLOCK, groups, GROUP)[: len(place)]
        highest = grouped.max(axis=2)
        for number in range(kept):
            group = highest.argmax(axis=1)
            members = grouped[place, group]
            best = members.argmax(axis=1)
            rows[start + place, number] = group * GROUP + best
            similarity[start + place, number] = members[place, best]
            members[place, best] = grouped[place, group, best] = -2
            highest[place, group] = members.max(axis=1)
    return Neighbours(rows, similarity)


def _reduced(features: Floats) -> Floats:
    """The strongest principal components of the features, each row of length 1."""
    centred = features - features.mean(axis=0)
    if centred.shape[1] > DIRECTIONS:
        _, directions = np.linalg.eigh((centred.T @ centred).astype(np.float64))
        centred = centred @ directions[:, -DIRECTIONS:].astype(np.float32)
    found: Floats = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return found
