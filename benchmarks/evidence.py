"""How long the evidence takes: the audit of many images, and evaluate with many test images.

    python -m benchmarks.evidence DATA

DATA is a folder of images, one folder for each class, of which up to 50,000 are looked at; their features are made up:
a cloud of 1,280 features for each class. So are the figures of evaluate: 10,000 test images of 100 classes.
Each runs in a process of its own, for seconds and the peak of its memory.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages import audit, evaluate, prepare
from tests.helpers import finished
from thaw.artifacts import Paths, cache, read_json, write_json
from thaw.config.composing import compose
from thaw.data import manifest

IMAGES, FEATURES = 50_000, 1280
CLASSES, PER_CLASS = 100, 200  # of which half are test images


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description="How long the evidence takes.")
    parser.add_argument("data", type=Path, help="a folder of images, one folder for each class")
    given = parser.parse_args()
    folder = cache() / "benchmarks" / "evidence"
    paths = prepared(given.data.absolute(), folder / "audit")
    images = len(manifest.read(paths.manifest))
    timed(f"audit of {images:,} images × {FEATURES:,} features", lambda: audit.run(paths, 0))
    shutil.rmtree(folder / "evaluate", ignore_errors=True)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{(folder / 'mlflow.db').as_posix()}"
    names = tuple(f"class {number:02}" for number in range(CLASSES))
    done = finished.pipeline(folder / "evaluate", names, per_class=PER_CLASS)
    options = compose([])["evaluate"]
    timed(
        f"evaluate, {CLASSES * PER_CLASS // 2:,} test images × {CLASSES} classes",
        lambda: evaluate.run(done, options, finished.SEED),
    )


def prepared(data: Path, folder: Path) -> Paths:
    """Prepare the images, and make up their features."""
    paths = Paths(data, folder)
    if not paths.features.exists():
        prepare.run(paths, compose(["dataset=folder"])["dataset"], 0)
        records, classes = manifest.read(paths.manifest)[:IMAGES], read_json(paths.classes)
        manifest.write(paths.manifest, records)
        write_json(paths.classes, sorted({record.label for record in records} & {*classes}))
        random = np.random.default_rng(0)
        clouds = {name: random.normal(size=FEATURES).astype(np.float32) for name in classes}
        features = np.stack([clouds[one.label] + 3 * random.normal(size=FEATURES).astype("f4") for one in records])
        paths.features.parent.mkdir(parents=True)
        np.save(paths.features, features[:, np.newaxis])
    return paths


def timed(name: str, work: Callable[[], None]) -> None:
    """Do it in a process of its own, and print how long it took and how much memory."""
    process = multiprocessing.get_context("fork").Process(target=_measured, args=(name, work))
    process.start()
    process.join()


def _measured(name: str, work: Callable[[], None]) -> None:
    began, busy = time.monotonic(), time.process_time()
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    seconds, processor = time.monotonic() - began, time.process_time() - busy
    print(f"{name}: {seconds:.0f} s ({processor:.0f} s of processor time), {peak:.1f} GB", flush=True)


if __name__ == "__main__":
    main()
