"""prepare and extract_features on many small JPEG files: seconds and peak memory of each.

python -m benchmarks.scale make FOLDER COUNT          write the pictures
python -m benchmarks.scale run STAGE FOLDER ROOT      run a stage on them; print its figures as JSON
"""

import argparse
import contextlib
import importlib
import inspect
import io
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from thaw.artifacts import Paths
from thaw.config.composing import compose
from thaw.machine import cores

CLASSES = 10
SIDE = 64


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("make")
    command.add_argument("folder", type=Path)
    command.add_argument("count", type=int)
    command = commands.add_parser("run")
    command.add_argument("stage", choices=["prepare", "extract_features"])
    command.add_argument("folder", type=Path)
    command.add_argument("root", type=Path)
    given = parser.parse_args()
    if given.command == "make":
        make(given.folder, given.count)
    else:
        print(json.dumps(run(given.stage, Paths(given.folder, given.root))))


def make(folder: Path, count: int) -> None:
    """Write so many pictures of coloured noise, no two alike, in class folders; what is there stays."""
    for name in range(CLASSES):
        (folder / str(name)).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(cores()) as pool:
        list(pool.map(_write, (folder / str(n % CLASSES) / f"{n:06}.jpg" for n in range(count)), chunksize=1000))


def picture(number: int) -> Image.Image:
    """The picture of a number: 8 × 8 random colours, enlarged."""
    random = np.random.default_rng(number)
    small = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def run(stage: str, paths: Paths) -> dict[str, float]:
    """Run a stage of the pipeline with the bundled backbone; return seconds and the peak of memory in bytes."""
    import resource  # not on Windows

    config = compose(["dataset=folder", "backbone=mobilenet_v2_bundled", "augment=none", "seed=0"])
    module = importlib.import_module(f"stages.{stage}")
    sections = {name: config[name] for name in inspect.signature(module.run).parameters if name in config}
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        module.run(paths, **sections)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _write(path: Path) -> None:
    if not path.exists():
        picture(int(path.stem)).save(path, quality=85)


if __name__ == "__main__":
    main()
