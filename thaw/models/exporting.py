"""The finished model in other formats, each read again by its own runtime.

Every format takes images (batch × size × size × 3, uint8 RGB, made square as ``fit`` says in model.json) and gives
calibrated probabilities (batch × classes): preprocessing and temperature are inside.
"""

import importlib
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.architectures import HUB
from thaw.artifacts import Paths, read_json
from thaw.chatter import without_information
from thaw.config.schema import SECTIONS, HeadOnly
from thaw.errors import UserError
from thaw.learning import finetuning
from thaw.learning.heads import Head
from thaw.networks import engine
from thaw.networks.inference import OpenVino

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]
Runner = Callable[[Images], Floats]

TOLERANCE = 1e-4  # of a probability
REPEATS = 30  # of one image, for the latency


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: of the file or folder.
        write: writes a Keras model there.
        load: reads it with its own runtime: images → probabilities.
        packages: what must be installed, as Python imports it, and its name on the package index.
    """

    name: str
    write: Callable[[Any, Path], None]
    load: Callable[[Path], Runner]
    packages: Mapping[str, str]


def classifier(paths: Paths) -> Any:
    """Build the model that ``evaluate`` kept in Keras: images → calibrated probabilities.

    Raises:
        UserError: the backbone's weights cannot be had.
    """
    import keras

    config = read_json(paths.config("finetune"))
    backbone, finetune = (SECTIONS[name].validate_python(config[name]) for name in ("backbone", "finetune"))
    metrics = read_json(paths.figures)
    dropout = 0.0 if isinstance(finetune, HeadOnly) else finetune.dropout
    model = finetuning.classifier(backbone, Head.load(paths.head), dropout, 0)
    if metrics["kept"] == "finetuned":
        model.load_weights(paths.model)
    scaled = keras.layers.Rescaling(1 / metrics["temperature"], name="calibration")(model.output)
    return keras.Model(model.input, keras.layers.Softmax(name="probabilities")(scaled), name="classifier")


def of_keras_hub(paths: Paths) -> bool:
    """Whether the network's layers are KerasHub's, which Keras does not know by itself."""
    return bool(read_json(paths.config("finetune"))["backbone"]["network"] == HUB)


def require(wanted: Format) -> None:
    """Make sure that what a format needs is installed.

    Raises:
        UserError: a package is missing.
    """
    for module, package in wanted.packages.items():
        try:
            importlib.import_module(module)
        except ImportError:
            raise UserError(
                f"expected the package {package} for {wanted.name}, found none; 'pip install {package}'"
            ) from None


def _write_savedmodel(model: Any, path: Path) -> None:
    model.export(path, verbose=False)


def _write_tflite(model: Any, path: Path) -> None:
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as scratch:  # straight from Keras it prints pages
        _write_savedmodel(model, Path(scratch))
        path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(scratch).convert())


def _write_onnx(model: Any, path: Path) -> None:
    from tf2onnx import convert
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        """What tf2onnx does not know of exact GELU: 1 - erf(x)."""

        @classmethod
        def version_9(cls, context: Any, node: Any, **_: Any) -> None:
            erf = context.insert_new_node_on_input(node, "Erf", node.input[0])
            one = context.make_const(f"{node.name}_one", np.array(1, np.float32))
            node.type = "Sub"
            context.replace_inputs(node, [one.output[0], erf.output[0]])

    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that what is called here is deprecated it says, page after page
    try:
        frozen = _frozen(model)
        (probabilities,) = frozen.outputs
        with without_information():
            convert.from_graph_def(
                frozen.graph.as_graph_def(),
                input_names=["image:0"],
                output_names=[probabilities.name],
                tensors_to_rename={"image:0": "image", probabilities.name: "probabilities"},
                output_path=str(path),
            )
    finally:
        logger.setLevel(level)


def _frozen(model: Any) -> Any:
    """A model as a graph that holds its weights and constants, and calls nothing.

    Keras' own export to ONNX makes inputs of constants that a layer has kept, as ViT's does, and leaves a call for a
    grouped convolution, which is a function of Keras' own.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    image = tf.TensorSpec((None, *model.input.shape[1:]), tf.uint8, name="image")
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # those inside: they become part of the graph
    try:
        called = tf.function(lambda image: model(image, training=False)).get_concrete_function(image)
    finally:
        tf.config.run_functions_eagerly(before)
    return convert_variables_to_constants_v2(called)


def _write_openvino(model: Any, path: Path) -> None:
    path.mkdir()
    engine.save_ir(model, 1, path / "model.xml")


def _load_keras(path: Path) -> Runner:
    import keras

    model = keras.models.load_model(path, safe_mode=True)
    return lambda images: np.asarray(model.predict_on_batch(images))


def _load_savedmodel(path: Path) -> Runner:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return lambda images: np.asarray(loaded.serve(images))


def _load_tflite(path: Path) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    with without_information():
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
    image, probabilities = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def one(picture: Images) -> Floats:
        interpreter.set_tensor(image, picture[np.newaxis])
        interpreter.invoke()
        found: Floats = interpreter.get_tensor(probabilities)[0]
        return found

    return lambda images: np.stack([one(picture) for picture in images])


def _load_onnx(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def _load_openvino(path: Path) -> Runner:
    network = OpenVino(path / "model.xml", "float32")

    def run(images: Images) -> Floats:
        out = np.empty((len(images), *network.shapes[0]), np.float32)
        network.run(images, [out])
        return out

    return run


FORMATS: Mapping[str, Format] = {
    "keras": Format("model.keras", lambda model, path: model.save(path), _load_keras, {}),
    "savedmodel": Format("savedmodel", _write_savedmodel, _load_savedmodel, {}),
    "tflite": Format("model.tflite", _write_tflite, _load_tflite, {"ai_edge_litert": "ai-edge-litert"}),
    "onnx": Format("model.onnx", _write_onnx, _load_onnx, {"tf2onnx": "tf2onnx", "onnxruntime": "onnxruntime"}),
    "openvino": Format("openvino", _write_openvino, _load_openvino, {}),
}


def written(name: str, model: Any, path: Path) -> Runner:
    """Write a format, read it again, and let it see an image.

    Raises:
        UserError: it does not know something that the network does.
    """
    wanted = FORMATS[name]
    try:
        wanted.write(model, path)
        runner = wanted.load(path)
        runner(np.zeros((1, *model.input.shape[1:]), np.uint8))
    except Exception as error:  # of MLIR, of ONNX Runtime, of a layer's own code
        raise UserError(
            f"{name}: expected to write the finished model, found that this format or its network does not allow it: "
            f"{' '.join(str(error).split())[:200]}; take another format"
        ) from error
    return runner


def compare(name: str, found: Floats, expected: Floats) -> float:
    """Return the largest difference of a probability.

    Raises:
        UserError: it is too large, or another class is the most probable.
    """
    other = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    worst = float(np.abs(found - expected).max())
    if other or worst > TOLERANCE:
        raise UserError(
            f"{name}: expected the finished model's answers for {len(expected)} test images, found {other} other "
            f"classes and probabilities that differ by up to {worst:.1e}; it is not written"
        )
    return worst


def latency(runner: Runner, pictures: Images) -> float:
    """The median time for one image in milliseconds."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        runner(pictures[:1])
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def megabytes(path: Path) -> float:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6
