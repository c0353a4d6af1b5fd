"""The engines: the same numbers as Keras, and an image's output depends on the image alone."""

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openvino import Core, InferRequest

from tests.helpers import families
from tests.helpers.families import FAMILIES, family
from thaw.architectures import HUB
from thaw.artifacts import cache
from thaw.config.schema import Backbone
from thaw.errors import UserError
from thaw.learning import finetuning
from thaw.learning.heads import Head
from thaw.networks import engine
from thaw.networks.backbones import FrozenNetwork, network
from thaw.networks.inference import OpenVino
from thaw.networks.weights import BUNDLED, located

PRECISIONS = ("float32", "bfloat16")

pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture(scope="module")
def pictures() -> Any:
    return np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)


def _outputs(network: FrozenNetwork, images: Any) -> list[Any]:
    runner = engine.start(network)
    outs = [np.full((len(images), *shape), np.nan, np.float32) for shape in runner.shapes]
    runner.run(iter(images), outs)
    return outs


def _run(network: FrozenNetwork, images: Any) -> Any:
    return _outputs(network, images)[0]


@pytest.mark.parametrize("operation", [None, 100], ids=["bottleneck", "inside"])
@pytest.mark.parametrize("name", ["openvino", "tensorflow"])
def test_an_engine_computes_what_keras_computes(toy: Backbone, pictures: Any, name: str, operation: int | None) -> None:
    network = FrozenNetwork(toy.model_copy(update={"engine": name}), operation)
    expected = network.build().predict_on_batch(pictures)
    found = _run(network, pictures)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name", FAMILIES)
def test_openvino_agrees_with_keras_for_every_backbone(toy: Backbone, name: str) -> None:
    """The bottleneck features: in float32 to 1e-4 of the largest, in bfloat16 by the angle between them."""
    own = {} if name.startswith(HUB) else {"input_size": 96}  # most of KerasHub's take one size
    backbone = family(toy, name, keep_blocks=1, **own)
    exact, rough = (
        FrozenNetwork(backbone.model_copy(update={"precision": p, "engine": "openvino"})) for p in PRECISIONS
    )
    times = backbone.input_size // 4
    smooth = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8).repeat(times, 1).repeat(times, 2)
    expected = exact.build().predict_on_batch(smooth)
    for found, reference in zip(_outputs(exact, smooth), expected, strict=True):
        assert found.shape == reference.shape
        assert np.abs(found - reference).max() < 1e-4 * np.abs(reference).max()
    if "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        found = _run(rough, smooth)
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected[0], axis=1)
        assert ((found * expected[0]).sum(axis=1) / norms > 0.999).all()


@pytest.mark.parametrize("name", ["hub dinov2", pytest.param("hub swin", marks=pytest.mark.slow)])
def test_what_has_learnt_in_bfloat16_can_be_converted(toy: Backbone, tmp_path: Path, name: str) -> None:
    """Its graph has constants in bfloat16, which OpenVINO does not read."""
    backbone = family(toy, name)
    images, kernel = families.pictures(backbone, 2), np.eye(network(backbone).output_shape[-1], 3, dtype=np.float32)
    head = Head([(kernel, np.zeros(3, np.float32))])
    model = finetuning.classifier(backbone, head, 0.0, 0, precision="bfloat16")
    engine.save_ir(model, 1, tmp_path / "model.xml")
    found, expected = np.empty((2, 3), np.float32), model.predict_on_batch(images)
    OpenVino(tmp_path / "model.xml", "float32").run(images, [found])
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_an_image_s_output_does_not_depend_on_its_neighbours(toy: Backbone, pictures: Any) -> None:
    whole = _run(FrozenNetwork(toy), pictures)
    np.testing.assert_array_equal(_run(FrozenNetwork(toy), pictures[3:6]), whole[3:6])
    np.testing.assert_array_equal(_run(FrozenNetwork(toy), pictures[::-1]), whole[::-1])


def test_an_engine_can_be_thrown_away_at_once(toy: Backbone, pictures: Any) -> None:
    """OpenVINO's own queue hung here: the model's end waited for a thread that waited for the GIL."""
    for _ in range(20):
        _run(FrozenNetwork(toy), pictures[:2])


def test_the_first_inference_is_made_before_there_are_threads(
    toy: Backbone, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads that both made a process's first one hung now and then (3 processes of 40 with eager switching)."""
    threads = []
    infer = InferRequest.infer

    def recorded(self: InferRequest, *arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return infer(self, *arguments)

    monkeypatch.setattr(InferRequest, "infer", recorded)
    _run(FrozenNetwork(toy), pictures[:4])
    assert threads[0] is threading.main_thread()
    assert threading.main_thread() not in threads[1:]
    assert len(threads) == 1 + 4


def test_batches_that_run_at_once_come_back_in_their_order(
    toy: Backbone, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BATCH", 16)
    network = FrozenNetwork(toy.model_copy(update={"engine": "tensorflow"}))
    runner, expected = engine.start(network), network.build().predict_on_batch(pictures)
    for count in (1, 15, 16, 32, 40):
        found = np.full((count, 1280), np.nan, np.float32)
        runner.run(iter(pictures[:count]), [found])
        np.testing.assert_allclose(found, expected[:count], atol=1e-4 * np.abs(expected).max())


def test_a_gpu_is_given_as_many_images_as_it_has_room_for(
    toy: Backbone, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that gives up above ``room`` images stands in for a GPU, which no test has."""
    import tensorflow as tf

    room, tried, function = 10, [], tf.function

    def limited(*compute: Any, **options: Any) -> Any:
        ready = function(*compute, **options)
        if options:  # Keras' own
            return ready

        def call(images: Any) -> Any:
            tried.append(len(images))
            if len(images) > room:
                raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
            return ready(images)

        return call

    monkeypatch.setattr(tf, "function", limited)
    monkeypatch.setattr(engine, "has_gpu", lambda: True)
    monkeypatch.setattr(engine, "GPU_BATCH", 32)
    network = FrozenNetwork(toy.model_copy(update={"engine": "tensorflow"}))
    found = _run(network, pictures)
    assert tried == [32, 16, 8, *[8] * 5]
    expected = network.build().predict_on_batch(pictures)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    room = 0
    with pytest.raises(tf.errors.ResourceExhaustedError):
        engine.start(network)


def test_an_image_that_cannot_be_read_ends_the_run(toy: Backbone, pictures: Any) -> None:
    def images() -> Any:
        yield pictures[0]
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        engine.start(FrozenNetwork(toy)).run(images(), [np.empty((2, 1280), np.float32)])


def test_a_converted_network_is_kept(toy: Backbone, pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _run(FrozenNetwork(toy), pictures[:2])
    assert sorted(path.suffix for path in (cache() / "engine").iterdir()) == [".bin", ".xml"]
    monkeypatch.setattr(FrozenNetwork, "build", None)  # Keras would be needed to convert it again
    np.testing.assert_array_equal(_run(FrozenNetwork(toy), pictures[:2]), first)


@pytest.mark.parametrize("name", ["openvino", "tensorflow"])
def test_a_parcel_is_the_network_without_what_it_was_made_from(
    toy: Backbone, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    network = FrozenNetwork(toy.model_copy(update={"engine": name}))
    expected = _run(network, pictures)
    parcel = pickle.dumps(engine.parcel(network))
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "elsewhere"))
    runner = pickle.loads(parcel)()
    found = np.empty_like(expected)
    runner.run(iter(pictures), [found])
    np.testing.assert_array_equal(found, expected)
    assert not (tmp_path / "elsewhere").exists()


def test_weights_in_a_file_are_named_by_their_whole_path(toy: Backbone) -> None:
    assert located(toy.model_copy(update={"weights": "bundled"})).weights == str(BUNDLED)
    assert located(toy).weights == "random"


def test_bfloat16_is_refused_where_the_processor_lacks_it(toy: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(UserError, match="expected a processor with bfloat16 .* set it to float32"):
        engine.start(FrozenNetwork(toy.model_copy(update={"precision": "bfloat16"})))


def test_tensorflow_in_bfloat16_is_close_to_float32(toy: Backbone, pictures: Any) -> None:
    network = toy.model_copy(update={"engine": "tensorflow"})
    exact = _run(FrozenNetwork(network), pictures)
    rough = _run(FrozenNetwork(network.model_copy(update={"precision": "bfloat16"})), pictures)
    assert 0 < np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()
