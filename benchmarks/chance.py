"""How often "fine-tuning helped" is said where there is nothing to it: in at most 5% of comparisons, it should be.

    python -m benchmarks.chance DATA [--seeds 50] [OVERRIDE ...]

Once with labels that say nothing, because they have been dealt out anew among the images; once with models that are
equally good, because both are fine-tuned, and differ in the order of the images alone. Each of the two is done for each
seed, which is another split, in both directions. The pipeline's own stages run.
"""

import argparse
import contextlib
import hashlib
import io
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import run
from stages import extract_features, finetune, prepare, train_head
from thaw.artifacts import Paths, cache, fingerprint, read_json
from thaw.config.composing import compose
from thaw.data import images, manifest
from thaw.evidence import comparison
from thaw.learning import predictions

Answers = predictions.Predictions


def main() -> None:
    """Be the command line."""
    import keras

    parser = argparse.ArgumentParser(prog="python -m benchmarks.chance", description="How often chance is believed.")
    parser.add_argument("data", type=Path, help="a folder of images, one folder for each class")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("overrides", nargs="*", help="of the configuration, in Hydra's syntax")
    given = parser.parse_intermixed_args()
    folder = cache() / "benchmarks" / "chance"
    counts: dict[str, Counter[str]] = {"labels that say nothing": Counter(), "models that are equally good": Counter()}
    for seed in range(given.seeds):
        config = compose([*given.overrides, "augment=none", f"seed={seed}"])
        dealt = deal(given.data.absolute(), folder / "data", seed)
        paths, tuned = tune(dealt, folder, config, (seed,))
        head = predictions.read(paths.predictions("train_head"))
        counts["labels that say nothing"].update(verdicts(paths, config, head, *tuned))
        paths, both = tune(given.data.absolute(), folder, config, (seed, seed + 1_000_000))
        counts["models that are equally good"].update(verdicts(paths, config, *both))
        keras.backend.clear_session()
        print(f"seed {seed}: { ({kind: dict(found) for kind, found in counts.items()}) }", flush=True)


def deal(data: Path, copies: Path, seed: int) -> Path:
    """The same images and as many of each class, but which image is in which class has been drawn by lot."""
    copy = copies / fingerprint(str(data), seed)
    if not copy.exists():
        files = [file for file in sorted(data.rglob("*")) if file.suffix.lower() in images.SUFFIXES]
        unfinished = copy.with_name(f"{copy.name}.unfinished")
        for file, other in zip(files, np.random.default_rng(seed).permutation(len(files)), strict=True):
            name = hashlib.sha256(str(file).encode()).hexdigest()[:16]
            place = unfinished / files[other].parent.name / f"{name}{file.suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            os.link(file, place)
        unfinished.rename(copy)
    return copy


def tune(data: Path, folder: Path, config: Mapping[str, Any], orders: tuple[int, ...]) -> tuple[Paths, list[Answers]]:
    """Train a head, and fine-tune it once for each of ``orders``: seeds of the order of the images."""
    paths, found = Paths(data, folder / "work"), []
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run(paths, config, prepare, extract_features, train_head)
        for order in orders:
            run(paths, {**config, "seed": order}, finetune)
            found.append(predictions.read(paths.predictions("finetune")))
    return paths, found


def verdicts(paths: Paths, config: Mapping[str, Any], one: Answers, other: Answers) -> list[str]:
    """What evaluate says of the second as it follows from the first, and of the first as it follows from the second."""
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    options, found = config["evaluate"].model_dump(exclude={"splits"}), []
    for pair in ((one, other), (other, one)):
        predicted = dict(zip(("train_head", "finetune"), pair, strict=True))
        val, test = (comparison.pair(predicted, records, classes, split) for split in ("val", "test"))
        found.append(str(comparison.compare(val, test, seed=config["seed"], **options)["verdict"]))
    return found


if __name__ == "__main__":
    main()
