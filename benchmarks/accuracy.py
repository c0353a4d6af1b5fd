"""Accuracy before and after fine-tuning, on one data set over several seeds.

Each seed is another split and another order of training; the pipeline's own stages run, under .cache/benchmarks, and
share the feature store, so that only the first seed extracts features. What is finished is not run again.

    python -m benchmarks.accuracy DATA [--seeds 0,1,2] [OVERRIDE ...]
    python -m benchmarks.accuracy flowers/ backbone=mobilenet_v2 backbone.weights=mobilenet_v2.weights.h5
"""

import argparse
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

from stages import audit, evaluate, extract_features, finetune, prepare, train_head
from thaw.artifacts import Paths, cache, fingerprint, read_json
from thaw.config.composing import compose
from thaw.errors import UserError, fail

STAGES = (prepare, extract_features, audit, train_head, finetune, evaluate)


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description="Accuracy over several seeds.")
    parser.add_argument("data", type=Path, help="a data folder, as prepare takes it")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], help="as 0,1,2")
    parser.add_argument("overrides", nargs="*", help="of the configuration, in Hydra's syntax")
    given = parser.parse_intermixed_args()
    folder = cache() / "benchmarks"
    folder.mkdir(exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(folder / 'mlflow.db').as_posix()}")
    try:
        metrics = [measure(given.data.absolute(), folder, [*given.overrides, f"seed={seed}"]) for seed in given.seeds]
    except UserError as error:
        fail(error)
    print(f"\n{'seed':>6}{'images':>8}{'before':>8}{'after':>8}{'difference':>12}")
    rows = [
        (found["n_test"], *(found[part]["accuracy"] for part in ("head", "finetuned", "delta"))) for found in metrics
    ]
    for seed, row in zip([*given.seeds, "mean"], [*rows, tuple(map(mean, zip(*rows, strict=True)))], strict=True):
        print(f"{seed:>6}{row[0]:>8.0f}{row[1]:>8.4f}{row[2]:>8.4f}{row[3]:>+12.4f}")


def numbers(text: str) -> list[int]:
    """Read numbers as 0,1,2: one word, so that what follows it on the command line is something else."""
    return [int(one) for one in text.split(",")]


def measure(data: Path, folder: Path, overrides: list[str]) -> dict[str, dict[str, float]]:
    """Run the whole pipeline for one configuration, unless it has been run; return its metrics."""
    configuration = compose(overrides)
    paths = Paths(data, folder / fingerprint(str(data), *configuration.values()))
    if not paths.figures.exists():
        run(paths, configuration, *STAGES)
    metrics: dict[str, dict[str, float]] = read_json(paths.figures)
    return metrics


def run(paths: Paths, configuration: Mapping[str, Any], *stages: ModuleType) -> None:
    """Run some of the pipeline's stages, each with the sections of the configuration that it takes."""
    for stage in stages:
        names = inspect.signature(stage.run).parameters
        stage.run(paths, **{name: configuration[name] for name in names if name in configuration})


if __name__ == "__main__":
    main()
