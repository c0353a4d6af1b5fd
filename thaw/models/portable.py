"""The finished model: a folder that turns pictures into labels and calibrated probabilities, wherever it is.

``evaluate`` writes it, MLflow keeps and serves it, ``predict`` uses it. It needs OpenVINO, NumPy and Pillow: no
TensorFlow, no training data, nothing of the project but the few modules that MLflow keeps beside it. The network is
OpenVINO IR and the facts are JSON: nothing in it is unpickled.

    model.xml, model.bin   the classifier: image (1 × size × size × 3, uint8) → logits (1 × classes)
    model.json             ``Facts``
    README.md              the model card
"""

import base64
import binascii
import io
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw import parallel
from thaw.data import images
from thaw.data.images import Unusable
from thaw.errors import UserError
from thaw.networks.inference import OpenVino, softmax

NETWORK, FACTS, CARD = "model.xml", "model.json", "README.md"
MAX_PIXELS = 100e6  # what a picture from outside may announce: decoding it must not take all memory

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Facts:
    """What must be known beside the network.

    Attributes:
        classes: their names, in the order of the logits.
        input_size: pixels of an image's sides.
        precision: of the arithmetic: ``float32`` or ``bfloat16``.
        temperature: the logits are divided by it, so that probabilities are as sure as they are right on validation.
        fit: how a picture becomes a square, see ``images.square``; models from before there was a choice do not say it.
        threshold: where the most probable class has a lower probability, the model is unsure; None where there were too
            few validation images to choose one, or none was high enough.
    """

    classes: list[str]
    input_size: int
    precision: str
    temperature: float
    fit: str = "stretch"
    threshold: float | None = 0.0

    @property
    def note(self) -> str:
        """A line on why it never says that it is unsure; nothing where it may."""
        why = "its validation images were too few, or too often wrong, to say when; see README.md beside it"
        return f"note: this model never says 'unsure': {why}\n" if self.threshold is None else ""

    def unsure(self, row: Floats) -> bool:
        """Whether the probability of the most probable class is too low for the answer to be relied on."""
        return self.threshold is not None and bool(row.max() < self.threshold)

    def said(self, row: Floats, top: int) -> str:
        """Return, in a line, the most probable classes by their probabilities, and first whether these are too low."""
        order = np.argsort(-row, kind="stable")[: max(1, top)]
        unsure = ["unsure:"] if self.unsure(row) else []
        return "  ".join([*unsure, *(f"{self.classes[place]} {row[place]:.1%}" for place in order)])


@dataclass(frozen=True)
class Answer:
    """What the model says of one picture: the most probable class, its probability, and those of all classes.

    ``unsure`` is whether that probability is too low for the answer to be relied on, see ``Facts``.
    """

    label: str
    probability: float
    unsure: bool
    probabilities: dict[str, float]


class Model:
    """A finished model, ready to run.

    Attributes:
        facts: what is known about it.
    """

    def __init__(self, folder: Path) -> None:
        """Load it.

        Raises:
            UserError: the folder holds no finished model.
        """
        try:
            self.facts = Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(
                f"expected a finished model ({FACTS}, {NETWORK}) in {folder}, found no {FACTS}; run 'dvc repro', or "
                "name another model with --model"
            ) from None
        except (ValueError, TypeError) as error:
            raise UserError(f"{folder / FACTS}: expected the facts of a model, found: {error}; restore it") from None
        try:
            self._network = OpenVino(folder / NETWORK, self.facts.precision)
        except UserError:  # this processor has no bfloat16; float32 is slower, and more exact
            self._network = OpenVino(folder / NETWORK, "float32")

    def probabilities(self, squares: Iterable[NDArray[np.uint8]], count: int) -> Floats:
        """Run the network: ``count`` pictures (size × size × 3, as ``images.square`` makes them) → images × classes."""
        logits = np.empty((count, len(self.facts.classes)), np.float32)
        self._network.run(squares, [logits])
        return softmax(logits, self.facts.temperature)

    def square(self, picture: Any) -> NDArray[np.uint8]:
        """Bring a picture to the network's size.

        Args:
            picture: a path; a file's bytes, or these in base64; or RGB pixels (height × width × 3, 0–255), as an array
                or nested lists.

        Raises:
            Unusable: it is none of these.
        """
        size, fit = self.facts.input_size, self.facts.fit
        if isinstance(picture, str):
            try:
                picture = base64.b64decode(picture, validate=True)
            except (binascii.Error, ValueError):
                raise Unusable("not base64: expected the bytes of an image file in base64") from None
        if isinstance(picture, bytes | bytearray | memoryview):
            picture = io.BytesIO(picture)
        if isinstance(picture, Path | io.BytesIO):
            return images.square(images.decode(picture, MAX_PIXELS, at_least=2 * size), size, fit)
        return images.square(Image.fromarray(_pixels(picture)), size, fit)

    def answer(self, pictures: Sequence[Any]) -> list[Answer]:
        """Say what is on pictures of any size, see ``square``.

        Raises:
            Unusable: one of them is no picture; which one, and why.
        """

        def prepared(numbered: tuple[int, Any]) -> NDArray[np.uint8]:
            try:
                return self.square(numbered[1])
            except Unusable as error:
                raise Unusable(f"image {numbered[0]}: {error}") from None

        squares = list(parallel.ahead(prepared, list(enumerate(pictures))))
        return [self._answer(row) for row in self.probabilities(squares, len(squares))]

    def _answer(self, row: Floats) -> Answer:
        best = int(row.argmax())
        by_class = {name: float(value) for name, value in zip(self.facts.classes, row, strict=True)}
        return Answer(self.facts.classes[best], float(row[best]), self.facts.unsure(row), by_class)


def write(folder: Path, network: Path, facts: Facts, card: str, head: Sequence[tuple[Floats, Floats]] = ()) -> None:
    """Write a finished model.

    Args:
        folder: to be made.
        network: the IR of the classifier, or of a backbone; its .bin lies beside it.
        facts: what must be known beside it.
        card: the model card (Markdown).
        head: the kernel and bias of each Dense layer that a backbone still lacks, as ``heads.Head`` has them.
    """
    folder.mkdir()
    if head:
        with_head(network, head, folder / NETWORK)
    else:
        shutil.copyfile(network, folder / NETWORK)
        shutil.copyfile(network.with_suffix(".bin"), (folder / NETWORK).with_suffix(".bin"))
    for name, text in ((FACTS, json.dumps(asdict(facts), indent=2, ensure_ascii=False) + "\n"), (CARD, card)):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def with_head(network: Path, layers: Sequence[tuple[Floats, Floats]], out: Path) -> None:
    """Put Dense layers on the first output of a network, without Keras: IR → IR.

    Args:
        network: the IR of a backbone: image → bottleneck features, and perhaps more.
        layers: kernel and bias of each; ReLU stands between them, the last one gives the logits.
        out: the .xml file to write; a .bin appears beside it.
    """
    import openvino
    from openvino import opset13 as ops

    backbone = openvino.Core().read_model(network)
    x = backbone.get_results()[0].input_value(0)
    made = []
    for number, (kernel, bias) in enumerate(layers):
        if number:
            made.append(ops.relu(x))
            x = made[-1].output(0)
        weights, shift = ops.constant(kernel), ops.constant(bias[np.newaxis])
        product = ops.matmul(x, weights, False, False)
        made += [weights, product, shift, ops.add(product, shift)]
        x = made[-1].output(0)
    result = ops.result(x)
    # Names count what the process has built before: without them, the same model is the same file.
    for number, operation in enumerate([*made, result]):
        operation.set_friendly_name(f"head_{number}")
    model = openvino.Model([result], backbone.get_parameters(), "network")
    openvino.save_model(model, out, compress_to_fp16=False)


def _pixels(values: Any) -> NDArray[np.uint8]:
    try:
        array = np.asarray(values)
    except ValueError:
        raise Unusable("expected RGB pixels as height × width × 3, found rows of unequal length") from None
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise Unusable(f"expected RGB pixels as height × width × 3, found the shape {array.shape}")
    if array.size > 3 * MAX_PIXELS:
        raise Unusable(f"too large: at most {MAX_PIXELS / 1e6:g} megapixels are allowed")
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all() or array.min() < 0 or array.max() > 255:
        raise Unusable("expected numbers from 0 to 255")
    if array.dtype.kind == "f" and array.max() <= 1 and array.max() > 0 and (array % 1).any():
        raise Unusable("expected pixels from 0 to 255, found shares between 0 and 1; multiply them by 255")
    return np.ascontiguousarray(array.round().astype(np.uint8))
