"""Does the audit find what was planted: wrong labels, copies, and a class that its size gives away?

    python -m benchmarks.planted DATA [--seeds 0,1,2] [OVERRIDE ...]
    python -m benchmarks.planted flowers/ backbone=mobilenet_v2 backbone.weights=mobilenet_v2.weights.h5

For each seed a copy of the data gets 20 labels that are wrong; 20 copies of pictures, saved anew, resized, cropped,
mirrored or recoloured; and a class whose pictures are all made smaller. The pipeline's own stages run, and the audit.
What it finds beyond that was in the data before: it is listed for a person to judge. Prints a table (Markdown) for
docs/evidence.md.
"""

import argparse
import contextlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.accuracy import numbers, run
from stages import extract_features, prepare
from thaw.artifacts import Paths, cache, fingerprint, read_json
from thaw.audit import findings
from thaw.config.composing import compose
from thaw.data import images, manifest

FLIPS, COPIES, FIRST = 20, 20, 60
CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved anew": lambda picture: picture,
    "resized": lambda picture: picture.resize((round(0.6 * picture.width), round(0.6 * picture.height))),
    "cropped": lambda picture: picture.crop(
        (picture.width // 10, picture.height // 20, picture.width * 9 // 10, picture.height * 17 // 20)
    ),
    "mirrored": ImageOps.mirror,
    "recoloured": lambda picture: ImageEnhance.Color(ImageEnhance.Brightness(picture).enhance(1.25)).enhance(0.5),
}


@dataclass(frozen=True)
class Planted:
    """What was planted: paths with wrong labels, pairs of paths that are copies, and the class that is smaller."""

    flips: set[str]
    copies: set[tuple[str, str]]
    marked: str


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planted", description="Is it found?")
    parser.add_argument("data", type=Path, help="a folder of images, one folder for each class")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", help="of the configuration, in Hydra's syntax")
    given = parser.parse_intermixed_args()
    print(f"| seed | wrong labels among the first {FIRST} | copies found | other pairs | a class marked by its size |")
    print("|---|---|---|---|---|")
    others: list[str] = []
    for seed in given.seeds:
        row, rest = measure(given.data.absolute(), cache() / "benchmarks" / "planted", given.overrides, seed)
        print(f"| {seed} | {' | '.join(row)} |", flush=True)
        others += rest
    print("\nOther pairs, to be looked at:")
    print("\n".join(sorted(set(others))))


def measure(data: Path, folder: Path, overrides: list[str], seed: int) -> tuple[list[str], list[str]]:
    """Plant, run the stages, and compare: the cells of a row, and the pairs that were in the data before."""
    copy = folder / "data" / fingerprint(str(data), seed)
    planted = plant(data, copy, seed)
    config = compose(["dataset=folder", "augment=none", *overrides, f"seed={seed}"])
    paths = Paths(copy, folder / "work" / fingerprint(str(data), *overrides, seed))
    with contextlib.redirect_stdout(io.StringIO()):
        run(paths, config, prepare, extract_features)
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    found = findings.audit(copy, records, classes, paths.features, [], seed, ())
    labels = [one.path for one in found.suspects if one.kind == "label"][:FIRST]
    links = {(one.path, one.value) for one in found.links}
    cue = next((cue for cue in found.figures["cues"] if cue["feature"] == "image size"), None)
    said = f"{cue['label']}: size alone is right for {cue['right']:.0%}" if cue else "not said"
    cells = [
        f"{sum(path in planted.flips for path in labels)} of {len(planted.flips)}",
        f"{len(links & planted.copies)} of {len(planted.copies)}",
        str(len(links - planted.copies)),
        f"{said} ({planted.marked} it was)",
    ]
    # A copy of a copy that was there before is no other pair.
    planted_paths = {path for pair in planted.copies for path in pair}
    return cells, [" ".join(pair) for pair in links - planted.copies if not planted_paths & {*pair}]


def plant(data: Path, copy: Path, seed: int) -> Planted:
    """Write the changed copy of the data; what is not changed is a link."""
    random = np.random.default_rng(seed)
    files = sorted(file for file in data.rglob("*") if file.suffix.lower() in images.SUFFIXES)
    classes = sorted({file.parent.name for file in files})
    marked = str(random.choice(classes))
    order = random.permutation(len(files))
    flipped, copied = {*order[:FLIPS].tolist()}, order[FLIPS : FLIPS + COPIES].tolist()
    planted, places = Planted(set(), set(), marked), list[str]()
    for number, file in enumerate(files):
        label = file.parent.name
        if number in flipped:
            label = str(random.choice([name for name in classes if name != label]))
        place = copy / label / f"{number:05d}_{file.name}"
        places.append(place.relative_to(copy).as_posix())
        if number in flipped:
            planted.flips.add(places[-1])
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if label == marked:
            picture = Image.open(file).convert("RGB")
            picture.thumbnail((max(picture.size) * 3 // 4, max(picture.size) * 3 // 4))
            picture.save(place, "JPEG", quality=90)
        else:
            os.link(file, place)
    for turn, number in enumerate(copied):
        kind = list(CHANGES)[turn % len(CHANGES)]
        place = copy / places[number].replace("/", f"/{kind.replace(' ', '_')}_")
        CHANGES[kind](Image.open(files[number]).convert("RGB")).save(place, "JPEG", quality=60)
        first, second = sorted((places[number], place.relative_to(copy).as_posix()))
        planted.copies.add((first, second))
    return planted


if __name__ == "__main__":
    main()
