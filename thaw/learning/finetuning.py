"""Fine-tuning: the whole classifier, and the part of it that is trained."""

import math
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.artifacts import Paths, read_json, write_json
from thaw.config.schema import Backbone, Finetune, Step, Unfreeze
from thaw.data import manifest
from thaw.errors import UserError
from thaw.learning import curves
from thaw.learning.examples import Examples, examples
from thaw.learning.heads import Head
from thaw.learning.training import logits, rank, score
from thaw.networks import backbones, cutting, features
from thaw.networks.outputs import Array, Floats


def classifier(
    backbone: Backbone,
    head: Head,
    dropout: float,
    seed: int,
    statistics: Path | None = None,
    precision: str = "float32",
) -> Any:
    """Build a backbone with a trained head on top: images → logits (batch × classes).

    Args:
        backbone: the configuration.
        head: the weights of its Dense layers.
        dropout: the share of each Dense layer's inputs that is hidden in a training step.
        seed: of the dropout.
        statistics: adapted ones, see ``FrozenNetwork``.
        precision: ``bfloat16`` has the layers compute in it, and keep their weights in float32.
    """
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        return _classifier(backbone, head, dropout, seed, statistics)
    finally:
        keras.config.set_dtype_policy(before)


def _classifier(backbone: Backbone, head: Head, dropout: float, seed: int, statistics: Path | None) -> Any:
    import keras

    base = backbones.network(backbone, statistics)
    x = base.output
    dense = []
    for number, (_, bias) in enumerate(head.layers, start=1):
        last = number == len(head.layers)
        x = keras.layers.Dropout(dropout, seed=seed + number - 1, name=f"dropout_{number}")(x)
        # Logits are never rounded to bfloat16.
        kind = {"name": "logits", "dtype": "float32"} if last else {"name": f"hidden_{number}", "activation": "relu"}
        dense.append(keras.layers.Dense(len(bias), **kind))
        x = dense[-1](x)
    for layer, weights in zip(dense, head.layers, strict=True):
        layer.set_weights(weights)
    return keras.Model(base.input, x)


def unfreeze(model: Any, first: int, batchnorm: bool = False) -> None:
    """Make a classifier trainable from its ``first``-th layer on; freeze the rest and, unless told, every BatchNorm.

    BatchNorm stays frozen because its statistics were computed on millions of images: recomputed from a few small
    batches they destroy what the layers above have learnt (and ``training=False`` does not protect them in ``fit``,
    keras#20285). The model has to be compiled afterwards.
    """
    import keras

    for place, layer in enumerate(model.layers):
        layer.trainable = place >= first and (batchnorm or not isinstance(layer, keras.layers.BatchNormalization))


def plan(model: Any, backbone: Backbone, finetune: Finetune) -> list[tuple[Step, int, int]]:
    """The steps of fine-tuning, each with the place of its first trained layer and of the operation it is cut at.

    Raises:
        UserError: there is not so much to unfreeze, or a step is less deep than the one before: what lies below it
            would have changed.
    """
    found: list[tuple[Step, int, int]] = []
    for step in finetune.steps:
        first = cutting.first_layer(model, backbone, step.unfreeze)
        if found and first > found[-1][1]:
            raise UserError(
                "then: expected each step to unfreeze at least as much as the one before, found less; sort them"
            )
        found.append((step, first, cutting.cut(model, first, finetune.batchnorm == "train")))
    return found


def rates(model: Any, backbone: Backbone, block_decay: float) -> dict[str, float]:
    """The share of the rate for each variable, by path: 1 for the head, ``block_decay`` times less with each block.

    Discriminative rates (Howard and Ruder 2018, arXiv:1801.06146): what is near the input is general, and should
    change less.
    """
    _, above = cutting.span(model)
    starts = [
        cutting.first_layer(model, backbone, Unfreeze(blocks=count))
        for count in range(1, len(cutting.blocks(backbone)) + 1)
    ]
    found: dict[str, float] = {}
    for place, layer in enumerate(model.layers):
        # A network without named blocks is one block.
        depth = 0 if place >= above else 1 + sum(place < start for start in starts[:-1])
        found |= {variable.path: block_decay**depth for variable in layer.variables}
    return found


def weights(model: Any) -> dict[str, NDArray[Any]]:
    """A copy of all weights, by path."""
    return {variable.path: np.array(variable) for variable in model.weights}


def mix(model: Any, start: Mapping[str, NDArray[Any]], shares: list[float], val: Examples) -> float:
    """Mix the weights before and after fine-tuning; validation chooses the share of the fine-tuned ones.

    WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903): on the line between both there often is a better model, and one
    that is more robust; it costs no training.

    Args:
        model: the part that was trained, as it is now; it is left with the mixture.
        start: its weights before, by path.
        shares: to try beside 1, which is what was trained and wins a tie.
        val: to choose by: the highest accuracy, of equals the lowest loss.

    Returns:
        The share that was chosen.
    """
    tuned = weights(model)

    def take(share: float) -> None:
        for variable in model.weights:
            variable.assign(share * tuned[variable.path] + (1 - share) * start[variable.path])

    if not shares:
        return 1.0

    def judged(share: float) -> tuple[float, float]:
        take(share)
        return rank(*score(logits(model, val), val.y), "accuracy")

    chosen = min(sorted({1.0, *shares}, reverse=True), key=judged)
    take(chosen)
    return chosen


def devices(which: str) -> AbstractContextManager[Any]:
    """Build and train within the block on one device, or on ``all`` GPUs of the machine, which share each batch."""
    if which == "one":
        return nullcontext()
    import tensorflow as tf

    scope: AbstractContextManager[Any] = tf.distribute.MirroredStrategy().scope()
    return scope


def above(model: Any, operation: int) -> Any:
    """The part of ``model`` above an operation, as a model of its own that shares the layers."""
    import keras

    return keras.Model(model.operations[operation].output, model.output)


def check_start(found: Floats, expected: Floats, precision: str = "float32") -> None:
    """Make sure that fine-tuning starts from the head's logits (images × classes), or before and after say nothing.

    Raises:
        UserError: they differ by more than the rounding of two engines explains.
    """
    difference = float(np.abs(found - expected).max())
    tolerance = {"float32": 1e-3, "bfloat16": 5e-2}[precision]  # bfloat16 has 8 bits
    if difference > tolerance * max(1.0, float(np.abs(expected).max())):
        raise UserError(
            f"finetune: expected to start from the logits of the trained head, found a difference of {difference:.3g}; "
            f"the weights file has changed since the features were extracted: run 'dvc repro --force'"
        )


def hand_on(paths: Paths, out: Path) -> None:
    """Make the model "before" the model "after": its predictions, and a curve that is where it starts."""
    records, classes, head = manifest.read(paths.manifest), read_json(paths.classes), Head.load(paths.head)
    val = examples(records, classes, Array.load(paths.features), "val")
    start = curves.row(0, (math.nan, math.nan), score(head.logits(val.take()), val.y))
    curves.write(out / "history.csv", [start])
    # Copied, not computed again: another order of the same sums would be another model in the last bit.
    shutil.copyfile(paths.predictions("train_head"), out / "predictions.csv")
    write_json(out / paths.stored("finetune").name, features.size([], ()) | {"epoch": 0, "epochs": 0, "share": 0.0})
    print(f"finetune: none; validation accuracy {start['val_accuracy']:.4f} stays as it is")
