"""Feature extraction from JPEG files: thaw against ``keras.Model.predict``, and against its own parts.

python -m benchmarks.extraction NETWORK IMAGES COUNT
"""

import argparse
import importlib
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from thaw import parallel
from thaw.architectures import ARCHITECTURES
from thaw.artifacts import cache
from thaw.config.composing import compose
from thaw.config.schema import Augment, Backbone
from thaw.data.manifest import Record
from thaw.learning import policy
from thaw.networks import engine, features, views
from thaw.networks.backbones import FrozenNetwork

ROUNDS = 3
NO_AUGMENTATION: Augment = compose(["augment=none"], ["augment"])["augment"]


def main() -> None:
    """Be the command line: print images per second as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction")
    parser.add_argument("network", help="a backbone of conf/")
    parser.add_argument("images", type=Path, help="a folder of JPEG files in class folders")
    parser.add_argument("count", type=int, help="how many of them")
    given = parser.parse_args()
    print(json.dumps(measure(given.network, given.images, given.count)))


def measure(network: str, folder: Path, count: int) -> dict[str, float]:
    """Measure all contestants in turn, several times; return the median images per second of each.

    And how many ``multiplications`` an image needs.
    """
    # Keras computes nothing but the features either, hence keep_blocks=0.
    overrides = [f"backbone={network}", "backbone.weights=random", "backbone.engine=openvino", "backbone.keep_blocks=0"]
    backbone: Backbone = compose(overrides, ["backbone"])["backbone"]
    paths = sorted(folder.glob("*/*.jpg"))
    chosen = paths[:: max(1, len(paths) // count)][:count]
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        (data / "all").mkdir(parents=True)
        for path in chosen:
            (data / "all" / path.name).symlink_to(path.absolute())
        contestants = {"keras": keras_predict(backbone, data)} | ours(backbone, data, Path(scratch))
        needed = policy.multiplications(FrozenNetwork(backbone).build(), 0)
        return {"multiplications": needed} | in_turn(contestants, len(chosen))


def in_turn(contestants: dict[str, Callable[[], Any]], count: int) -> dict[str, float]:
    """Let each see ``count`` images, several times, in turn; return the median images per second of each."""
    for contestant in contestants.values():
        contestant()  # compiles, converts and warms up
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            seconds[name].append(time.perf_counter() - start)
    return {name: count / statistics.median(found) for name, found in seconds.items()}


def precisions() -> list[str]:
    """Those in which this processor computes."""
    from openvino import Core

    fast = "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["float32", "bfloat16"] if fast else ["float32"]


def keras_predict(backbone: Backbone, data: Path) -> Callable[[], Any]:
    """The usual way: the headless model with its preprocessing on ``image_dataset_from_directory``."""
    import keras

    facts = ARCHITECTURES[backbone.network]
    size = backbone.input_size
    builder = getattr(keras.applications, facts.builder)
    package: Any = importlib.import_module(builder.__module__)  # which is where its preprocess_input is
    image = keras.Input((size, size, 3))
    base = builder(include_top=False, weights=None, pooling="avg", input_tensor=package.preprocess_input(image))
    model = keras.Model(image, base.output)
    found = keras.utils.image_dataset_from_directory(
        data, labels=None, image_size=(size, size), batch_size=32, shuffle=False
    )
    return lambda: model.predict(found.prefetch(-1), verbose=0)


def ours(backbone: Backbone, data: Path, scratch: Path) -> dict[str, Callable[[], Any]]:
    """thaw from the files, the engine alone on pixels in memory, and decoding alone."""
    paths = sorted((data / "all").iterdir())
    records = [Record(f"all/{path.name}", "all", "train", path.name, 0, 0, "") for path in paths]
    wanted = views.of(records, NO_AUGMENTATION, 0)
    pixels = [image[0].load(data, backbone.input_size, backbone.fit) for image in wanted]

    def decode() -> None:
        for _ in parallel.ahead(lambda image: image[0].load(data, backbone.input_size, backbone.fit), wanted):
            pass

    def extract(chosen: Backbone) -> None:
        shutil.rmtree(cache() / "features", ignore_errors=True)
        features.extract(chosen, wanted, data, scratch / "features.npy")

    contestants: dict[str, Callable[[], Any]] = {"decode": decode}
    for precision in precisions():
        chosen = backbone.model_copy(update={"precision": precision})
        runner = engine.start(FrozenNetwork(chosen))
        outs = [np.empty((len(pixels), *shape), np.float32) for shape in runner.shapes]
        contestants[f"thaw {precision}"] = lambda chosen=chosen: extract(chosen)  # type: ignore[misc]
        contestants[f"engine {precision}"] = lambda runner=runner, outs=outs: runner.run(iter(pixels), outs)  # type: ignore[misc]
    return contestants


if __name__ == "__main__":
    main()
