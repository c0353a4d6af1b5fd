"""Fine-tuning: the whole classifier, and the part of it that is trained."""

import math
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from thaw.artifacts import Paths, read_json, write_json
from thaw.config.schema import Backbone, Unfreeze
from thaw.data import manifest
from thaw.errors import UserError
from thaw.learning import curves, lora
from thaw.learning.examples import Inputs, examples
from thaw.learning.heads import Head
from thaw.learning.training import PREDICT_BATCH, logits, score
from thaw.networks import backbones, cutting, features, folding, smoothing
from thaw.networks.outputs import Saved


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
        seed: of all dropout.
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

    keras.utils.set_random_seed(seed)  # some layers draw their own: EfficientNet drops whole blocks
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


def unfreeze(model: Any, first: int, batchnorm: bool = False, rank: int = 0, seed: int = 0) -> None:
    """Make a classifier trainable from its ``first``-th layer on; freeze the rest and, unless told, every BatchNorm.

    With a ``rank``, the backbone is frozen as well, but for changes of so low a rank: see ``lora.adapt``.

    BatchNorm stays frozen because its statistics were computed on millions of images: recomputed from a few small
    batches they destroy what the layers above have learnt (and ``training=False`` does not protect them in ``fit``,
    keras#20285). The model has to be compiled afterwards.
    """
    for place, layer in enumerate(model.layers):
        layer.trainable = place >= first
    if rank:
        lora.adapt(model, first, rank, seed)
    found = backbones.batchnorms(model)
    for layer in found:
        layer.trainable = layer.trainable and batchnorm
    if batchnorm and found:
        print("finetune: BatchNorm is trained as well; small batches can spoil what the network has learnt")
    elif batchnorm:
        print("finetune: 'batchnorm: train' has nothing to do: the network has no BatchNorm")


def rates(model: Any, backbone: Backbone, block_decay: float) -> dict[str, float]:
    """The share of the rate for each variable, by path: 1 for the head, ``block_decay`` times less with each block.

    Discriminative rates (Howard and Ruder 2018, arXiv:1801.06146): what is near the input is general, and should
    change less.
    """
    _, above = cutting.span(model)
    starts = [
        cutting.first_layer(model, backbone, Unfreeze(blocks=count))
        for count in range(1, len(cutting.blocks(model, backbone)) + 1)
    ]
    found: dict[str, float] = {}
    for place, layer in enumerate(model.layers):
        # A network without named blocks is one block.
        depth = 0 if place >= above else 1 + sum(place < start for start in starts[:-1])
        found |= {variable.path: block_decay**depth for variable in layer.variables}
    return found


def devices(which: str) -> AbstractContextManager[Any]:
    """Build and train within the block on one device, or on ``all`` GPUs of the machine, which share each batch."""
    if which == "one":
        return nullcontext()
    import tensorflow as tf

    scope: AbstractContextManager[Any] = tf.distribute.MirroredStrategy().scope()
    return scope


def above(model: Any, operation: int) -> Any:
    """The part of ``model`` above an operation, as a model of its own that shares the layers.

    It says the same, is fast to train (``folding``), and learns the same where it is rounded otherwise (``smoothing``).
    """
    import keras

    part = keras.Model(cutting.output(model, model.operations[operation]), model.output)
    return smoothing.smooth(folding.folded(part))


def check_start(model: Any, images: Inputs, head: Head, bottleneck: Inputs, precision: str = "float32") -> None:
    """Make sure that fine-tuning starts from the head's logits, or before and after say nothing.

    Args:
        model: what is to be trained, and
        images: its inputs, of which a batch is asked.
        head: what it ends in, and
        bottleneck: the inputs of that, of the same images.
        precision: of the model.

    Raises:
        UserError: they differ by more than the rounding of two engines explains.
    """
    few = slice(PREDICT_BATCH)
    found, expected = logits(model, Inputs(images.source, images.rows[few])), head.logits(bottleneck.take(few))
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
    val = examples(records, classes, Saved(paths.features), "val")
    start = curves.row(0, (math.nan, math.nan), score(head.predict(val), val.y))
    curves.write(out / "history.csv", [start])
    # Copied, not computed again: another order of the same sums would be another model in the last bit.
    for file in (paths.predictions("train_head"), paths.probabilities("train_head")):
        shutil.copyfile(file, out / file.name)
    write_json(out / paths.stored("finetune").name, features.size([], ()) | {"epochs": 0, "tried": []})
    print(f"finetune: none; validation accuracy {start['val_accuracy']:.4f} stays as it is")
