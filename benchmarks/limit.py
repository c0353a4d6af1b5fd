"""What the work itself takes on this machine: every picture decoded once, every multiplication as in large matrices.

    python -m benchmarks.limit peak                     multiplications a second, in float32 on all cores
    python -m benchmarks.limit pipeline DATA ARTIFACTS  a finished pipeline: seconds of decoding, and multiplications

What else a pipeline does (start, read, add, sort, write) is taken to be nothing. A training step is three times a
forward pass: its own, and the gradients by inputs and by weights.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thaw import parallel
from thaw.artifacts import Paths
from thaw.config.composing import compose
from thaw.data import manifest
from thaw.learning import finetuning, heads, policy
from thaw.machine import cores
from thaw.networks import cutting, views

SIDE, ROUNDS = 4096, 5  # of the matrices that are multiplied, and how often
PASSES = 3  # that a training step is


def main() -> None:
    """Be the command line: print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit")
    parser.add_argument("what", choices=["peak", "pipeline"])
    parser.add_argument("paths", type=Path, nargs="*", help="of a pipeline: its images, and what it has made")
    given = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        found = {"peak": peak()} if given.what == "peak" else pipeline(Paths(*given.paths))
    print(json.dumps(found))


def peak() -> float:
    """Multiply large matrices in NumPy and in OpenVINO; return the most multiplications a second that one has done."""
    import openvino
    from openvino import opset8 as operations

    shape, kind = [SIDE, SIDE], openvino.Type.f32
    parameters = [operations.parameter(shape, kind), operations.parameter(shape, kind)]
    product = openvino.Model([operations.matmul(*parameters, False, False)], parameters, "product")
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores()}
    compiled = openvino.Core().compile_model(product, "CPU", hints)
    left, right = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), np.float32)
    ways: list[Callable[[], Any]] = [lambda: left @ right, lambda: compiled([left, right])]
    seconds = []
    for multiply in ways:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            multiply()
            seconds.append(time.perf_counter() - start)
    return float(SIDE**3 / min(seconds))


def pipeline(paths: Paths) -> dict[str, float]:
    """What the project's pipeline cannot do without: all images go through the network once, and ``auto`` trains."""
    config: dict[str, Any] = compose([])
    backbone, finetune = config["backbone"], config["finetune"]
    records = manifest.read(paths.manifest)
    start = time.perf_counter()
    load = partial(views.View.load, data=paths.data, size=backbone.input_size, fit=backbone.fit)
    for _ in parallel.ahead(load, [image[0] for image in views.of(records, config["augment"], 0)]):
        pass
    decoding = time.perf_counter() - start
    model = finetuning.classifier(backbone, heads.Head.load(paths.head), 0, 0)
    train = sum(record.split == "train" for record in records)
    needed = len(records) * policy.multiplications(model, 0)
    for rung in policy.rungs(finetune, model, backbone, train):
        above = policy.multiplications(model, cutting.first_layer(model, backbone, rung.unfreeze))
        needed += above * (PASSES * rung.steps * rung.batch_size + len(records) - train)
    return {"decoding": decoding, "multiplications": needed}


if __name__ == "__main__":
    main()
