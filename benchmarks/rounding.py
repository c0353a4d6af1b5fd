"""How far rounding moves the answer: fine-tuning again and again, on features that differ by a millionth of their size.

    python -m benchmarks.rounding DATA [--runs 10] [OVERRIDE ...]

The pipeline's own stages run up to the head, once; then fine-tuning, each time with other noise on what the frozen part
has said of the images, as another processor would round it.
"""

import argparse
import contextlib
import io
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.accuracy import run
from benchmarks.results import accuracies
from stages import extract_features, finetune, prepare, train_head
from thaw.artifacts import Paths, cache, fingerprint
from thaw.config.composing import compose
from thaw.networks import features
from thaw.networks.outputs import Floats, Labels, Source

SIZE = 1e-6  # of the noise, relative


@dataclass(frozen=True)
class Noisy:
    """A ``Source`` with noise, which is the same each time an output is asked for."""

    source: Source
    number: int

    @property
    def views(self) -> int:
        """See ``Source``."""
        return self.source.views

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``Source``."""
        return self.source.shape

    def take(self, rows: Labels, view: int) -> Floats:
        """See ``Source.take``."""
        found = self.source.take(rows, view)
        noise = [np.random.default_rng([self.number, view, row]).standard_normal(self.shape) for row in rows]
        return np.asarray(found * (1 + SIZE * np.stack(noise)), np.float32)


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rounding", description="How far rounding moves it.")
    parser.add_argument("data", type=Path, help="a data folder, as prepare takes it")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("overrides", nargs="*", help="of the configuration, in Hydra's syntax")
    given = parser.parse_intermixed_args()
    config = compose([*given.overrides, "augment=none"])
    paths = Paths(given.data.absolute(), cache() / "benchmarks" / "rounding" / fingerprint(*map(str, config.values())))
    with contextlib.redirect_stdout(io.StringIO()):
        run(paths, config, prepare, extract_features, train_head)
    exact, found = features.frozen, []
    for number in range(given.runs):

        def frozen(*given: Any, number: int = number) -> Source:
            return Noisy(exact(*given), number)

        with contextlib.redirect_stdout(io.StringIO()), patch.object(features, "frozen", frozen):
            run(paths, config, finetune)
        found.append(100 * accuracies(paths, "finetune")["test"])
        print(f"  run {number + 1}: test accuracy {found[-1]:.2f}", flush=True)
    spread = f"{min(found):.2f} to {max(found):.2f}, standard deviation {statistics.stdev(found):.2f}"
    print(f"before {100 * accuracies(paths, 'train_head')['test']:.2f}; after {statistics.mean(found):.2f} ({spread})")


if __name__ == "__main__":
    main()
