"""Many small JPEG images in tar shards, as WebDataset has them: no two alike, the same bytes for the same number.

Each of 100 classes has colours of its own, blurred by what differs from image to image: a head learns some of it.

    python -m benchmarks.shards COUNT FOLDER
"""

import argparse
import io
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.machine import cores

CLASSES, SIDE, GRID = 100, 64, 8  # classes; pixels of a side; colours of a side, before they are enlarged
EACH = 1000  # images of a shard
SIGNAL, NOISE = 25.0, 60.0  # standard deviations of what a class and an image add to a colour, of 255


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards")
    parser.add_argument("count", type=int)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    start = time.perf_counter()
    make(given.folder, given.count)
    seconds = time.perf_counter() - start
    print(f"{given.count:,} images in {seconds:.1f} s: {given.count / seconds:,.0f} a second")


def make(folder: Path, count: int) -> None:
    """Write so many images into ``shard-000000.tar`` and so on; one that is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    patterns = 128 + SIGNAL * np.random.default_rng(0).standard_normal((CLASSES, GRID, GRID, 3), np.float32)
    firsts = range(0, count, EACH)
    with ProcessPoolExecutor(cores()) as pool:
        list(pool.map(partial(_shard, folder, patterns, count), firsts))


def _shard(folder: Path, patterns: NDArray[np.float32], count: int, first: int) -> None:
    file = folder / f"shard-{first // EACH:06}.tar"
    if file.exists():
        return
    numbers = range(first, min(first + EACH, count))
    partial_file = file.with_suffix(".partial")
    with tarfile.open(partial_file, "w") as tar:
        for number, content in zip(numbers, _images(numbers, patterns), strict=True):
            member = tarfile.TarInfo(f"class_{number % CLASSES:03}/{number:07}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    partial_file.replace(file)


def _images(numbers: Sequence[int], patterns: NDArray[np.float32]) -> list[bytes]:
    """Encode the images of some numbers: the class's pattern and noise, a small picture made large."""
    noise = NOISE * np.random.default_rng(numbers[0]).standard_normal((len(numbers), GRID, GRID, 3), np.float32)
    of_class = patterns[np.array(numbers) % CLASSES]
    found = []
    for small in (of_class + noise).clip(0, 255).astype(np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=75)
        found.append(buffer.getvalue())
    return found


if __name__ == "__main__":
    main()
