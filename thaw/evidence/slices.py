"""Slice by slice: how right both models are on the test images of each camera, site or year that the data name."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.data.manifest import Record
from thaw.evidence.comparison import among, is_tuned, rounded, with_intervals
from thaw.evidence.scoring import Labels, Pair, accuracy
from thaw.evidence.significance import change, effective, holm

NOT_GIVEN = "not given"  # the slice of images of which the data do not say it


def measured(
    test: Pair, records: Sequence[Record], figures: Mapping[str, Any], confidence: float
) -> dict[str, list[dict[str, Any]]]:
    """Return what ``figures.json`` says of slices: a row for each value of each column that the test images differ in.

    A row has the ``column`` and the ``value``, how many ``images`` it is, the accuracies ``before`` and ``after`` with
    Wilson's intervals, their ``difference`` (after - before) with that of ``significance.change`` where something was
    tuned, and ``p``: how likely it is by chance that the kept model is so much more often wrong there than on the other
    test images (``worse``), corrected for how many slices are looked at (Holm). Small slices have wide intervals, and
    are not left out.

    Args:
        test: both models' probabilities for the test images.
        records: the manifest.
        figures: what ``comparison.compare`` returned.
        confidence: of the intervals.

    Returns:
        Nothing where the data name no slices.
    """
    metadata = [record.metadata for record in records if record.split == "test"]
    right = (test.before if figures["kept"] == "head" else test.after).argmax(1) == test.labels
    rows: list[dict[str, Any]] = []
    for column in metadata[0]:
        values = np.array([one[column] or NOT_GIVEN for one in metadata])
        names = sorted({*values.tolist()}, key=lambda name: (name == NOT_GIVEN, _natural(name), name))
        for name in names if len(names) > 1 else []:
            own = values == name
            row = {"column": column, "value": name, **among(test, own, confidence)}
            if is_tuned(figures):
                here = test.of(own)
                gain = accuracy(here.labels, here.after) - accuracy(here.labels, here.before)
                row |= with_intervals({"difference": gain}, {"difference": change(here, confidence)})
            rows.append(row | {"p": worse(right, own, test.groups)})
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p"] = rounded(p)
    return {"slices": rows} if rows else {}


def worse(right: NDArray[np.bool_], own: NDArray[np.bool_], groups: Labels | None) -> float:
    """Return how likely it is by chance that so many of all wrong answers, or more, are in one slice.

    Fisher's exact test (1935), one-sided. Images in groups count for as many as they are worth, in the slice and
    outside (Rao & Scott 1992), rounded.

    Args:
        right: of each test image, whether the answer is right.
        own: whether it is in the slice; some are, and some are not.
        groups: of the test images.
    """
    from scipy.stats import hypergeom

    counts = []
    for which in (own, ~own):
        images = round(effective(right[which].astype(np.float64), None if groups is None else groups[which]))
        counts.append((images, round(images * float((~right[which]).mean()))))
    (images, wrong), (others, wrong_there) = counts
    return float(hypergeom.sf(wrong - 1, images + others, wrong + wrong_there, images))


def _natural(text: str) -> list[str | int]:
    """Return what a text is sorted by, so that 9 comes before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]
