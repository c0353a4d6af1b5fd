"""One epoch of fine-tuning the last 20 layers of MobileNetV2: the whole model in Keras, against split execution.

    python -m benchmarks.epoch SPLITS ARTIFACTS DATA WEIGHTS

SPLITS holds train/ and val/ for Keras, ARTIFACTS a finished pipeline on the same images, which are in DATA.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import limit, textbook
from thaw.artifacts import Paths, read_json
from thaw.config.composing import compose
from thaw.data import manifest
from thaw.learning import finetuning, heads, policy, training
from thaw.learning.examples import examples
from thaw.networks import cutting, features, views
from thaw.networks.backbones import FrozenNetwork

ROUNDS = 5  # the first one traces and warms up, and does not count


def main() -> None:
    """Be the command line: print the median seconds of an epoch, validation included, as JSON.

    And how many ``multiplications`` it needs.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.epoch")
    parser.add_argument("splits", type=Path)
    parser.add_argument("artifacts", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights")
    given = parser.parse_args()
    epoch, needed = split_execution(Paths(given.data, given.artifacts), given.weights)
    epochs = {"keras": whole_model(given.splits, given.weights), "thaw": epoch}
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(ROUNDS):
        for name, epoch in epochs.items():
            start = time.perf_counter()
            epoch()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    print(json.dumps({"multiplications": needed} | medians))


def whole_model(splits: Path, weights: str) -> Callable[[], None]:
    """The textbook's fine-tuning phase, with BatchNorm frozen: what trains it for one more epoch."""
    train, val = (textbook.images(splits, split) for split in ("train", "val"))
    model, base = textbook.classifier(weights, len(train.class_names))
    train, val = train.prefetch(-1), val.prefetch(-1)
    textbook.unfreeze(base, frozen_batchnorm=True)
    textbook.compiled(model, 1e-5)
    return lambda: model.fit(train, validation_data=val, verbose=0)


def split_execution(paths: Paths, weights: str) -> tuple[Callable[[], None], int]:
    """The same as the stage does it: the part above the cut, on the cached outputs of the part below.

    Returns:
        That, and how many multiplications it takes.
    """
    overrides = ["backbone=mobilenet_v2", f"backbone.weights={weights}", "finetune=last_20", "augment=none"]
    config = compose([*overrides, f"finetune.epochs={ROUNDS}", "seed=0"])
    backbone, finetune = config["backbone"], config["finetune"]
    records, classes, head = manifest.read(paths.manifest), read_json(paths.classes), heads.Head.load(paths.head)
    model = finetuning.classifier(backbone, head, finetune.dropout, 0)
    first = cutting.first_layer(model, backbone, finetune.unfreeze)
    finetuning.unfreeze(model, first)
    boundary = cutting.cut(model, first)
    wanted = views.of(records, config["augment"], 0)
    below = features.frozen(*FrozenNetwork.below(model, boundary, backbone), wanted, paths.data)
    train, val = (examples(records, classes, below, split) for split in ("train", "val"))
    (whole,) = policy.rungs(finetune, model, backbone, len(train.y))
    top, optimizer = finetuning.above(model, boundary), training.adam(whole, {})
    checkpoint = training.Checkpoint("benchmark")
    checkpoint.forget()  # of a benchmark that was stopped
    story: dict[str, Any] = {"rung": 0, "steps": 0, "rows": []}

    def epoch() -> None:  # a run that was stopped after the epoch before goes on
        rung = replace(whole, steps=story["steps"] + whole.steps // ROUNDS)
        training.fit(
            top, optimizer, train, training.Validation(val), rung, 0, checkpoint, story,
            label_smoothing=finetune.label_smoothing,
        )  # fmt: skip

    return epoch, policy.multiplications(model, first) * (limit.PASSES * len(train.y) + len(val.y))


if __name__ == "__main__":
    main()
