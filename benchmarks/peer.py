"""thaw beside fastai, from the same weights, on the same splits: accuracy, and seconds from files to predictions.

thaw runs prepare, extract_features, train_head and finetune as ``params.yaml`` has them for photos; fastai its usual
recipe, see ``benchmarks.fastai_recipe``, on the splits that prepare has drawn. Each in processes of its own, one after
the other, with nothing cached but what the system keeps of the files; seconds count from the start of the process. Each
seed is another split. Figures lie in .cache/benchmarks/peer/, a folder for each data set, network and seed and in it
a file for each side, so that what was stopped goes on where it was; delete one to measure it anew. Writes
docs/fastai.md. Where others compute as well, torch's threads lose time waiting for each other, thaw's less:
OMP_WAIT_POLICY=passive in the environment helps fastai there.

    python -m benchmarks.peer --weights FILE [--alpha 1.0] [--seeds 0,1,2] [--augment] [--python PATH] NAME=FOLDER ...

FILE holds MobileNetV2 without its top, of that width. PATH is a Python that has fastai, if this one has not.
"""

import argparse
import contextlib
import io
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import numbers, run
from benchmarks.fastai_recipe import SIZE
from benchmarks.results import T_95
from stages import extract_features, finetune, prepare, train_head
from thaw.artifacts import PROJECT, Paths, cache, fingerprint, read_json, write_json, write_text
from thaw.config.composing import compose
from thaw.config.schema import Backbone
from thaw.data import images, manifest
from thaw.errors import UserError, fail
from thaw.evidence import comparison, scoring
from thaw.learning import predictions
from thaw.machine import cores, processor
from thaw.networks import backbones
from thaw.networks.weights import weights_id

PAGE = PROJECT / "docs" / "fastai.md"
FOUND, NETWORK = "found.json", "network.npz"  # of one side, for this process; of thaw, for fastai
IMAGES = 8  # whose features both sides compare before anything counts
COLUMNS = ["data", "seed", "head", "fine-tuned", "kept", "fastai", "difference"]
COLUMNS += ["thaw, s", "fastai, s", "by the clock", "in processor time"]
Figures = dict[str, Any]


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer", description="thaw beside fastai.")
    parser.add_argument("data", nargs="+", metavar="NAME=FOLDER", help="folders of images, one for each class")
    parser.add_argument("--weights", type=Path, required=True, help="of MobileNetV2 without its top")
    parser.add_argument("--alpha", type=float, default=1.0, help="its width (1.0)")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--augment", action="store_true", help="fastai with aug_transforms(); thaw as it is")
    parser.add_argument("--python", default=sys.executable, help="a Python that has fastai (this one)")
    parser.add_argument("--one", nargs=2, metavar=("ROOT", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    data = {name: Path(folder).absolute() for name, _, folder in (one.partition("=") for one in given.data)}
    weights = given.weights.absolute()
    try:
        if given.one:
            (folder,), (root, seed) = data.values(), given.one
            measure(Paths(folder, Path(root)), configuration(weights, given.alpha, int(seed)))
            return
        require(given.python)
        identity = weights_id(configuration(weights, given.alpha, given.seeds[0])["backbone"])
    except UserError as error:
        fail(error)
    found: dict[str, list[Figures]] = {name: [] for name in data}
    for seed in given.seeds:
        for name, folder in data.items():
            print(f"{name}, seed {seed} …", flush=True)
            key = fingerprint(identity, *configuration(weights, given.alpha, seed).values())
            root = cache() / "benchmarks" / "peer" / f"{name}-{seed}-{key[:8]}"
            found[name].append({"seed": seed} | both(root, name, folder, given, seed))
    write_text(PAGE, render(found, f"MobileNetV2 {given.alpha:g}", given.augment))
    print(f"written to {PAGE.relative_to(PROJECT)}")


def configuration(weights: Path, alpha: float, seed: int) -> Figures:
    """The sections of thaw's configuration."""
    network = ["backbone=mobilenet_v2", f"backbone.alpha={alpha}", f"backbone.weights={weights}"]
    choices = ["dataset=folder", "train_head=lbfgs", "augment=none", "finetune=auto", f"seed={seed}"]
    return compose([*network, f"backbone.input_size={SIZE}", *choices])


def require(python: str) -> None:
    """Be sure that a Python has fastai.

    Raises:
        UserError: it has not, or is none.
    """
    look = "import importlib.util as found, sys; sys.exit(found.find_spec('fastai') is None)"
    try:
        missing = subprocess.run([python, "-c", look], check=False).returncode
    except OSError:
        missing = 1
    if missing:
        raise UserError(
            f"--python: expected a Python with fastai, found none in {python}; "
            "make one ('python -m venv peer', then 'peer/bin/pip install --group peer', pip 25.1 or newer) and name it"
        )


def both(root: Path, name: str, data: Path, given: argparse.Namespace, seed: int) -> Figures:
    """What both sides come to on one split."""
    alpha = ["--alpha", str(given.alpha)]
    ours = [f"{name}={data}", "--weights", str(given.weights), *alpha, "--one", str(root), str(seed)]
    theirs = [str(data), str(Paths(data, root).manifest), str(root / NETWORK), "--out", str(root / FOUND), *alpha]
    theirs += ["--seed", str(seed), *(["--augment"] if given.augment else [])]
    quietly = [given.python, "-W", "ignore"]
    found = {
        "thaw": once(root / "thaw.json", data, [sys.executable, "-m", "benchmarks.peer", *ours]),
        "fastai": once(
            root / f"fastai{'-augment' if given.augment else ''}.json",
            data,
            [*quietly, "-m", "benchmarks.fastai_recipe", *theirs],
        ),
    }
    print(f"  {found}", flush=True)
    return found


def once(out: Path, data: Path, command: list[str]) -> Figures:
    """The figures of one side, and its seconds; it is run unless there is a file of them."""
    if not out.exists():
        for file in data.rglob("*"):  # so that both find the files in memory, also who comes first
            if file.is_file():
                file.read_bytes()
        own = out.with_name("cache")
        shutil.rmtree(own, ignore_errors=True)
        environment = os.environ | {"THAW_CACHE": str(own)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # which would slow all
        start = time.perf_counter(), processors()
        subprocess.run(command, env=environment, check=True)
        seconds = time.perf_counter() - start[0], processors() - start[1]
        figures = read_json(out.with_name(FOUND))
        counted = (all_of_it - apart for all_of_it, apart in zip(seconds, figures["apart"], strict=True))
        write_json(out, figures | dict(zip(("seconds", "processor_seconds"), counted, strict=True)))
        shutil.rmtree(own, ignore_errors=True)
    found: Figures = read_json(out)
    return found


def processors() -> float:
    """Seconds of processor time of all processes that have been waited for."""
    times = os.times()
    return times.children_user + times.children_system


def measure(paths: Paths, config: Figures) -> None:
    """Run the pipeline up to fine-tuning; write what it comes to, and the network for fastai."""
    with contextlib.redirect_stdout(io.StringIO()):
        run(paths, config, prepare, extract_features, train_head, finetune)
    start = time.perf_counter(), time.process_time()
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    predicted = {stage: predictions.read(paths.predictions(stage)) for stage in ("train_head", "finetune")}
    val, test = (comparison.pair(predicted, records, classes, split) for split in ("val", "test"))
    found: Figures = {
        "head": scoring.accuracy(test.labels, test.before),
        "finetuned": scoring.accuracy(test.labels, test.after),
        "kept": comparison.kept(val, config["evaluate"].keep_best_of),
        "images": {split: sum(one.split == split for one in records) for split in ("train", "val", "test")},
    }
    hand_on(paths, config["backbone"], records[:IMAGES])
    apart = [time.perf_counter() - start[0], time.process_time() - start[1]]
    write_json(paths.root / FOUND, found | {"apart": apart})


def hand_on(paths: Paths, backbone: Backbone, records: list[manifest.Record]) -> None:
    """Write the network's weights as arrays, with pixels and Keras' features of some images to compare with."""
    network = backbones.network(backbone)
    layers = [layer.get_weights() for layer in network.layers if layer.weights]
    pairs = zip(layers[::2], layers[1::2], strict=True)  # each convolution is followed by BatchNorm
    known = {f"{place}_{i}": one for place, pair in enumerate(pairs) for i, one in enumerate(chain(*pair))}
    pixels = np.stack([images.load(paths.data / record.path, SIZE, backbone.fit) for record in records])
    np.savez(paths.root / NETWORK, **known, pixels=pixels, features=network.predict(pixels, verbose=0))


def render(found: dict[str, list[Figures]], network: str, augmented: bool) -> str:
    """Lay out the page (Markdown): means over seeds, and each seed."""
    versions = next(one["fastai"]["versions"] for runs in found.values() for one in runs)
    header = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    each = [
        _row(f"{name}, {' + '.join(map(str, one['thaw']['images'].values()))} images", str(one["seed"]), [one])
        for name, runs in found.items()
        for one in runs
    ]
    means = [_row(name, f"{len(runs)} seeds", runs) for name, runs in found.items() if len(runs) > 1]
    if means:
        means = [*header, *means, "", "Each seed:", ""]
    return "\n".join(
        [
            "# Beside fastai",
            "",
            "What `make repro` does, and fastai's usual recipe, `vision_learner(…).fine_tune(5)`: from the same",
            "ImageNet weights, on the same training, validation and test images, one after the other.",
            "`python -m benchmarks.peer` measures it and writes this page.",
            "",
            f"{network}, {SIZE} px, on {processor()}, {cores()} cores; fastai {versions['fastai']} with torch "
            f"{versions['torch']}{', aug_transforms()' if augmented else ''}.",
            "Accuracy on the test images: of thaw's head, fine-tuned, kept of both, and fastai. The difference of the",
            "last two is in points, with a 95% interval of the mean (Student's t over seeds). Seconds are from files",
            "to predictions; the last columns say how many times as long fastai takes. Images: to train on, validate",
            "and test.",
            "",
            *means,
            *header,
            *each,
            "",
        ]
    )


def _row(name: str, seed: str, runs: list[Figures]) -> str:
    ours, theirs = [one["thaw"] for one in runs], [one["fastai"] for one in runs]
    kept = [one[one["kept"]] for one in ours]
    shares = [[one["head"] for one in ours], [one["finetuned"] for one in ours], kept, [one["test"] for one in theirs]]
    cells = [f"{statistics.mean(values):.3f}" for values in shares]
    differences = [100 * (one - other["test"]) for one, other in zip(kept, theirs, strict=True)]
    cells.append(f"{statistics.mean(differences):+.1f}")
    if len(runs) in T_95:
        cells[-1] += f" ± {T_95[len(runs)] * statistics.stdev(differences) / math.sqrt(len(runs)):.1f}"
    seconds, processor_seconds = (
        [statistics.mean(one[key] for one in side) for side in (ours, theirs)]
        for key in ("seconds", "processor_seconds")
    )
    cells += [f"{value:.0f}" for value in seconds]
    cells += [f"{fastai / thaw:.1f} ×" for thaw, fastai in (seconds, processor_seconds)]
    return f"| {' | '.join([name, seed, *cells])} |"


if __name__ == "__main__":
    main()
