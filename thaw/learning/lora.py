"""Low-rank adaptation (LoRA, Hu et al. 2021, arXiv:2106.09685): of a kernel, only a change of low rank is trained.

A kernel W stays as it is, and x (W + A B) is computed, where A has as many columns, and B as many rows, as the rank
says. B starts at zero, so that nothing is changed at first. What is trained are A and B, a few percent of W's weights,
and the optimiser keeps two moments of so much less. In the end A B is added to W, and the network is an ordinary one.

All Dense layers of the part that is unfrozen have a change of their own, those of the perceptrons too. Hu et al. adapt
queries and values alone; Dettmers et al. 2023 (arXiv:2305.14314, section 4) needed all layers to come up to full
fine-tuning, and a name for queries and values that holds for every architecture there is not: Swin's are one kernel.
"""

from typing import Any

import numpy as np

from thaw.errors import UserError
from thaw.learning.training import Weights
from thaw.networks import cutting


def adapt(model: Any, first: int, rank: int, seed: int) -> None:
    """Give the Dense layers of a classifier's backbone changes of low rank, and freeze all else but the head.

    Args:
        model: the classifier.
        first: the place in ``model.layers`` of the first layer that is unfrozen; those below have no change.
        rank: of the changes. The scale that Hu et al. add to it (alpha) is the learning rate's business: here it is 1.
        seed: of the factors A, together with a layer's place, so that they do not depend on what was built before.

    Raises:
        UserError: there is no Dense layer.
    """
    import keras

    _, above = cutting.span(model)
    unfrozen = model.layers[first:above]
    for layer in unfrozen:
        for variable in layer.variables:
            variable.trainable = False
    adapted = [one for layer in unfrozen for one in _dense(layer)]
    if not adapted:
        raise UserError(
            "lora: expected Dense layers in the part of the network that is unfrozen, as transformers have them, found "
            "none; set it to 0, or choose another backbone"
        )
    for place, layer in enumerate(reversed(adapted)):  # counted from the output: the same however deep it is unfrozen
        layer.enable_lora(rank, a_initializer=keras.initializers.HeUniform(seed + place))


def merge(model: Any, before: Weights) -> Weights:
    """Add the changes to their kernels, which makes the model an ordinary one whose kernels have been trained.

    Args:
        model: a model; one without changes is left as it is.
        before: the weights that were trained, as they were before.

    Returns:
        The same, with kernels in the place of their factors: in the order of the model's trainable variables as it is
        now. So what is mixed of before and after are kernels.
    """
    import keras

    starts = {id(variable): old for variable, old in zip(model.trainable_variables, before, strict=True)}
    for layer in (one for each in model.layers for one in _dense(each) if one.lora_enabled):
        kernel, a, b = layer._kernel, layer.lora_kernel_a, layer.lora_kernel_b
        starts[id(kernel)] = np.array(kernel)
        kernel.assign(kernel + keras.ops.matmul(a, b))
        b.assign(keras.ops.zeros_like(b))  # for functions of the model that were traced before
        layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
        for factor in (a, b):
            layer._untrack_variable(factor)
        kernel.trainable = True
    return [starts[id(variable)] for variable in model.trainable_variables]


def _dense(layer: Any) -> list[Any]:
    """The Dense layers that a layer is, or has inside."""
    import keras

    kinds = (keras.layers.Dense, keras.layers.EinsumDense)
    return [one for one in layer._flatten_layers() if isinstance(one, kinds)]
