"""Say what is on pictures, with the finished model: no training data, no TensorFlow.

Writes a line for each picture to the terminal, or all probabilities to a CSV file. Pictures are seen as in training, so
the numbers are those of ``evaluate``, calibrated. Files that are no usable pictures are named, and skipped.

    python -m stages.predict PHOTO.jpg
    python -m stages.predict ~/photos 'more/**/*.jpg' --csv answers.csv
    python -m stages.predict PHOTO.jpg --model champion
"""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from thaw import parallel
from thaw.artifacts import Paths, atomic
from thaw.data import images
from thaw.data.files import find_pictures
from thaw.errors import UserError, fail
from thaw.models.portable import Model
from thaw.runs import registry


def main(arguments: Sequence[str] | None = None) -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.predict", description="Say what is on pictures.")
    parser.add_argument("pictures", nargs="+", metavar="IMAGE|FOLDER|GLOB", help="what to look at")
    parser.add_argument("--model", help="champion, the id or the name of a run, a folder, or models:/…; this project's")
    parser.add_argument("--csv", type=Path, help="write path, label and all probabilities to this file")
    parser.add_argument("--top", type=int, default=3, help="how many classes to name for each picture (3)")
    given = parser.parse_args(arguments)
    try:
        run(find_pictures(given.pictures), Model(registry.chosen(given.model, Paths())), given.csv, given.top)
    except UserError as error:
        fail(error)


def run(files: list[Path], model: Model, out: Path | None, top: int) -> None:
    """Look at all files, in order, and say what is on them.

    Raises:
        UserError: none of them is a usable picture.
    """
    usable: list[Path] = []

    def square(file: Path) -> NDArray[np.uint8] | images.Unusable:
        try:
            return model.square(file)
        except images.Unusable as error:
            return error

    def squares() -> Iterator[NDArray[np.uint8]]:
        decoded = parallel.shown(square, files, "predict")
        for file, found in zip(files, decoded, strict=True):
            if isinstance(found, images.Unusable):
                tqdm.write(f"skipped {file}: {found}", file=sys.stderr)
            else:
                usable.append(file)
                yield found

    probabilities = model.probabilities(squares(), len(files))[: len(usable)]
    if not usable:
        raise UserError(f"expected pictures ({images.READ}), found none in {len(files)} files")
    best = [model.facts.classes[row.argmax()] for row in probabilities]
    sys.stderr.write(model.facts.note)
    if out is None:
        width = max(len(str(file)) for file in usable)
        for file, row in zip(usable, probabilities, strict=True):
            print(f"{file!s:<{width}}  {model.facts.said(row, top)}")
        return
    with atomic(out.absolute()) as partial, partial.open("w", newline="", encoding="utf-8") as text:
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["path", "label", "probability", "unsure", *model.facts.classes])
        for file, label, row in zip(usable, best, probabilities, strict=True):
            sure, *each = (f"{value:.9g}" for value in (row.max(), *row))
            table.writerow([file, label, sure, "unsure" if model.facts.unsure(row) else "", *each])
    counts = ", ".join(f"{count} {label}" for label, count in Counter(best).most_common())
    skipped = f"; {len(files) - len(usable)} files skipped" if len(usable) < len(files) else ""
    print(f"predict: {len(usable)} pictures in {out}: {counts}{skipped}")


if __name__ == "__main__":
    main()
