"""A hundred configurations of the head on cached features, each through the stage as it is.

python -m benchmarks.heads ARTIFACTS SCRATCH [COUNT]
"""

import argparse
import contextlib
import io
import itertools
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from stages import train_head
from thaw.artifacts import Paths, read_json
from thaw.config import Adam, Lbfgs, compose
from thaw.machine import cores


def main() -> None:
    """Be the command line: print seconds, and the best validation accuracy, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads")
    parser.add_argument("artifacts", type=Path, help="of a finished pipeline")
    parser.add_argument("scratch", type=Path, help="to write to")
    parser.add_argument("count", type=int, nargs="?", default=100)
    given = parser.parse_args()
    chosen = grid()[:: max(1, 100 // given.count)]
    roots = [_root(given.artifacts, given.scratch / str(number)) for number in range(len(chosen))]
    start = time.perf_counter()
    with ProcessPoolExecutor(cores()) as pool:
        seconds = list(pool.map(_train, roots, chosen))
    found = {"configurations": len(chosen), "seconds": time.perf_counter() - start}
    for solver in ("lbfgs", "adam"):
        found[solver] = float(np.median([s for s, one in zip(seconds, chosen, strict=True) if one.solver == solver]))
    print(json.dumps(found))


def grid() -> list[Adam | Lbfgs]:
    """50 strengths of regularisation for L-BFGS; 5 rates × 5 dropouts × 2 batch sizes for Adam."""
    one, other = (compose([f"train_head={solver}"])["train_head"] for solver in ("lbfgs", "adam"))
    solved = [one.model_copy(update={"inverse_l2": [float(c)]}) for c in np.geomspace(1e-4, 1, 50)]
    descended = [
        other.model_copy(update={"learning_rate": rate, "dropout": dropout, "batch_size": size})
        for rate, dropout, size in itertools.product(
            [3e-4, 1e-3, 3e-3, 1e-2, 3e-2], [0.0, 0.1, 0.2, 0.35, 0.5], [32, 64]
        )
    ]
    return [*solved, *descended]


def _root(artifacts: Path, root: Path) -> Path:
    """A pipeline of its own that shares what comes before the head."""
    root.mkdir(parents=True)
    for stage in ("prepare", "extract_features"):
        (root / stage).symlink_to((artifacts / stage).absolute())
    return root


def _train(root: Path, config: Adam | Lbfgs) -> float:
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        train_head.run(Paths(root=root), config, 0)
    assert read_json(Paths(root=root).config("train_head"))["train_head"]["solver"] == config.solver
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
