"""LoRA beside whole kernels: what is trained, the optimiser's state, the peak of memory and a step's processor time.

    python -m benchmarks.lora FOLDER

Of DINOv2 small, 224 px, with random weights, which memory and time do not depend on: a preset in FOLDER, written if it
is not there. All blocks and the upper half of them, in batches of 16, each in a process of its own. They take turns.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import encoders

BLOCKS, RANKS = (6, 12), (0, 8)
NETWORK, BATCH = "dinov2_small", 16
STEPS, EPOCHS, ROUNDS = 4, 3, 3  # the first epoch of a process traces, and does not count


def main() -> None:
    """Be the command line: print a row of a table for each, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lora")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--one", type=int, nargs=2, metavar=("BLOCKS", "RANK"), help="for the processes it starts")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.folder, *given.one)))
        return
    if not (given.folder / "config.json").exists():
        encoders.write(NETWORK, given.folder)
    print("| blocks | rank | weights trained | optimiser | peak of memory | processor time of a step |")
    print("|---|---|---|---|---|---|")
    for blocks in BLOCKS:
        found: dict[int, list[dict[str, float]]] = {rank: [] for rank in RANKS}
        for _ in range(ROUNDS):
            for rank, runs in found.items():
                runs.append(_process(given.folder, blocks, rank))
        for rank, runs in found.items():
            one = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            print(
                f"| {blocks} | {rank or 'whole'} | {one['trained']:,.0f} | {one['state'] / 1e6:.1f} MB "
                f"| {one['peak'] / 1e9:.2f} GB | {one['seconds']:.1f} s |",
                flush=True,
            )


def measure(folder: Path, blocks: int, rank: int) -> dict[str, float]:
    """Train as the stage does, on noise.

    Returns:
        The weights that are ``trained``, the bytes of the optimiser's ``state`` and of the process at its ``peak``,
        and the median ``seconds`` of processor time for a step, of which others on the machine take little: with its
        share of what is done once an epoch, one image of validation and the checkpoint.
    """
    import resource  # not on Windows

    from thaw.config.composing import compose
    from thaw.config.schema import Unfreeze
    from thaw.learning import finetuning, training
    from thaw.learning.examples import Examples
    from thaw.learning.heads import Head
    from thaw.networks import cutting
    from thaw.networks.outputs import Array

    backbone = compose([f"backbone={NETWORK}", f"backbone.weights={folder.resolve()}"], ["backbone"])["backbone"]
    head = Head([(np.zeros((384, 5), np.float32), np.zeros(5, np.float32))])
    model = finetuning.classifier(backbone, head, dropout=0.5, seed=0)
    first = cutting.first_layer(model, backbone, Unfreeze(blocks=blocks))
    finetuning.unfreeze(model, first, rank=rank)
    top = finetuning.above(model, cutting.cut(model, first))
    shape, images = top.input_shape[1:], STEPS * BATCH
    noise = Array(np.random.default_rng(0).normal(size=(images, 1, *shape)).astype(np.float32))
    train, one = (Examples(noise, np.arange(count), np.arange(count) % 5) for count in (images, 1))
    val = training.Validation(one)
    rung = training.Rung(Unfreeze(blocks=blocks), 1e-4, 0, EPOCHS * STEPS, BATCH)
    optimizer, ends = training.adam(rung, {}), []
    checkpoint, story = training.Checkpoint(f"benchmark_{os.getpid()}"), {"rung": 0, "steps": 0, "rows": []}

    def epoch(_: dict[str, float]) -> None:
        ends.append(time.process_time())

    with contextlib.redirect_stdout(sys.stderr):
        training.fit(top, optimizer, train, val, rung, 0, checkpoint, story, report=epoch)
    checkpoint.forget()
    return {
        "trained": _sum(top.trainable_variables, 1),
        "state": _sum(optimizer.variables, 4),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": float(np.median(np.diff(ends[1:]))) / STEPS,
    }


def _sum(variables: Any, each: int) -> float:
    return float(sum(each * np.prod(variable.shape) for variable in variables))


def _process(folder: Path, blocks: int, rank: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.lora", str(folder), "--one", str(blocks), str(rank)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
