"""Predicted probabilities as files: what ``train_head`` and ``finetune`` hand to ``evaluate``.

``predictions.csv`` has one row per validation and test image: path, split, then the probability of each class under the
class's name, in the order of ``classes.json``. It holds no labels: the stages that write it do not look at those of the
test images.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thaw.artifacts import atomic
from thaw.data.manifest import Record


@dataclass(frozen=True)
class Predictions:
    """Probabilities (images × classes, float32) of the images at ``paths``, which are in the splits ``splits``."""

    classes: list[str]
    paths: list[str]
    splits: list[str]
    probabilities: NDArray[np.float32]


def write(path: Path, classes: list[str], records: list[Record], probabilities: NDArray[np.float32]) -> None:
    """Write one row per record; nine digits, so that reading gives the very same float32 back."""
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "split", *classes])
        for record, row in zip(records, probabilities, strict=True):
            rows.writerow([record.path, record.split, *(f"{value:.9g}" for value in row)])


def read(path: Path) -> Predictions:
    """Read what ``write`` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return Predictions(
        classes=header[2:],
        paths=[row[0] for row in rows],
        splits=[row[1] for row in rows],
        probabilities=np.array([row[2:] for row in rows], dtype=np.float32).reshape(len(rows), len(header) - 2),
    )
