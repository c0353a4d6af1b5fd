"""Learning curves as files: ``history.csv`` has one row per epoch (or per candidate that a solver tried)."""

import csv
import math
from pathlib import Path

from thaw.artifacts import atomic

Row = dict[str, float]

COLUMNS = ("step", "loss", "accuracy", "val_loss", "val_accuracy")


def row(step: int, train: tuple[float, float], val: tuple[float, float], **more: float) -> Row:
    """One row: the loss (nats) and accuracy on the training and the validation images; NaN where there is none."""
    return dict(zip(COLUMNS, (step, *train, *val), strict=True)) | more


def write(path: Path, rows: list[Row]) -> None:
    """Write the rows, which all have the same keys; NaN becomes an empty cell."""
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(rows[0])
        for values in rows:
            table.writerow("" if math.isnan(value) else f"{value:.9g}" for value in values.values())


def read(path: Path) -> list[Row]:
    """Read what ``write`` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {key: math.nan if cell == "" else float(cell) for key, cell in values.items()}
            for values in csv.DictReader(file)
        ]
