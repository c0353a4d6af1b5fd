"""Predicted probabilities as files: what ``train_head`` and ``finetune`` hand to ``evaluate``.

``predictions.csv`` has one row per validation and test image: path, split, its answer, which is the class with the
highest probability, and that probability. Beside it, ``predictions.npy`` has the probabilities of all classes (images ×
classes, float32): its rows are those of the CSV file, its columns the classes in the order of ``classes.json``. An
array takes a third of what text does, and is read only where it is looked at. Neither holds labels: the stages that
write them do not look at those of the test images.

    python -m thaw.learning.predictions                                       all of artifacts/finetune as CSV
    python -m thaw.learning.predictions artifacts/train_head --csv FILE       of another stage, to a file
"""

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from thaw.artifacts import Paths, atomic, read_json
from thaw.data.manifest import Record
from thaw.errors import UserError, fail

AT_ONCE = 2**20  # probabilities that are computed with at a time
# Windows replaces no file that is mapped into memory, and the same process may run a stage again.
_MAPPED: Literal["r"] | None = None if os.name == "nt" else "r"


@dataclass(frozen=True)
class Predictions:
    """Predictions of the images at ``paths``, which are in the splits ``splits``.

    Attributes:
        paths, splits: of each image.
        answers: the class with the highest probability, by name; of equals, the first.
        probabilities: images × classes (float32), mapped from the file.
    """

    paths: list[str]
    splits: list[str]
    answers: list[str]
    probabilities: NDArray[np.float32]

    def are_of(self, classes: Sequence[str]) -> bool:
        """Whether the array's columns are these classes, as far as the answers tell: they are what it is highest in."""
        return self.probabilities.shape[1] == len(classes) and _best(classes, self.probabilities) == self.answers


def blocks(probabilities: NDArray[Any]) -> Iterator[slice]:
    """Cut images (rows) into blocks: what is computed of one after the other takes no memory for all of them."""
    size = max(1, AT_ONCE // probabilities.shape[1])
    for start in range(0, len(probabilities), size):
        yield slice(start, start + size)


def write(path: Path, classes: Sequence[str], records: Sequence[Record], probabilities: NDArray[np.float32]) -> None:
    """Write the CSV file ``path`` and the array beside it, a row per record in both.

    The CSV file has nine digits, which are a float32 exactly.
    """
    probabilities = np.ascontiguousarray(probabilities, np.float32)
    with atomic(path.with_suffix(".npy")) as partial:
        np.save(partial, probabilities)
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "split", "answer", "probability"])
        columns = (_best(classes, probabilities), probabilities.max(axis=1))
        for record, answer, probability in zip(records, *columns, strict=True):
            rows.writerow([record.path, record.split, answer, f"{probability:.9g}"])


def read(path: Path) -> Predictions:
    """Read what ``write`` wrote.

    Raises:
        UserError: the two files are not of the same images.
    """
    found = Predictions([], [], [], np.load(path.with_suffix(".npy"), mmap_mode=_MAPPED))
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        for image, split, answer, _ in rows:
            found.paths.append(image)
            found.splits.append(sys.intern(split))
            found.answers.append(sys.intern(answer))
    if len(found.paths) != len(found.probabilities):
        raise UserError(
            f"{path.parent.name}/{path.name}: expected {len(found.probabilities)} images, as in the array beside it, "
            f"found {len(found.paths)}; run 'dvc repro'"
        )
    return found


def _best(classes: Sequence[str], probabilities: NDArray[np.float32]) -> list[str]:
    """Name the class with the highest probability of each image; of equals, the first."""
    return [classes[number] for number in probabilities.argmax(axis=1).tolist()]


def export(folder: Path, file: TextIO) -> None:
    """Write all probabilities of a stage as CSV: path, split, then each class under its name, with nine digits.

    Raises:
        UserError: the stage has left none, or they are not of the classes that prepare has left.
    """
    paths = Paths(root=folder.absolute().parent)
    files = (paths.predictions(folder.name), paths.probabilities(folder.name), paths.classes)
    if lacking := [str(one) for one in files if not one.exists()]:
        raise UserError(f"expected the predictions of a stage, found no {lacking[0]}; run 'dvc repro'")
    found, classes = read(files[0]), read_json(paths.classes)
    if not found.are_of(classes):
        raise UserError(f"{folder.name}: expected predictions of the classes of prepare, found others; run 'dvc repro'")
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["path", "split", *classes])
    for image, split, row in zip(found.paths, found.splits, found.probabilities, strict=True):
        rows.writerow([image, split, *(f"{value:.9g}" for value in row.tolist())])


def main(arguments: Sequence[str] | None = None) -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m thaw.learning.predictions", description="Write all probabilities of a stage as CSV."
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Paths().root / "finetune", help="of a stage (artifacts/finetune)"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="where to write them (standard output)")
    given = parser.parse_args(arguments)
    try:
        if given.csv is None:
            export(given.folder, sys.stdout)
            return
        with atomic(given.csv.absolute()) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            export(given.folder, file)
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    main()
