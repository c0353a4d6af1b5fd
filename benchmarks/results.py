"""What fine-tuning adds, policy by policy: data sets × backbones × seeds; writes docs/results.md.

The pipeline's own stages run, for each seed on another split. Of larger sets a part is taken, see ``IMAGES``. Figures
lie in .cache/benchmarks/results/, one file for each fine-tuning, so that what was stopped goes on where it was.

    python -m benchmarks.results --weights FOLDER [--seeds 0,1,2] [--hours 6] NAME=FOLDER ...

WEIGHTS holds MobileNetV2 1.0 and MobileNet 0.75, as .h5 files that the backbones here name. The digits, with the
bundled backbone, are always among the data.
"""

import argparse
import contextlib
import hashlib
import io
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import numbers
from thaw.artifacts import PROJECT, Paths, cache, fingerprint, read_json, write_json, write_text
from thaw.config.composing import compose
from thaw.data import images, manifest
from thaw.learning import examples, predictions

PAGE = PROJECT / "docs" / "results.md"
IMAGES = 2400  # of a data set, at most: some 1,500 to train on
BACKBONES = {
    "MobileNetV2 1.0": ["backbone=mobilenet_v2", "mobilenet_v2_1.0_224_no_top_bnfolded.weights.h5"],
    "MobileNet 0.75": [
        "backbone=mobilenet",
        "backbone.alpha=0.75",
        "keras_home/models/mobilenet_7_5_224_tf_no_top.h5",
    ],
}
BUNDLED = "MobileNetV2 0.35, bundled"
HEAD = "head only"
SLOWEST = "all layers"
POLICIES: dict[str, list[str]] = {
    "auto": ["finetune=auto"],
    "auto, quick": ["finetune=auto", "finetune.effort=quick"],
    "last 3 blocks": ["finetune=last_3_blocks"],
    "last 6 blocks": ["finetune=last_6_blocks"],
    "last 20 layers": ["finetune=last_20"],
    SLOWEST: ["finetune=last_20", "~finetune.unfreeze.layers", "+finetune.unfreeze.all=true"],
}
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's, two-sided, by number of seeds
Figures = dict[str, Any]


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description="What fine-tuning adds.")
    parser.add_argument("data", nargs="+", metavar="NAME=FOLDER", help="folders of images, one for each class")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--hours", type=float, default=6, help="begin nothing more after so long (6)")
    parser.add_argument("--one", nargs=4, metavar=("DATA", "BACKBONE", "POLICY", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    data = {name: Path(folder).absolute() for name, _, folder in (one.partition("=") for one in given.data)}
    folder = cache() / "benchmarks" / "results"
    if given.one:
        name, backbone, policy, seed = given.one
        measure(folder, name, data.get(name), backbone, given.weights.absolute(), policy, int(seed))
        return
    pairs = [("digits", BUNDLED), *((name, backbone) for backbone in BACKBONES for name in data)]
    began = time.monotonic()
    wanted = [(policy, seed, *pair) for seed in given.seeds for pair in pairs for policy in POLICIES]
    for policy, seed, name, backbone in sorted(wanted, key=lambda one: one[0] == SLOWEST):
        if time.monotonic() - began > 3600 * given.hours:
            print("the time is up; the same command goes on from here")
            return
        print(f"{policy}: {name}, {backbone}, seed {seed} …", flush=True)
        # A process each: Keras' memory grows from one training to the next.
        one = ["--one", name, backbone, policy, str(seed)]
        subprocess.run([sys.executable, "-m", "benchmarks.results", *sys.argv[1:], *one], check=True)
        write_text(PAGE, render(collect(folder), given.seeds))
    print(f"written to {PAGE.relative_to(PROJECT)}")


def measure(folder: Path, name: str, data: Path | None, backbone: str, weights: Path, policy: str, seed: int) -> None:
    """Run the pipeline up to the head, unless that has been done, and a policy from there; leave a file of figures."""
    from stages import extract_features, finetune, prepare, train_head

    choices = ["dataset=digits", "backbone=mobilenet_v2_bundled"]
    if data:
        *network, file = BACKBONES[backbone]
        choices = ["dataset=folder", *network, f"backbone.weights={weights / file}", "backbone.input_size=160"]
    shared = [*choices, "train_head=lbfgs", "augment=none", f"seed={seed}"]
    config = compose([*shared, *POLICIES[policy]])
    del config["evaluate"]  # decides nothing here
    out = folder / f"{fingerprint(name, backbone, policy, *config.values())}.json"
    if out.exists():
        return
    paths = Paths(
        part(data, folder / "data" / name) if data else PROJECT / "data", folder / "work" / fingerprint(*shared, name)
    )
    sections = {one: config[one] for one in ("backbone", "augment")}
    with contextlib.redirect_stdout(io.StringIO()):
        if not (paths.root / "seconds.json").exists():
            prepare.run(paths, config["dataset"], seed)
            extract_features.run(paths, **sections, seed=seed)
            start = time.perf_counter()
            train_head.run(paths, config["train_head"], seed)
            write_json(paths.root / "seconds.json", {"head": time.perf_counter() - start})
        start = time.perf_counter()
        finetune.run(paths, **sections, finetune=config["finetune"], seed=seed)
    found: Figures = {"data": name, "backbone": backbone, "policy": policy, "seed": seed}
    found["head"] = {"seconds": read_json(paths.root / "seconds.json")["head"], **accuracies(paths, "train_head")}
    found["tuned"] = {"seconds": time.perf_counter() - start, **accuracies(paths, "finetune")}
    write_json(out, found)
    print(f"  {found['head']} → {found['tuned']}", flush=True)


def part(data: Path, copy: Path) -> Path:
    """A folder with at most ``IMAGES`` of the images of another, chosen by their names alone: the same every time."""
    files = [file for file in sorted(data.rglob("*")) if file.suffix.lower() in images.SUFFIXES]
    if len(files) <= IMAGES:
        return data
    if not copy.exists():
        chosen = sorted(files, key=lambda file: hashlib.sha256(file.relative_to(data).as_posix().encode()).hexdigest())
        unfinished = copy.with_name(f"{copy.name}.unfinished")
        for file in chosen[:IMAGES]:
            place = unfinished / file.relative_to(data)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            os.link(file, place)
        unfinished.rename(copy)
    return copy


def accuracies(paths: Paths, stage: str) -> Figures:
    """The accuracy of a stage's predictions on the validation and on the test images."""
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    predicted = predictions.read(paths.predictions(stage))
    labels = {record.path: label for record, label in zip(records, examples.labels(records, classes), strict=True)}
    right = predicted.probabilities.argmax(axis=1) == np.array([labels[path] for path in predicted.paths])
    splits = np.array(predicted.splits)
    return {split: float(right[splits == split].mean()) for split in ("val", "test")}


def collect(folder: Path) -> list[Figures]:
    """All figures that there are."""
    return [read_json(file) for file in sorted(folder.glob("*.json"))]


def render(found: list[Figures], seeds: list[int]) -> str:
    """Lay out the page (Markdown)."""
    lines = [
        "# Results",
        "",
        "What fine-tuning adds to a head on a frozen backbone. `python -m benchmarks.results` runs the pipeline's own",
        f"stages for seeds {', '.join(map(str, seeds))} (each is another split) and writes this page: mean accuracy, "
        "with a 95% interval of the",
        "mean (Student's t over seeds), and median seconds of the stage on the machine at hand. Photos are of 160 px;",
        f"of sets with more than {IMAGES:,} images, that many are taken, some 1,500 to train on.",
    ]
    for name in sorted({one["data"] for one in found}):
        lines += ["", f"## {name}", "", "| backbone | policy | validation | test | seconds |", "|---|---|---|---|---|"]
        for backbone in sorted({one["backbone"] for one in found if one["data"] == name}):
            here = [one for one in found if (one["data"], one["backbone"]) == (name, backbone)]
            by_seed = {one["seed"]: one["head"] for one in here}
            lines.append(_row(backbone, HEAD, [by_seed[seed] for seed in sorted(by_seed)], len(seeds)))
            for policy in POLICIES:
                if runs := [one["tuned"] for one in here if one["policy"] == policy]:
                    lines.append(_row(backbone, policy, runs, len(seeds)))
    return "\n".join([*lines, *_together(found), ""])


def _together(found: list[Figures]) -> list[str]:
    """The mean of each policy over all that every policy was measured on."""
    measured = [{(one["data"], one["backbone"], one["seed"]) for one in found if one["policy"] == p} for p in POLICIES]
    cells = set.intersection(*(cells for cells in measured if cells)) if any(measured) else set()
    everywhere = [one for one in found if (one["data"], one["backbone"], one["seed"]) in cells]
    if not cells:
        return []
    lines = ["", f"## All {len(cells)} together: data sets, backbones and seeds", ""]
    lines += ["| policy | validation, mean | test, mean | seconds, mean |", "|---|---|---|---|"]
    groups = {HEAD: [one["head"] for one in everywhere if one["policy"] == next(iter(POLICIES))]}
    groups |= {policy: [one["tuned"] for one in everywhere if one["policy"] == policy] for policy in POLICIES}
    for policy, runs in groups.items():
        if runs:
            mean = {key: statistics.mean(one[key] for one in runs) for key in ("val", "test", "seconds")}
            lines.append(f"| {policy} | {mean['val']:.4f} | {mean['test']:.4f} | {mean['seconds']:.0f} |")
    return lines


def _row(backbone: str, policy: str, runs: list[Figures], seeds: int) -> str:
    cells = []
    if len(runs) < seeds:
        policy += f" ({len(runs)} of {seeds} seeds)"
    for split in ("val", "test"):
        values = [one[split] for one in runs]
        text = f"{statistics.mean(values):.3f}"
        if len(values) in T_95:
            text += f" ± {T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values)):.3f}"
        cells.append(text)
    seconds = statistics.median(one["seconds"] for one in runs)
    return f"| {backbone} | {policy} | {cells[0]} | {cells[1]} | {seconds:.0f} |"


if __name__ == "__main__":
    main()
