"""Decoding large JPEG photos smaller, in the frequency domain: what it saves, and what it does to pixels and features.

python -m benchmarks.decoding IMAGES COUNT
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from thaw.config.composing import compose
from thaw.data import images
from thaw.networks import engine
from thaw.networks.backbones import FrozenNetwork

ENLARGED = 8  # photos of 320 px as a camera of 5 megapixels takes them


def main() -> None:
    """Be the command line: print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding")
    parser.add_argument("images", type=Path, help="a folder of JPEG files in class folders")
    parser.add_argument("count", type=int, help="how many of them")
    given = parser.parse_args()
    print(json.dumps(measure(given.images, given.count)))


def measure(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Compare decoding at full size, with twice the pixels that are needed (as ``images.load`` does), and with as many.

    Returns:
        For each: milliseconds an image on one core, the mean difference of pixels (of 255) from full size, and the
        lowest cosine between the bottleneck features of a photo and those from full size.
    """
    backbone = compose(["backbone=mobilenet_v2_bundled"], ["backbone"])["backbone"]
    size = backbone.input_size
    runner = engine.start(FrozenNetwork(backbone))
    paths = sorted(folder.glob("*/*.jpg"))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        large = [_enlarge(path, Path(scratch) / f"{n}.jpg") for n, path in enumerate(paths[:: len(paths) // count])]
        for name, at_least in (("full size", None), ("twice", 2 * size), ("once", size)):
            pixels, seconds = [], []
            for path in large:
                start = time.process_time()
                image = images.decode(path, at_least=at_least).resize((size, size), Image.Resampling.BILINEAR)
                seconds.append(time.process_time() - start)
                pixels.append(np.array(image))
            outs = [np.empty((len(pixels), *shape), np.float32) for shape in runner.shapes]
            runner.run(iter(pixels), outs)
            features = outs[0] / np.linalg.norm(outs[0], axis=1, keepdims=True)
            exact = found.setdefault("exact", (np.stack(pixels).astype(int), features))
            found[name] = {
                "milliseconds": 1e3 * statistics.median(seconds),
                "pixels": float(np.abs(np.stack(pixels) - exact[0]).mean()),
                "cosine": float((features * exact[1]).sum(axis=1).min()),
            }
    del found["exact"]
    return found


def _enlarge(path: Path, target: Path) -> Path:
    with Image.open(path) as image:
        larger = image.convert("RGB").resize(
            (image.width * ENLARGED, image.height * ENLARGED), Image.Resampling.LANCZOS
        )
    larger.save(target, quality=90)
    return target


if __name__ == "__main__":
    main()
