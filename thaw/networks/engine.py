"""Run a frozen network fast: OpenVINO, or TensorFlow where that is better (GPU) or wanted as the reference.

The network is converted once and kept as OpenVINO IR in the cache under its fingerprint; from then on running it needs
no TensorFlow.
"""

import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thaw.artifacts import atomic, cache, fingerprint
from thaw.machine import has_gpu
from thaw.networks.backbones import FrozenNetwork
from thaw.networks.inference import OpenVino
from thaw.networks.outputs import Floats
from thaw.networks.weights import located

BATCH, GPU_BATCH = 32, 256  # images that TensorFlow is given at once; half of them, and so on, where memory lacks
AHEAD = 2  # batches that it has at once, so that it need not wait for the next one


class Engine(Protocol):
    """A frozen network that is ready to run.

    Attributes:
        shapes: of an image's outputs.
        input_size: pixels of an image's sides.
        batch: images that go through it together.
    """

    shapes: list[tuple[int, ...]]
    input_size: int
    batch: int

    def run(self, images: Iterable[NDArray[np.uint8]], outs: Sequence[Floats]) -> None:
        """Write the k-th output for the i-th image (size × size × 3) to ``outs[k][i]``, of shape ``shapes[k]``."""


def start(network: FrozenNetwork) -> Engine:
    """Make ``network`` ready to run in its engine."""
    if network.engine == "openvino":
        return OpenVino(converted(network), network.backbone.precision)
    return TensorFlow(network)


def parcel(network: FrozenNetwork) -> Callable[[], Engine]:
    """Pack ``network`` for another machine: what makes it ready to run there, in its engine, and can be pickled.

    For OpenVINO the converted network goes along, so that there it takes neither Keras nor the weights. For TensorFlow
    they are looked for under the paths that they have here.
    """
    if network.engine == "openvino":
        path = converted(network)
        ir = path.read_bytes(), path.with_suffix(".bin").read_bytes()
        return partial(_unpacked, *ir, network.backbone.precision)
    return partial(TensorFlow, replace(network, backbone=located(network.backbone)))


def _unpacked(xml: bytes, weights: bytes, precision: str) -> Engine:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # Windows: the reader may map it
        path = Path(scratch, "network.xml")
        path.write_bytes(xml)
        path.with_suffix(".bin").write_bytes(weights)
        return OpenVino(path, precision)


class TensorFlow:
    """The network in TensorFlow, in batches of one size: as many images as its device has memory for.

    A GPU computes on while Python gathers the next batch: what it has found is only fetched then.
    """

    def __init__(self, network: FrozenNetwork) -> None:
        import keras
        import tensorflow as tf

        if network.backbone.precision == "bfloat16":
            keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = network.build()
        finally:
            keras.config.set_dtype_policy("float32")
        self.shapes = [tuple(output.shape)[1:] for output in model.outputs]
        self.input_size = size = network.backbone.input_size
        self._compute = tf.function(lambda x: tf.nest.flatten(model(x, training=False)))
        self.batch = GPU_BATCH if has_gpu() else BATCH
        while not self._has_room(np.zeros((self.batch, size, size, 3), np.uint8)):
            self.batch //= 2

    def _has_room(self, images: NDArray[np.uint8]) -> bool:
        import tensorflow as tf

        try:
            self._compute(images)
        except tf.errors.ResourceExhaustedError:
            if len(images) == 1:
                raise
            return False
        return True

    def run(self, images: Iterable[NDArray[np.uint8]], outs: Sequence[Floats]) -> None:
        """See ``Engine.run``."""
        running: deque[tuple[slice, list[Any]]] = deque()

        def fetch() -> None:
            rows, results = running.popleft()
            for out, result in zip(outs, results, strict=True):
                out[rows] = result.numpy()[: rows.stop - rows.start]

        images, done = iter(images), 0
        while some := list(islice(images, self.batch)):
            filled = some + [np.zeros_like(some[0])] * (self.batch - len(some))
            running.append((slice(done, done + len(some)), self._compute(np.stack(filled))))
            done += len(some)
            if len(running) == AHEAD:
                fetch()
        while running:
            fetch()


def folder() -> Path:
    """Where converted networks are kept: a pair of files (.xml and .bin) each."""
    return cache() / "engine"


def converted(network: FrozenNetwork) -> Path:
    """The network's IR in the cache, converted from Keras if it is not there yet."""
    path = folder() / f"{fingerprint(network.fingerprint, Path(__file__))}.xml"
    if path.exists():
        path.touch()  # when it was last used, for ``features.prune``
    else:
        save_ir(network.build(), network.outputs, path)
    return path


def copy(network: FrozenNetwork, out: Path) -> None:
    """Copy the network's IR, converted if it is not in the cache yet, to ``out`` (.xml) and a .bin beside it."""
    kept = converted(network)
    for suffix in (".xml", ".bin"):
        shutil.copyfile(kept.with_suffix(suffix), out.with_suffix(suffix))


def save_ir(model: Any, outputs: int, path: Path) -> None:
    """Convert a Keras model of images (batch × size × size × 3, uint8) to OpenVINO IR: ``path`` and a .bin beside it.

    Args:
        model: the model.
        outputs: how many it has.
        path: the .xml file; it appears last, so that where it is, all is.
    """
    import openvino
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    image = tf.TensorSpec((1, *model.input.shape[1:]), tf.uint8)
    function = tf.function(lambda x: model(x, training=False), input_signature=[image]).get_concrete_function()
    frozen = convert_variables_to_constants_v2(function)
    # As a file, so that OpenVINO's own reader takes it: openvino.convert_model takes the function as it is, and fails
    # from Python 3.13 on.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # Windows: the reader may map it
        graph = Path(scratch, "graph.pb")
        graph.write_bytes(_folded(frozen).SerializeToString(deterministic=True))
        ir = openvino.Core().read_model(graph)
    # By name: a graph has no order of its own, and what it would need for its gradients may be further outputs.
    results = [ir.output(tensor.name).get_node() for tensor in frozen.outputs[:outputs]]
    ir = openvino.Model(results, ir.get_parameters(), "network")
    # Names count what the process has built before: without them, the same network is the same file.
    for number, operation in enumerate(ir.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
        for output in operation.outputs():
            output.get_tensor().set_names(set())
    with atomic(path) as partial:
        openvino.save_model(ir, partial, compress_to_fp16=False)
        partial.with_suffix(".bin").replace(path.with_suffix(".bin"))


def _folded(frozen: Any) -> Any:
    """The graph of a function without variables, in which what depends on no image is a constant.

    Windows of attention are such a thing, and KerasHub computes them with operations that OpenVINO does not know.
    """
    import tensorflow as tf

    constant: dict[str, bool] = {}
    for operation in frozen.graph.get_operations():  # each stands behind its inputs
        known = operation.type != "Placeholder" and all(constant[one.op.name] for one in operation.inputs)
        constant[operation.name] = known and not operation.control_inputs
    wanted = {
        one.op.name: one
        for operation in frozen.graph.get_operations()
        if not constant[operation.name]
        for one in operation.inputs
        if constant[one.op.name] and one.op.type != "Const" and len(one.op.outputs) == 1
    }
    graph = frozen.graph.as_graph_def()
    values = dict(zip(wanted, frozen.prune([], [*wanted.values()])(), strict=True)) if wanted else {}
    for node in graph.node:
        if node.name in values:
            value = values[node.name]
            node.op = "Const"
            del node.input[:]
            node.attr.clear()
            node.attr["dtype"].type = value.dtype.as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.numpy()))
    needed = {tensor.op.name for tensor in frozen.outputs} | {tensor.op.name for tensor in frozen.inputs}
    for node in reversed(graph.node):
        if node.name in needed:
            needed |= {name.lstrip("^").partition(":")[0] for name in node.input}
    kept = [one for node in graph.node if node.name in needed for one in _readable(node)]
    del graph.node[:]
    graph.node.extend(kept)
    return graph


def _readable(node: Any) -> list[Any]:
    """An operation of a graph; of a constant in bfloat16, which OpenVINO does not read, one in float32, converted."""
    import tensorflow as tf

    if node.op != "Const" or node.attr["dtype"].type != tf.bfloat16.as_datatype_enum:
        return [node]
    narrow, wide = tf.bfloat16.as_datatype_enum, tf.float32.as_datatype_enum
    value = tf.make_tensor_proto(tf.make_ndarray(node.attr["value"].tensor).astype(np.float32))
    constant = tf.compat.v1.NodeDef(name=f"{node.name}/float32", op="Const")
    constant.attr["dtype"].type = wide
    constant.attr["value"].tensor.CopyFrom(value)
    cast = tf.compat.v1.NodeDef(name=node.name, op="Cast", input=[constant.name])
    cast.attr["SrcT"].type, cast.attr["DstT"].type = wide, narrow
    return [constant, cast]
