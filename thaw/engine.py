"""Run a frozen network fast: OpenVINO, or TensorFlow where that is better (GPU) or wanted as the reference.

The network is converted once and kept as OpenVINO IR in the cache under its fingerprint; from then on running it needs
no TensorFlow. Images go through one by one on parallel streams: an image's output then depends on nothing but the
image, to the last bit, where the size of a batch would choose the kernel.
"""

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thaw.artifacts import atomic, cache, fingerprint
from thaw.backbones import FrozenNetwork
from thaw.errors import UserError
from thaw.examples import Floats
from thaw.machine import cores

TENSORFLOW_BATCH = 32


class Engine(Protocol):
    """A frozen network that is ready to run.

    Attributes:
        shapes: of an image's outputs.
        input_size: pixels of an image's sides.
    """

    shapes: list[tuple[int, ...]]
    input_size: int

    def run(self, images: Iterable[NDArray[np.uint8]], outs: Sequence[Floats]) -> None:
        """Write the k-th output for the i-th image (size × size × 3) to ``outs[k][i]``, of shape ``shapes[k]``."""


def start(network: FrozenNetwork) -> Engine:
    """Make ``network`` ready to run in its engine."""
    return OpenVino(network) if network.engine == "openvino" else TensorFlow(network)


class OpenVino:
    """The network as OpenVINO IR on the CPU, with a request at a time on each of its streams."""

    def __init__(self, network: FrozenNetwork) -> None:
        import openvino

        core = openvino.Core()
        precision = network.backbone.precision
        if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UserError(
                "precision: expected a processor with bfloat16 arithmetic (AVX-512 BF16 or AMX), "
                "found none; set it to float32"
            )
        model = core.read_model(_converted(network))
        hints = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": cores(),
        }
        self._compiled = core.compile_model(model, "CPU", hints)
        self.shapes = [tuple(output.shape)[1:] for output in self._compiled.outputs]
        self.input_size = network.backbone.input_size
        # Once in this thread, before any others: OpenVINO's Python binding sets up a static of its own when a tensor is
        # first looked at, and gives up the GIL meanwhile; a second thread that comes then waits for it with the GIL.
        self._compiled.create_infer_request().infer({0: np.zeros(self._compiled.input(0).shape, np.uint8)})[0]

    def run(self, images: Iterable[NDArray[np.uint8]], outs: Sequence[Floats]) -> None:
        """See ``Engine.run``."""
        numbered, lock = enumerate(images), threading.Lock()

        def work() -> None:
            request = self._compiled.create_infer_request()
            while True:
                with lock:
                    place, image = next(numbered, (None, None))
                if image is None:
                    return
                results = request.infer({0: image[np.newaxis]})
                for k, out in enumerate(outs):
                    out[place] = results[k][0]

        # Threads of our own, each with a blocking request: OpenVINO's AsyncInferQueue calls Python from its own
        # threads; when the compiled model is then destroyed, it may wait for such a thread, which waits for the GIL.
        streams = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        with ThreadPoolExecutor(streams) as pool:
            for worker in [pool.submit(work) for _ in range(streams)]:
                worker.result()


class TensorFlow:
    """The network in TensorFlow, in batches of one size."""

    def __init__(self, network: FrozenNetwork) -> None:
        import keras

        if network.backbone.precision == "bfloat16":
            keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            self._model = network.build()
        finally:
            keras.config.set_dtype_policy("float32")
        self.shapes = [tuple(output.shape)[1:] for output in self._model.outputs]
        self.input_size = network.backbone.input_size

    def run(self, images: Iterable[NDArray[np.uint8]], outs: Sequence[Floats]) -> None:
        """See ``Engine.run``."""
        batch: list[NDArray[np.uint8]] = []
        done = 0

        def flush() -> None:
            nonlocal done
            filled = batch + [np.zeros_like(batch[0])] * (TENSORFLOW_BATCH - len(batch))
            results = self._model.predict_on_batch(np.stack(filled))
            for out, result in zip(outs, results if len(outs) > 1 else [results], strict=True):
                out[done : done + len(batch)] = result[: len(batch)]
            done += len(batch)
            batch.clear()

        for image in images:
            batch.append(image)
            if len(batch) == TENSORFLOW_BATCH:
                flush()
        if batch:
            flush()


def folder() -> Path:
    """Where converted networks are kept: a pair of files (.xml and .bin) each."""
    return cache() / "engine"


def _converted(network: FrozenNetwork) -> Path:
    """The network's IR in the cache, converted from Keras if it is not there yet."""
    path = folder() / f"{fingerprint(network.fingerprint, Path(__file__))}.xml"
    if path.exists():
        path.touch()  # when it was last used, for ``features.prune``
    else:
        import openvino
        import tensorflow as tf

        model = network.build()
        image = tf.TensorSpec((1, *model.input.shape[1:]), tf.uint8)
        # From the traced function, not from a SavedModel on disk: the same graph, several times as fast.
        function = tf.function(lambda x: model(x, training=False), input_signature=[image]).get_concrete_function()
        converted = openvino.convert_model(function)
        # Activations with a gradient of their own (EfficientNet's swish) leave what it would need as further outputs.
        results = converted.get_results()[: network.outputs]
        converted = openvino.Model(results, converted.get_parameters(), "network")
        with atomic(path) as partial:
            openvino.save_model(converted, partial, compress_to_fp16=False)
            # The IR is two files; the one that is looked for (.xml) gets its name last.
            partial.with_suffix(".bin").replace(path.with_suffix(".bin"))
    return path
