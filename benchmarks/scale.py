"""The pipeline on very many small JPEG files in shards: seconds and peak memory of each stage, and of DVC.

    python -m benchmarks.scale make FOLDER COUNT          write the images, in tar shards as WebDataset has them
    python -m benchmarks.scale PART FOLDER COUNT ROOT     run a stage, or 'dvc add', on so many of them; print JSON

No two images are alike, and they are the same for the same number. Each of 100 classes has colours of its own, blurred
by what differs from image to image: a head learns some of it.
"""

import argparse
import contextlib
import importlib
import inspect
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.artifacts import Paths
from thaw.config.composing import compose
from thaw.machine import cores

STAGES = ["prepare", "extract_features", "audit", "train_head", "finetune", "evaluate"]
CHOICES = ["dataset=folder", "backbone=mobilenet_v2_bundled", "backbone.input_size=64", "augment=none", "finetune=none"]
CLASSES, SIDE, GRID = 100, 64, 8  # classes; pixels of a side; colours of a side, before they are enlarged
EACH = 1000  # images of a shard
SIGNAL, NOISE = 25.0, 60.0  # standard deviations of what a class and an image add to a colour, of 255


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("part", choices=["make", "dvc", *STAGES])
    parser.add_argument("folder", type=Path, help="of the images")
    parser.add_argument("count", type=int)
    parser.add_argument("root", type=Path, nargs="?", help="of what is written")
    given = parser.parse_args()
    if given.part == "make":
        make(given.folder, given.count)
        return
    some = given.root / "data"
    if not some.exists():
        some.mkdir(parents=True)
        for file in sorted(given.folder.iterdir())[: given.count // EACH]:
            os.link(file, some / file.name)
    print(json.dumps(add(given.root) if given.part == "dvc" else run(given.part, Paths(some, given.root))))


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


def run(stage: str, paths: Paths) -> dict[str, float]:
    """Run a stage of the pipeline with the bundled backbone; return seconds and the peak of memory in bytes."""
    import resource  # not on Windows

    config = compose([*CHOICES, "seed=0"])
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{(paths.root / 'mlflow.db').as_posix()}"
    module = importlib.import_module(f"stages.{stage}")
    sections = {name: config[name] for name in inspect.signature(module.run).parameters if name in config}
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        module.run(paths, **sections)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def add(root: Path) -> dict[str, float]:
    """Let DVC hash the images and take them as its own, as ``get_data`` does it; return the same."""
    import resource  # not on Windows

    dvc = [sys.executable, "-m", "dvc"]
    for command in (["init", "--quiet", "--no-scm"], ["config", "cache.type", "hardlink,copy"]):
        subprocess.run([*dvc, *command], cwd=root, check=True)
    start = time.perf_counter()
    subprocess.run([*dvc, "add", "--quiet", "data"], cwd=root, check=True)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024}


if __name__ == "__main__":
    main()
