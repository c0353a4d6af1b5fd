"""Run an OpenVINO network on the CPU: images through parallel streams, one at a time.

An image's output then depends on nothing but the image, to the last bit, where the size of a batch would choose the
kernel. Knows nothing of Keras, of the configuration or of the project: a finished model carries this module with it.
"""

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from thaw.errors import UserError
from thaw.machine import cores

F = TypeVar("F", bound=np.floating[Any])


def softmax(logits: NDArray[F], temperature: float = 1.0) -> NDArray[F]:
    """Probabilities (images × classes) from logits, which are divided by the temperature first."""
    scaled = logits / temperature
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: NDArray[F] = odds / odds.sum(axis=1, keepdims=True)
    return probabilities


class OpenVino:
    """A network as OpenVINO IR, with a request at a time on each of its streams.

    Attributes:
        shapes: of an image's outputs.
        input_size: pixels of an image's sides.
    """

    batch = 1

    def __init__(self, ir: Path, precision: str) -> None:
        """Compile the network.

        Args:
            ir: the .xml file, its .bin beside it: image (1 × size × size × 3, uint8) → outputs.
            precision: ``float32`` or ``bfloat16``.

        Raises:
            UserError: the processor has no such arithmetic.
        """
        import openvino

        core = openvino.Core()
        if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UserError(
                "precision: expected a processor with bfloat16 arithmetic (AVX-512 BF16 or AMX), "
                "found none; set it to float32"
            )
        hints = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": cores(),
        }
        self._compiled = core.compile_model(core.read_model(ir), "CPU", hints)
        self.shapes = [tuple(output.shape)[1:] for output in self._compiled.outputs]
        self.input_size = int(self._compiled.input(0).shape[1])
        # Once in this thread, before any others: OpenVINO's Python binding sets up a static of its own when a tensor is
        # first looked at, and gives up the GIL meanwhile; a second thread that comes then waits for it with the GIL.
        self._compiled.create_infer_request().infer({0: np.zeros(self._compiled.input(0).shape, np.uint8)})[0]

    def run(self, images: Iterable[NDArray[np.uint8]], outs: Sequence[NDArray[np.float32]]) -> None:
        """Write the k-th output for the i-th image (size × size × 3) to ``outs[k][i]``, of shape ``shapes[k]``."""
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
