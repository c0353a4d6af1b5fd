"""Frozen transformers on pixels in memory: thaw's engine beside ``keras.Model.predict`` and PyTorch.

The networks have the published shapes and random weights, so that nothing is downloaded; how fast they are does not
depend on the weights. PyTorch runs those of ``transformers``, in a process of its own (``benchmarks.torch_encoder``)
that computes only when it is its turn.

    python -m benchmarks.encoders NETWORK COUNT [--python PATH]

PATH is a Python that has torch and transformers; without, there is no such figure.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.extraction import in_turn, precisions
from thaw.artifacts import PROJECT
from thaw.config.composing import compose
from thaw.config.schema import Backbone
from thaw.networks import engine
from thaw.networks.backbones import FrozenNetwork

SIZE = 224
IMAGE = (SIZE, SIZE, 3)
BASE = {"num_layers": 12, "hidden_dim": 768, "num_heads": 12}
SMALL = {"num_layers": 12, "hidden_dim": 384, "num_heads": 6}
TEXT = {"num_layers": 1, "hidden_dim": 768, "num_heads": 12, "intermediate_dim": 8}  # does not see


def _dinov2(models: Any, shape: dict[str, int]) -> Any:
    return models.DINOV2Backbone(
        patch_size=14,
        intermediate_dim=4 * shape["hidden_dim"],
        image_shape=IMAGE,
        position_embedding_shape=(518, 518, 3),
        **shape,
    )


def _siglip(models: Any) -> Any:
    from keras_hub.src.models.siglip.siglip_text_encoder import SigLIPTextEncoder
    from keras_hub.src.models.siglip.siglip_vision_encoder import SigLIPVisionEncoder

    text = SigLIPTextEncoder(vocabulary_size=8, embedding_dim=768, max_sequence_length=8, **TEXT)
    return models.SigLIPBackbone(SigLIPVisionEncoder(16, intermediate_dim=3072, image_shape=IMAGE, **BASE), text)


NETWORKS: dict[str, Callable[[Any], Any]] = {  # by option of conf/backbone
    "dinov2_small": lambda models: _dinov2(models, SMALL),
    "dinov2_base": lambda models: _dinov2(models, BASE),
    "vit_base": lambda models: models.ViTBackbone(image_shape=IMAGE, patch_size=16, mlp_dim=3072, **BASE),
    "siglip2_base": _siglip,
}


def main() -> None:
    """Be the command line: print images per second as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoders")
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("count", type=int, help="how many images")
    parser.add_argument("--python", help="a Python that has torch and transformers")
    given = parser.parse_args()
    print(json.dumps(measure(given.network, given.count, given.python)))


def measure(network: str, count: int, python: str | None) -> dict[str, float]:
    """Measure all contestants in turn, several times; return the median images per second of each."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, *IMAGE), np.uint8)
    with tempfile.TemporaryDirectory() as scratch:
        preset = write(network, Path(scratch))
        contestants = ours(network, preset, pixels)
        others = theirs(network, count, python) if python else []
        contestants |= {f"torch {precision}": partial(turn, process) for precision, process in others}
        found = in_turn(contestants, count)
        for _, process in others:
            process.communicate()
    return found


def write(network: str, folder: Path) -> Path:
    """Write a preset, as KerasHub's own presets are, with random weights."""
    import keras_hub

    model = NETWORKS[network](keras_hub.models)
    kinds = [one for one in vars(keras_hub.layers).values() if isinstance(one, type)]
    converter = next(one for one in kinds if getattr(one, "backbone_cls", None) is type(model))
    model.save_to_preset(str(folder))
    converter(image_size=(SIZE, SIZE), scale=1 / 127.5, offset=-1).save_to_preset(str(folder))
    return folder


def ours(network: str, preset: Path, pixels: Any) -> dict[str, Callable[[], Any]]:
    """thaw's engine, and Keras on the very same network."""
    overrides = [f"backbone={network}", f"backbone.weights={preset}", "backbone.keep_blocks=0"]
    backbone: Backbone = compose([*overrides, "backbone.engine=openvino"], ["backbone"])["backbone"]
    contestants: dict[str, Callable[[], Any]] = {}
    for precision in precisions():
        frozen = FrozenNetwork(backbone.model_copy(update={"precision": precision}))
        runner = engine.start(frozen)
        outs = [np.empty((len(pixels), *shape), np.float32) for shape in runner.shapes]
        contestants[f"engine {precision}"] = partial(_run, runner, pixels, outs)
        if precision == "float32":
            contestants["keras"] = partial(frozen.build().predict, pixels, verbose=0)
    return contestants


def _run(runner: Any, pixels: Any, outs: list[Any]) -> None:
    runner.run(iter(pixels), outs)


def theirs(network: str, count: int, python: str) -> list[tuple[str, "subprocess.Popen[str]"]]:
    """Start PyTorch, for each precision, and let it wait."""
    command = [python, "-m", "benchmarks.torch_encoder", network, str(count)]
    return [
        (
            precision,
            subprocess.Popen(
                [*command, precision],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            ),
        )
        for precision in ("float32", "bfloat16")
    ]


def turn(process: "subprocess.Popen[str]") -> None:
    """Let a waiting process see all images once."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    if not process.stdout.readline():
        sys.exit(f"error: PyTorch ended with status {process.wait()}")


if __name__ == "__main__":
    main()
