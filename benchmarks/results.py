"""What fine-tuning adds, policy by policy: data sets × backbones × seeds; writes docs/results.csv and docs/results.md.

The pipeline's own stages run, for each seed on another split. Of larger sets a part is taken, see ``IMAGES``. What
docs/results.csv has is not run again unless its settings have changed, so that what was stopped, on whichever machine,
goes on where it was.

    python -m benchmarks.results --weights FOLDER [--seeds 0,1,2] [--hours 6] NAME=FOLDER ...

WEIGHTS holds MobileNetV2 1.0 and MobileNet 0.75, as .h5 files that the backbones here name. The digits, with the
bundled backbone, are always among the data.
"""

import argparse
import contextlib
import csv
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

from benchmarks.accuracy import numbers, run
from stages import extract_features, finetune, prepare, train_head
from thaw.artifacts import PROJECT, Paths, cache, fingerprint, read_json, write_text
from thaw.config.composing import compose
from thaw.config.schema import Auto, HeadOnly
from thaw.data import images, manifest
from thaw.learning import examples, predictions
from thaw.learning import policy as learning_policy
from thaw.networks import smoothing

PAGE, TABLE = PROJECT / "docs" / "results.md", PROJECT / "docs" / "results.csv"
COLUMNS = ["data", "backbone", "policy", "seed", "val", "test", "seconds", "settings"]
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
SLOWEST = "all layers"
POLICIES: dict[str, list[str]] = {
    "head only": ["finetune=none"],
    "auto": ["finetune=auto"],
    "auto, quick": ["finetune=auto", "finetune.effort=quick"],
    "last 3 blocks": ["finetune=last_3_blocks"],
    "last 6 blocks": ["finetune=last_6_blocks"],
    "last 20 layers": ["finetune=last_20"],
    SLOWEST: ["finetune=last_20", "~finetune.unfreeze.layers", "+finetune.unfreeze.all=true"],
}
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's, two-sided, by number of seeds
Row = dict[str, Any]


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
    if given.one:
        name, backbone, policy, seed = given.one
        measure(name, data.get(name), backbone, given.weights.absolute(), policy, int(seed))
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
    print(f"written to {PAGE.relative_to(PROJECT)}")


def measure(name: str, data: Path | None, backbone: str, weights: Path, policy: str, seed: int) -> None:
    """Run the pipeline up to the head, and a policy from there, unless the table has them; write table and page."""
    choices = ["dataset=digits", "backbone=mobilenet_v2_bundled"]
    if data:
        *network, file = BACKBONES[backbone]
        choices = ["dataset=folder", *network, f"backbone.weights={weights / file}", "backbone.input_size=160"]
    config = compose([*choices, "train_head=lbfgs", "augment=none", f"seed={seed}", *POLICIES[policy]])
    row = {"data": name, "backbone": backbone, "policy": policy, "seed": seed, "settings": settings(config)}
    rows = read()
    if any(row.items() <= one.items() for one in rows):
        return
    folder = cache() / "benchmarks" / "results"
    images = part(data, folder / "data" / name) if data else PROJECT / "data"
    below = [config[one] for one in ("dataset", "backbone", "augment", "train_head", "seed")]
    figures = once(Paths(images, folder / "work" / fingerprint(name, *below)), config)
    print(f"  {figures}", flush=True)
    rows = [one for one in rows if not {key: row[key] for key in COLUMNS[:4]}.items() <= one.items()]
    write_text(TABLE, table([*rows, row | figures]))
    write_text(PAGE, render(read()))


def settings(config: Row) -> str:
    """What a figure depends on but the code, as a short text: the choices, and the constants of slopes and of auto."""
    modules = [] if isinstance(config["finetune"], HeadOnly) else [smoothing]
    modules += [learning_policy] if isinstance(config["finetune"], Auto) else []
    constants = [str(value) for module in modules for name, value in vars(module).items() if name.isupper()]
    sections = [config[name] for name in ("dataset", "train_head", "finetune")]
    network = config["backbone"].model_copy(update={"weights": ""})  # where they lie says nothing
    return fingerprint(network, *sections, *constants)[:12]


def once(paths: Paths, config: Row) -> Row:
    """Run the pipeline's stages up to fine-tuning, the first two unless that has been done.

    Seconds are of processor time, which does not depend on what else the machine does.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        if not paths.features.exists():
            run(paths, config, prepare, extract_features)
        start = time.process_time()
        if isinstance(config["finetune"], HeadOnly) or not paths.head.exists():
            run(paths, config, train_head)
        if not isinstance(config["finetune"], HeadOnly):
            start = time.process_time()
        run(paths, config, finetune)
    return {"seconds": f"{time.process_time() - start:.1f}", **accuracies(paths, "finetune")}


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


def accuracies(paths: Paths, stage: str) -> Row:
    """The accuracy of a stage's predictions on the validation and on the test images."""
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    predicted = predictions.read(paths.predictions(stage))
    labels = {record.path: label for record, label in zip(records, examples.labels(records, classes), strict=True)}
    right = predicted.probabilities.argmax(axis=1) == np.array([labels[path] for path in predicted.paths])
    splits = np.array(predicted.splits)
    return {split: round(float(right[splits == split].mean()), 4) for split in ("val", "test")}


def read() -> list[Row]:
    """The rows of the table."""
    if not TABLE.exists():
        return []
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [row | {"seed": int(row["seed"])} for row in csv.DictReader(file)]


def table(rows: list[Row]) -> str:
    """Lay out the table (CSV)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: [row[key] for key in COLUMNS[:4]]))
    return text.getvalue()


def render(rows: list[Row]) -> str:
    """Lay out the page (Markdown)."""
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "# Results",
        "",
        "What fine-tuning adds to a head on a frozen backbone. `python -m benchmarks.results` runs the pipeline's own",
        f"stages for seeds {', '.join(map(str, seeds))} (each is another split), collects "
        "[results.csv](results.csv) and writes this page: mean accuracy, with a",
        "95% interval of the mean (Student's t over seeds), and median seconds of the stage's processor time.",
        f"Photos are of 160 px; of sets with more than {IMAGES:,} images, that many are taken, some 1,500 to train on.",
        "A run was measured with the choices of its day, on the machine of its day, so seconds compare but roughly; a",
        "further run replaces what has changed since.",
    ]
    for name in sorted({row["data"] for row in rows}):
        lines += ["", f"## {name}", "", "| backbone | policy | validation | test | seconds |", "|---|---|---|---|---|"]
        for backbone in sorted({row["backbone"] for row in rows if row["data"] == name}):
            for policy in POLICIES:
                if runs := [
                    row for row in rows if (row["data"], row["backbone"], row["policy"]) == (name, backbone, policy)
                ]:
                    lines.append(_row(backbone, policy, runs, len(seeds)))
    return "\n".join([*lines, *_together(rows), ""])


def _together(rows: list[Row]) -> list[str]:
    """The mean of each policy over all that every policy was measured on."""
    measured = [{(row["data"], row["backbone"], row["seed"]) for row in rows if row["policy"] == p} for p in POLICIES]
    cells = set.intersection(*measured)
    if not cells:
        return []
    lines = ["", f"## All {len(cells)} together: data sets, backbones and seeds", ""]
    lines += ["| policy | validation, mean | test, mean | seconds, mean |", "|---|---|---|---|"]
    for policy in POLICIES:
        runs = [row for row in rows if row["policy"] == policy and (row["data"], row["backbone"], row["seed"]) in cells]
        mean = {key: statistics.mean(float(row[key]) for row in runs) for key in ("val", "test", "seconds")}
        lines.append(f"| {policy} | {mean['val']:.4f} | {mean['test']:.4f} | {mean['seconds']:.0f} |")
    return lines


def _row(backbone: str, policy: str, runs: list[Row], seeds: int) -> str:
    cells = []
    if len(runs) < seeds:
        policy += f" ({len(runs)} of {seeds} seeds)"
    for split in ("val", "test"):
        values = [float(row[split]) for row in runs]
        text = f"{statistics.mean(values):.3f}"
        if len(values) in T_95:
            text += f" ± {T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values)):.3f}"
        cells.append(text)
    seconds = statistics.median(float(row["seconds"]) for row in runs)
    return f"| {backbone} | {policy} | {cells[0]} | {cells[1]} | {seconds:.0f} |"


if __name__ == "__main__":
    main()
