"""A review page with suspects, and what a person does with it."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from thaw.audit import review
from thaw.audit.review import Neighbour, Suspect

CLASSES = ["cats", "cows", "dogs", "élans"]
HEADER = ["path", "action", "value"]
DOG = Neighbour("dogs/1.png", "dogs", "val")
COPIES = (Neighbour("dogs/2.png", "dogs", "test", "the same to the pixel"), Neighbour("dogs/3.png", "dogs", "test"))
SUSPECTS = [
    Suspect("label", "cats/1.png", "cats", "train", "It looks like a dog.", "dogs", (DOG,)),
    Suspect("label", "cats/2.png", "cats", "test", "It looks like a cow.", "cows"),
    Suspect("copy", "cats/3.png", "cats", "train", "It is in the test images too.", resembles=COPIES),
    Suspect("outlier", "cats/4.png", "cats", "val", "No other cat is like it."),
    Suspect("odd", "cats/5.png", "cats", "train", "It is all black."),
    Suspect("odd", "cats/6.png", "cats", "train", "It is all white."),
]


def draw(data: Path, suspects: list[Suspect]) -> None:
    """Make the pictures of suspects that can be files."""
    random = np.random.default_rng(0)
    for path in sorted({path for one in suspects for path in (one.path, *(other.path for other in one.resembles))}):
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (90, 120, 3), np.uint8)).save(data / path, "png")


def written(folder: Path, suspects: list[Suspect] = SUSPECTS, classes: list[str] = CLASSES) -> str:
    """Write a page, and return its address."""
    draw(folder / "data", suspects)
    review.write(folder / "review.html", suspects, classes, folder / "data", total=1234)
    return (folder / "review.html").as_uri()


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def saved(page: Any) -> list[list[str]]:
    """Save, and read what a person finds in the downloads."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save corrections.csv").first.click()
    assert download.value.suggested_filename == "corrections.csv"
    with Path(download.value.path()).open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
        assert file.newlines == "\n"
    assert header == HEADER
    assert rows == sorted(rows)
    return rows


def load(page: Any, path: Path, rows: list[list[str]], ends: str = "\n", start: str = "") -> None:
    """Write a corrections.csv and load it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(start)
        csv.writer(file, lineterminator=ends).writerows([HEADER, *rows])
    page.locator("#file").set_input_files(path)
