"""One epoch of fine-tuning the last 20 layers of MobileNetV2: the whole model in Keras, against split execution.

    python -m benchmarks.epoch SPLITS ARTIFACTS DATA WEIGHTS

SPLITS holds train/ and val/ for Keras, ARTIFACTS a finished pipeline on the same images, which are in DATA.
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks import textbook
from thaw import backbones, features, finetuning, heads, manifest, training
from thaw.artifacts import Paths, read_json
from thaw.backbones import FrozenNetwork
from thaw.config import compose
from thaw.examples import examples

EPOCHS = 4  # the first one traces and warms up, and does not count


def main() -> None:
    """Be the command line: print the median seconds of an epoch, validation included, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.epoch")
    parser.add_argument("splits", type=Path)
    parser.add_argument("artifacts", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights")
    given = parser.parse_args()
    both = {
        "keras": whole_model(given.splits, given.weights),
        "thaw": split_execution(Paths(given.data, given.artifacts), given.weights),
    }
    print(json.dumps(both))


def whole_model(splits: Path, weights: str) -> float:
    """The textbook's fine-tuning phase, with BatchNorm frozen."""
    import keras

    times: list[float] = []
    train, val = (textbook.images(splits, split) for split in ("train", "val"))
    model, base = textbook.classifier(weights, len(train.class_names))
    textbook.unfreeze(base, frozen_batchnorm=True)
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: times.append(time.perf_counter()))
    textbook.compiled(model, 1e-5).fit(
        train.prefetch(-1), validation_data=val.prefetch(-1), epochs=EPOCHS, verbose=0, callbacks=[clock]
    )
    return _median_step(times)


def split_execution(paths: Paths, weights: str) -> float:
    """The same epoch as the stage runs it: the part above the cut, on the cached outputs of the part below."""
    overrides = ["backbone=mobilenet_v2", f"backbone.weights={weights}", "finetune=last_20", "augment=none"]
    config = compose([*overrides, f"finetune.epochs={EPOCHS}", "seed=0"])
    backbone, finetune = config["backbone"], config["finetune"]
    records, classes, head = manifest.read(paths.manifest), read_json(paths.classes), heads.Head.load(paths.head)
    model = finetuning.classifier(backbone, head, finetune.dropout, 0)
    first = backbones.first_layer(model, backbone, finetune.unfreeze)
    finetuning.unfreeze(model, first)
    boundary = backbones.cut(model, first)
    wanted = features.views(records, config["augment"], 0)
    below = features.frozen(*FrozenNetwork.below(model, boundary, backbone), wanted, paths.data)
    train, val = (examples(records, classes, below, split) for split in ("train", "val"))
    top = training.compiled(finetuning.above(model, boundary), finetune.learning_rate)
    times: list[float] = []

    class Clock(training.Checkpoint):
        def save(self, *arguments: Any) -> None:
            super().save(*arguments)
            times.append(time.perf_counter())

    clock = Clock("benchmark")
    clock.forget()  # of a run that was stopped
    training.fit(top, train, val, finetune, 0, clock)
    return _median_step(times)


def _median_step(times: list[float]) -> float:
    return statistics.median(after - before for before, after in itertools.pairwise(times))


if __name__ == "__main__":
    main()
