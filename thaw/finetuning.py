"""Fine-tuning: the whole classifier, and the part of it that is trained."""

from typing import Any

import numpy as np

from thaw.backbones import network
from thaw.config import Backbone
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


def unfreeze(model: Any, first: int) -> None:
    """Make a classifier trainable from its ``first``-th layer on, and freeze the rest and every BatchNorm.

    BatchNorm stays frozen because its statistics were computed on millions of images: recomputed from a few small
    batches they destroy what the layers above have learnt (and ``training=False`` does not protect them in ``fit``,
    keras#20285). The model has to be compiled afterwards.
    """
    import keras

    for place, layer in enumerate(model.layers):
        layer.trainable = place >= first and not isinstance(layer, keras.layers.BatchNormalization)


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
