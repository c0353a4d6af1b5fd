"""What fine-tuning adds, policy by policy: data sets × backbones × policies × seeds; writes docs/results.md.

The pipeline's own stages run, for each seed on another split. Figures lie in .cache/benchmarks/results/, one file for
each fine-tuning, so that what was stopped goes on where it was.

    python -m benchmarks.results --flowers FOLDER --hymenoptera FOLDER --weights FOLDER [--seeds 0,1,2]

WEIGHTS holds MobileNetV2 1.0, MobileNetV2 0.35 and MobileNet 0.75, as .h5 files that the backbones here name.
"""

import argparse
import contextlib
import io
import math
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
from thaw.data import manifest
from thaw.errors import UserError
from thaw.learning import examples, predictions

PAGE = PROJECT / "docs" / "results.md"
DATA = {"hymenoptera": "dataset=folder", "tf_flowers": "dataset=flowers"}  # the quick one first
BACKBONES = {
    "MobileNetV2 1.0": ("mobilenet_v2", 1.0, "mobilenet_v2_1.0_224_no_top_bnfolded.weights.h5"),
    "MobileNetV2 0.35": (
        "mobilenet_v2",
        0.35,
        "keras_home/models/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5",
    ),
    "MobileNet 0.75": ("mobilenet", 0.75, "keras_home/models/mobilenet_7_5_224_tf_no_top.h5"),
}
HEAD, DEFAULT = "head only", "last 3 blocks + WiSE-FT"
POLICIES: dict[str, list[str]] = {
    "last 20 layers": ["finetune=last_20"],
    "last 2 blocks": ["finetune=last_2_blocks"],
    "last 3 blocks": ["finetune=last_3_blocks", "finetune.mix=[]"],
    "progressive": ["finetune=progressive"],
    "last 3 blocks + standard augmentation": ["finetune=last_3_blocks", "finetune.mix=[]", "augment=standard"],
    DEFAULT: ["finetune=last_3_blocks"],
    "last 3 blocks + adapt": ["finetune=last_3_blocks", "finetune.mix=[]", "finetune.batchnorm=adapt"],
    "last 3 blocks, no warm-up": ["finetune=last_3_blocks", "finetune.mix=[]", "finetune.warmup=0"],
}
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's, two-sided, by number of seeds
Figures = dict[str, Any]


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description="What fine-tuning adds.")
    parser.add_argument("--flowers", type=Path, required=True, help="TensorFlow's flower photos, in class folders")
    parser.add_argument("--hymenoptera", type=Path, required=True, help="ants and bees, with train/ and val/")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--one", nargs=4, metavar=("DATA", "BACKBONE", "SIZE", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    data = {"tf_flowers": given.flowers.absolute(), "hymenoptera": given.hymenoptera.absolute()}
    folder = cache() / "benchmarks" / "results"
    if given.one:
        name, backbone, size, seed = given.one
        measure(folder, name, data[name], backbone, given.weights.absolute(), int(size), int(seed))
        return
    wanted = [(name, backbone, 160, seed) for name in DATA for backbone in BACKBONES for seed in given.seeds]
    wanted = [("tf_flowers", "MobileNetV2 1.0", 224, seed) for seed in given.seeds] + wanted
    for name, backbone, size, seed in wanted:
        print(f"{name}, {backbone} at {size} px, seed {seed} …", flush=True)
        # A process each: Keras' memory grows from one training to the next.
        one = ["--one", name, backbone, str(size), str(seed)]
        subprocess.run([sys.executable, "-m", "benchmarks.results", *sys.argv[1:], *one], check=True)
        write_text(PAGE, render(collect(folder), given.seeds))
    print(f"written to {PAGE.relative_to(PROJECT)}")


def measure(folder: Path, name: str, data: Path, backbone: str, weights: Path, size: int, seed: int) -> None:
    """Run the pipeline up to the head, and every policy of fine-tuning from there; leave a file of figures for each."""
    from stages import extract_features, finetune, prepare, train_head

    network, alpha, file = BACKBONES[backbone]
    shared = [
        DATA[name],
        f"backbone={network}",
        f"backbone.alpha={alpha}",
        f"backbone.weights={weights / file}",
        f"backbone.input_size={size}",
        "train_head=lbfgs",
        f"seed={seed}",
    ]
    # At the larger size only the default is of interest.
    policies = POLICIES if size == 160 else {DEFAULT: POLICIES[DEFAULT]}
    for policy, overrides in policies.items():
        config = compose([*shared, "augment=none", *overrides])
        del config["evaluate"]  # decides nothing here
        out = folder / f"{fingerprint(name, backbone, policy, *config.values())}.json"
        if out.exists():
            continue
        paths = Paths(data, folder / "work" / fingerprint(*shared, str(config["augment"])))
        sections = {one: config[one] for one in ("backbone", "augment")}
        found: Figures = {"data": name, "backbone": backbone, "size": size, "policy": policy, "seed": seed}
        with contextlib.redirect_stdout(io.StringIO()):
            if not paths.head.exists():
                prepare.run(paths, config["dataset"], seed)
                extract_features.run(paths, **sections, seed=seed)
                start = time.perf_counter()
                train_head.run(paths, config["train_head"], seed)
                write_json(paths.root / "seconds.json", {"head": time.perf_counter() - start})
            start = time.perf_counter()
            try:
                finetune.run(paths, **sections, finetune=config["finetune"], seed=seed)
            except UserError as error:
                found["refused"] = str(error)
        found["head"] = {"seconds": read_json(paths.root / "seconds.json")["head"], **accuracies(paths, "train_head")}
        if "refused" not in found:
            found["tuned"] = {"seconds": time.perf_counter() - start, **accuracies(paths, "finetune")}
            found |= {"share": read_json(paths.stored("finetune"))["share"]}
        write_json(out, found)
        print(f"  {policy}: {found.get('tuned', found.get('refused'))}", flush=True)


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
        "mean (Student's t over seeds), and seconds of training on the machine at hand. Choices are made by the",
        "validation column; the test column is what they come to.",
    ]
    for name in DATA:
        for size in sorted({one["size"] for one in found if one["data"] == name}, reverse=True):
            lines += ["", f"## {name}, {size} px", "", "| backbone | policy | validation | test | seconds |",
                      "|---|---|---|---|---|"]  # fmt: skip
            for backbone in BACKBONES:
                here = [one for one in found if (one["data"], one["size"], one["backbone"]) == (name, size, backbone)]
                heads = [one["head"] for one in here if one["policy"] == DEFAULT]
                lines += [_row(backbone, HEAD, heads, len(seeds))] if heads else []
                for policy in POLICIES:
                    runs = [one for one in here if one["policy"] == policy]
                    if refused := next((one["refused"] for one in runs if "refused" in one), None):
                        lines.append(f"| {backbone} | {policy} | refused: {refused.partition(';')[0]} | | |")
                    elif runs:
                        lines.append(_row(backbone, policy, [one["tuned"] for one in runs], len(seeds)))
    return "\n".join([*lines, *_together(found), ""])


def _together(found: list[Figures]) -> list[str]:
    """The mean of each policy over everything at 160 px, where all was measured: what defaults are chosen by."""
    small = [one for one in found if one["size"] == 160]
    cells = {(one["data"], one["backbone"], one["seed"]) for one in small}
    lines = []
    for policy in POLICIES:
        runs = [one["tuned"] for one in small if one["policy"] == policy and "tuned" in one]
        if len(runs) == len(cells):
            mean = statistics.mean(one["val"] for one in runs)
            lines.append(f"| {policy} | {mean:.4f} | {statistics.mean(one['seconds'] for one in runs):.0f} |")
    heads = [one["head"] for one in small if one["policy"] == DEFAULT]
    if not lines or len(heads) < len(cells):
        return []
    mean = statistics.mean(one["val"] for one in heads)
    lines.insert(0, f"| {HEAD} | {mean:.4f} | {statistics.mean(one['seconds'] for one in heads):.0f} |")
    title = f"## All {len(cells)} together: data sets, backbones and seeds"
    return ["", title, "", "| policy | validation, mean | seconds, mean |", "|---|---|---|", *lines]


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
