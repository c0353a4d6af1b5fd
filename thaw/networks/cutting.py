"""Where a network can be cut: by blocks and layers, as people count them, and by operations, as its graph has them.

Networks are those of ``backbones``: one flat Keras graph, whose backbone stands between two layers of known names.
"""

import re
from collections.abc import Callable
from typing import Any

from thaw.architectures import ARCHITECTURES, HUB
from thaw.config.schema import Backbone, Unfreeze
from thaw.errors import UserError

PREPROCESSING, POOLING = "preprocessing", "pooling"
# What the layers of one block have in their names in KerasHub: transformers and MobileNet, ResNet and DenseNet,
# EfficientNet.
BLOCK = re.compile(r"block_\d+(_\d+)?|stack\d+_block\d+|transition\d+|block\d+[a-z]")


def kept_operation(model: Any, backbone: Backbone) -> int | None:
    """The place in ``model.operations`` of what ``keep_blocks`` keeps; None if it keeps nothing."""
    if not backbone.keep_blocks:
        return None
    return cut(model, first_layer(model, backbone, Unfreeze(blocks=backbone.keep_blocks)))


def span(model: Any) -> tuple[int, int]:
    """Where the backbone is in ``model.layers``: the places of its first layer, and of the first one above it."""
    names = [layer.name for layer in model.layers]
    above = next(place for place, name in enumerate(names) if name.startswith(POOLING))
    return names.index(PREPROCESSING) + 1, above


def blocks(model: Any, backbone: Backbone) -> tuple[str, ...]:
    """The names that ``first_layer`` finds blocks by, from the output to the input."""
    if backbone.custom:
        return tuple(backbone.custom.blocks)
    if backbone.network == HUB:
        first, above = span(model)
        starts: dict[str, str] = {}
        for layer in model.layers[first:above]:
            if layer.weights and (found := BLOCK.search(layer.name)):
                starts.setdefault(layer.name[: found.end()], layer.name)
        stem = next(layer.name for layer in model.layers[first:above] if layer.weights)
        return tuple(dict.fromkeys([*reversed(starts.values()), stem])) if starts else ()
    return ARCHITECTURES[backbone.network].blocks


def first_layer(model: Any, backbone: Backbone, top: Unfreeze) -> int:
    """Find where the top of a network begins: the place in ``model.layers`` of its first layer.

    Raises:
        UserError: more layers or blocks are wanted than there are.
    """
    first, above = span(model)
    if top.all:
        return first
    if top.layers is not None:
        if top.layers > above - first:
            raise UserError(
                f"unfreeze.layers: expected at most {above - first} for {backbone.network}, found {top.layers}; "
                f"lower it"
            )
        return above - top.layers
    assert top.blocks is not None  # Unfreeze holds exactly one of them
    named = blocks(model, backbone)
    if top.blocks > len(named):
        raise UserError(
            f"unfreeze.blocks: expected at most {len(named)} for {backbone.network}, found {top.blocks}; lower it"
        )
    block, names = named[top.blocks - 1], [layer.name for layer in model.layers]
    if block not in names:
        raise UserError(
            f"custom.blocks: expected names of layers, found {block!r}, which the network has not; correct it"
        )
    below = backbone.network in ARCHITECTURES and ARCHITECTURES[backbone.network].below
    return names.index(block) + (1 if below else 0)


def _graph(model: Any) -> Any:
    """The functional model that a model is; a Sequential has one inside."""
    return getattr(model, "_functional", None) or model


def output(model: Any, operation: Any) -> Any:
    """What an operation gives in a model; its own ``output`` is of the graph that it was first put into."""
    nodes = (node for level in _graph(model)._nodes_by_depth.values() for node in level)
    return next(node for node in nodes if node.operation is operation).output_tensors[0]


def cut(model: Any, first: int, batchnorm: bool = False) -> int:
    """Find where a network can be split below a layer: nothing that is trained is below, all that is is above.

    The cut is the last operation below the first layer with weights whose output is the only tensor still in use. The
    graph's operations are walked, not its layers: some architectures hold operations that are no layers.

    Args:
        model: the network.
        first: the place in ``model.layers`` of the first layer that may be trained.
        batchnorm: whether BatchNorm layers are trained too.

    Returns:
        The place of that operation in ``model.operations``.
    """
    import keras

    operations = model.operations
    place = {id(operation): index for index, operation in enumerate(operations)}
    last_use: dict[int, int] = {}
    for index, operation in enumerate(operations):
        for node in operation._inbound_nodes:
            for parent in node.parent_nodes:
                source = place.get(id(parent.operation))
                if source is not None:
                    last_use[source] = max(index, last_use.get(source, 0))
    # Not by what is trainable now: where a network can be cut does not depend on what has been frozen.
    never = keras.layers.Normalization if batchnorm else (keras.layers.Normalization, keras.layers.BatchNormalization)
    trained = next(place[id(layer)] for layer in model.layers[first:] if layer.weights and not isinstance(layer, never))
    return max(index for index in range(trained) if all(last_use.get(earlier, 0) <= index for earlier in range(index)))


def flat(model: Any, tensor: Any, run: Callable[..., Any] | None = None) -> Any:
    """Apply a model so that its layers, and those of models inside it, stand in the graph themselves.

    Args:
        model: a functional model or a Sequential, of one input.
        tensor: its input.
        run: what applies a layer, in its place; without it, each is called.

    Returns:
        Its output; the last one, if it has several.
    """
    import keras

    def call(layer: Any, *given: Any, **options: Any) -> Any:
        if isinstance(layer, keras.Model):
            return flat(layer, given[0], run)
        return run(layer, *given, **options) if run else layer(*given, **options)

    outputs = _graph(model)._run_through_graph(tensor, operation_fn=lambda one: one, call_fn=call)
    for layer in model.layers:
        layer.trainable = True  # until fine-tuning says what stays frozen
    return [*outputs.values()][-1] if isinstance(outputs, dict) else keras.tree.flatten(outputs)[-1]
