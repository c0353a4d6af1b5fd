"""Fine-tuning: the whole classifier, which part of it is trained, and where it can be split below that part."""

from typing import Any

import numpy as np

from thaw.backbones import ARCHITECTURES, POOLING, PREPROCESSING, network
from thaw.config import Backbone, Unfreeze
from thaw.errors import UserError
from thaw.examples import Floats
from thaw.heads import Head


def classifier(backbone: Backbone, head: Head, dropout: float, seed: int) -> Any:
    """Build ``network`` with a trained head on top: images → logits (batch × classes).

    Args:
        backbone: the configuration.
        head: the weights of the Dense layer.
        dropout: the share of bottleneck features hidden in a training step.
        seed: of the dropout.
    """
    import keras

    base = network(backbone)
    dropped = keras.layers.Dropout(dropout, seed=seed, name="dropout")(base.output)
    dense = keras.layers.Dense(len(head.bias), name="logits")
    logits = dense(dropped)
    dense.set_weights([head.kernel, head.bias])
    return keras.Model(base.input, logits)


def unfreeze(model: Any, backbone: Backbone, top: Unfreeze) -> None:
    """Make the top of the backbone and the head trainable, and all the rest, with every BatchNorm, frozen.

    BatchNorm stays frozen because its statistics were computed on millions of images: recomputed from a few small
    batches they destroy what the layers above have learnt (and ``training=False`` does not protect them in ``fit``,
    keras#20285). The model has to be compiled afterwards.

    Raises:
        UserError: more layers or blocks are wanted than there are.
    """
    import keras

    names = [layer.name for layer in model.layers]
    first = names.index(PREPROCESSING) + 1
    body = model.layers[first : names.index(POOLING)]
    if top.layers is not None:
        if top.layers > len(body):
            raise UserError(
                f"unfreeze.layers: expected at most {len(body)} for {backbone.network}, found {top.layers}; lower it"
            )
        start = first + len(body) - top.layers
    else:
        assert top.blocks is not None  # Unfreeze holds exactly one of both
        blocks = ARCHITECTURES[backbone.network].blocks
        if top.blocks > len(blocks):
            raise UserError(
                f"unfreeze.blocks: expected at most {len(blocks)} for {backbone.network}, found {top.blocks}; lower it"
            )
        start = names.index(blocks[top.blocks - 1])
    for place, layer in enumerate(model.layers):
        layer.trainable = place >= start and not isinstance(layer, keras.layers.BatchNormalization)


def cut(model: Any) -> int:
    """Find where a partly frozen model can be split: below, nothing is trained; above, everything that is.

    The cut is the last operation below the first trained layer whose output is the only tensor still in use. The
    graph's operations are walked, not its layers: some architectures hold operations that are no layers.

    Returns:
        The place of that operation in ``model.operations``.
    """
    operations = model.operations
    place = {id(operation): index for index, operation in enumerate(operations)}
    last_use: dict[int, int] = {}
    for index, operation in enumerate(operations):
        for node in operation._inbound_nodes:
            for parent in node.parent_nodes:
                source = place.get(id(parent.operation))
                if source is not None:
                    last_use[source] = max(index, last_use.get(source, 0))
    trained = next(i for i, operation in enumerate(operations) if getattr(operation, "trainable_variables", []))
    return max(index for index in range(trained) if all(last_use.get(earlier, 0) <= index for earlier in range(index)))


def above(model: Any, operation: int) -> Any:
    """The part of ``model`` above an operation, as a model of its own that shares the layers."""
    import keras

    return keras.Model(model.operations[operation].output, model.output)


def check_start(found: Floats, expected: Floats) -> None:
    """Make sure that fine-tuning starts from the head's logits (images × classes), or before and after say nothing.

    Raises:
        UserError: they differ by more than the rounding of two engines explains.
    """
    difference = float(np.abs(found - expected).max())
    if difference > 1e-3 * max(1.0, float(np.abs(expected).max())):
        raise UserError(
            f"finetune: expected to start from the logits of the trained head, found a difference of {difference:.3g}; "
            f"the weights file has changed since the features were extracted: run 'dvc repro --force'"
        )
