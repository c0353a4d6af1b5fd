"""Where in a picture a classifier finds what speaks for one class rather than for another: class activation maps.

Above its last feature maps a classifier is a few operations: pooling, Dense layers, ReLU. They are walked backwards in
its OpenVINO graph, which needs no training library; an operation that is not in ``_BACK`` means that there is no map,
never a wrong one. With A the feature maps, and G the gradient of a weighted sum of logits with respect to them, a
place's part in that sum is ΣA·G over the channels.

For average pooling and one Dense layer that is CAM (Zhou et al. 2016, arXiv:1512.04150), and exact, as it is for maps
that are flattened. Max pooling and ReLU are linear in pieces, and it holds for the piece that the picture is on:
Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), without its mean of G over the places.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.machine import cores
from thaw.networks.outputs import Floats

Layers = Sequence[tuple[Floats, Floats]]  # kernel and bias of each, as ``heads.Head`` has them
Values = Mapping[str, Floats]  # of the tensors of a graph, by name


class Unmapped(Exception):  # noqa: N818 (what a network is, not a failure of the program)
    """A network has no feature maps of more than one place, or makes of them what cannot be walked backwards."""


class Mapped:
    """A classifier that can say what each place of a picture has to do with its answer.

    Attributes:
        places: how many it tells apart: height and width of its last feature maps.
    """

    def __init__(self, network: Path, head: Layers = ()) -> None:
        """Find its feature maps.

        Args:
            network: the .xml file, its .bin beside it: image (1 × size × size × 3, uint8) → logits.
            head: the Dense layers that it still lacks; its first output are then bottleneck features.

        Raises:
            Unmapped: there are none.
        """
        import openvino
        from openvino import opset13 as ops

        core = openvino.Core()
        model = core.read_model(network)
        end = model.get_results()[0].input_value(0)
        self._head, self._end = head, _name(end)
        self._tail, maps, self._axes = _tail(model, end)
        self._maps = _name(maps)
        self.places = tuple(_shape(maps)[axis] for axis in self._axes)
        seen = {self._maps: maps} | {_name(node.output(0)): node.output(0) for node in self._tail}
        self._names = [*seen]
        # As float32, whatever they are in a network that was trained in bfloat16.
        results = [ops.result(ops.convert(output, "f32")) for output in seen.values()]
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores()}
        self._compiled = core.compile_model(openvino.Model(results, model.get_parameters(), "tail"), "CPU", hints)

    def maps(self, squares: Iterable[NDArray[np.uint8]], weights: Floats) -> Iterator[Floats]:
        """Yield, for each picture, what its places (height × width) have to do with a weighted sum of its logits.

        The sum is the mean over the places: the bias, which is no place's own, counts in all alike. After average
        pooling and with one Dense layer, a place has what the layer says of that place alone.

        Args:
            squares: pictures (size × size × 3), as ``images.square`` makes them.
            weights: pictures × classes; 1 and −1 ask why one class rather than another.
        """
        for square, row in zip(squares, weights, strict=True):
            found = self._compiled(square[np.newaxis])
            values = {name: found[place] for place, name in enumerate(self._names)}
            total, slope = _asked(self._head, values[self._end], row[np.newaxis])
            slopes = {self._end: slope}
            for node in reversed(self._tail):
                below = _BACK[node.get_type_name()](node, slopes[_name(node.output(0))], values)
                for source, part in zip(_sources(node), _parted(node, below), strict=True):
                    slopes[_name(source)] = slopes.get(_name(source), 0) + part
            channels = ({1, 2, 3} - {*self._axes}).pop()
            own: Floats = (values[self._maps] * slopes[self._maps]).sum(axis=channels)[0]
            yield own * own.size + (total - own.sum())


def _asked(head: Layers, features: Floats, weights: Floats) -> tuple[float, Floats]:
    """A weighted sum of the logits that a head gives, and its gradient with respect to the features (1 × features)."""
    inputs, x = [], features
    for number, (kernel, bias) in enumerate(head):
        inputs.append(np.maximum(x, 0) if number else x)
        x = inputs[-1] @ kernel + bias
    slope = weights
    for number, (kernel, _) in reversed([*enumerate(head)]):
        slope = slope @ kernel.T
        slope = slope * (inputs[number] > 0) if number else slope
    return float((x * weights).sum()), slope


def _tail(model: Any, end: Any) -> tuple[list[Any], Any, tuple[int, ...]]:
    """Find what is between the last feature maps of a network and ``end``.

    Returns:
        The operations, in order; the maps; and which of their axes are the places.

    Raises:
        Unmapped: see there.
    """
    nodes: dict[str, Any] = {}
    maps: dict[tuple[str, tuple[int, ...]], Any] = {}
    waiting = [end]
    while waiting:
        node = waiting.pop().get_node()
        if not _can_be_walked(node):
            raise Unmapped
        nodes[node.get_friendly_name()] = node
        for source in _sources(node):
            if len(_shape(source)) == 4 and sum(length > 1 for length in _shape(source)) == 3:
                maps[_name(source), _places(node)] = source
            else:
                waiting.append(source)
    if len(maps) != 1:
        raise Unmapped
    (((_, axes), found),) = maps.items()
    return [one for one in model.get_ordered_ops() if one.get_friendly_name() in nodes], found, axes


def _can_be_walked(node: Any) -> bool:
    """Whether an operation takes one thing that is no constant, as ``_BACK`` expects it; Concat takes several."""
    kind, sources, inputs = node.get_type_name(), _sources(node), len(node.input_values())
    if kind == "Concat":
        return len(sources) == inputs
    known = kind in _BACK and len(sources) == 1
    if known and kind in ("Add", "Multiply"):
        return _shape(sources[0]) == _shape(node.output(0))
    if known and kind == "MatMul":
        return not _is_constant(node.input_value(0)) and not node.get_attributes()["transpose_a"]
    return known


def _places(node: Any) -> tuple[int, ...]:
    """Which axes of the maps that an operation takes are places: what it reduces, and Keras' own where it flattens."""
    reduces = node.get_type_name() in ("ReduceMean", "ReduceMax")
    axes = _axes(node) if reduces else (1, 2)
    if axes not in ((1, 2), (2, 3)) or not (reduces or node.get_type_name() == "Reshape"):
        raise Unmapped
    return axes


def _name(output: Any) -> str:
    return f"{output.get_node().get_friendly_name()}:{output.get_index()}"


def _shape(output: Any) -> tuple[int, ...]:
    return tuple(int(length) for length in output.shape)


def _is_constant(output: Any) -> bool:
    return bool(output.get_node().get_type_name() == "Constant")


def _constant(node: Any) -> Floats:
    """The constant that an operation takes; as it stands in the graph, NumPy may have no name for its type."""
    constant = next(one for one in node.input_values() if _is_constant(one)).get_node()
    found: Floats = constant.get_data(dtype=np.float32)
    return found


def _axes(node: Any) -> tuple[int, ...]:
    """The axes that a reduction reduces."""
    return tuple(sorted(int(axis) % len(_sources(node)[0].shape) for axis in _constant(node)))


def _sources(node: Any) -> list[Any]:
    """What else it takes."""
    return [one for one in node.input_values() if not _is_constant(one)]


def _parted(node: Any, below: Floats) -> list[Floats]:
    """The gradient for each of the things that an operation takes: Concat takes several."""
    if node.get_type_name() != "Concat":
        return [below]
    axis = node.get_attributes()["axis"]
    ends = np.cumsum([one.shape[axis] for one in _sources(node)])[:-1]
    return np.split(below, ends, axis)


def _same(_node: Any, above: Floats, _values: Values) -> Floats:
    return above


def _shaped(node: Any, above: Floats, _values: Values) -> Floats:
    return above.reshape(_shape(_sources(node)[0]))


def _turned(node: Any, above: Floats, _values: Values) -> Floats:
    return above.transpose(np.argsort(_constant(node)))


def _scaled(node: Any, above: Floats, _values: Values) -> Floats:
    below: Floats = above * _constant(node)
    return below


def _dense(node: Any, above: Floats, _values: Values) -> Floats:
    kernel = _constant(node)
    below: Floats = above @ (kernel if node.get_attributes()["transpose_b"] else kernel.T)
    return below


def _positive(node: Any, above: Floats, values: Values) -> Floats:
    return np.where(values[_name(node.output(0))] > 0, above, np.float32(0))


def _mean(node: Any, above: Floats, _values: Values) -> Floats:
    shape = _shape(_sources(node)[0])
    return np.broadcast_to(above.reshape(_kept(node)) * np.float32(above.size / math.prod(shape)), shape)


def _max(node: Any, above: Floats, values: Values) -> Floats:
    """Equal maxima share: ReLU6 has many."""
    taken, axes = values[_name(_sources(node)[0])], _axes(node)
    highest = taken == taken.max(axes, keepdims=True)
    below: Floats = above.reshape(_kept(node)) * highest / highest.sum(axes, keepdims=True, dtype=np.float32)
    return below


def _kept(node: Any) -> tuple[int, ...]:
    """The shape of what a reduction gives, with the axes that it reduces."""
    return tuple(1 if axis in _axes(node) else length for axis, length in enumerate(_shape(_sources(node)[0])))


# From the gradient with respect to what an operation gives to that with respect to what it takes.
_BACK: Mapping[str, Callable[[Any, Floats, Values], Floats]] = {
    "Add": _same,
    "Concat": _same,  # whose inputs have a part of it each, see ``_parted``
    "Convert": _same,
    "MatMul": _dense,
    "Multiply": _scaled,
    "ReduceMax": _max,
    "ReduceMean": _mean,
    "Relu": _positive,
    "Reshape": _shaped,
    "Squeeze": _shaped,
    "Transpose": _turned,
    "Unsqueeze": _shaped,
}
