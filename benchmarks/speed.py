"""Speed, measured side by side: runs every benchmark and writes docs/benchmarks.md, a section for each part.

Each part runs in processes of its own and leaves its figures in .cache/benchmarks/speed/; a part that is finished is
not run again, so that what was stopped goes on where it was. Sections of other parts stay as they are: each says on
which machine and of which commit it is.

    python -m benchmarks.speed --flowers FOLDER [--weights imagenet|FILE] [--torch PYTHON] [--only PART …] [--again]
        [--quick]
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import scale
from thaw.artifacts import PROJECT, cache, git, read_json, write_json, write_text
from thaw.machine import cores, has_gpu

PAGE = PROJECT / "docs" / "benchmarks.md"
ENCODERS = {"dinov2_small": 64, "dinov2_base": 32, "siglip2_base": 32, "vit_base": 32}  # and on how many images
NETWORKS = {"mobilenet_v2": 1000, "resnet50": 200, "vgg16": 80, "efficientnet_b0": 400}  # and on how many images
Figures = dict[str, Any]


class Row(NamedTuple):
    """A line of the page's table.

    Attributes:
        what: is measured.
        ours, theirs: figures.
        figure: what they come to, and
        form: how that is written.
        target: of it; None for none.
        at_least: whether that is the least or the most.
        limit: what ``ours`` would be if only the work itself took time, where that can be worked out.
    """

    what: str
    ours: str
    theirs: str
    figure: float
    form: str
    target: float | None = None
    at_least: bool = True
    limit: str = ""


class Bench:
    """Where the parts work, and on what.

    Attributes:
        folder: of figures and everything that is made on the way.
        flowers: the images, in class folders.
        weights: of MobileNetV2 1.0: imagenet, or a file.
        torch: a Python that has torch and transformers; empty for none.
        quick: whether only the benchmarks themselves are tried.
    """

    def __init__(self, flowers: Path, weights: str, torch: str, quick: bool) -> None:
        self.folder = cache() / "benchmarks" / ("speed-quick" if quick else "speed")
        self.flowers, self.weights, self.torch, self.quick = flowers, weights, torch, quick
        self.work = self.folder / "pipeline"

    def run(self, module: str, *arguments: object, cache: Path) -> Figures:
        """Run a benchmark's module as a process of its own, with a cache of its own; return the JSON it printed."""
        command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
        environment = os.environ | {"THAW_CACHE": str(cache)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(
            command,
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            sys.exit(f"error: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        figures: Figures = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
        return figures

    def machine(self) -> Figures:
        """The machine."""
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
        facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        flags = facts.get("flags", "").split()
        return {
            "processor": facts.get("model name", platform.processor()),
            "cores": cores(),
            "instructions": [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags],
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpu": has_gpu(),
            "peak": self.run("limit", "peak", cache=self.folder)["peak"],
        }

    def pipeline(self) -> Figures:
        """The five stages against the textbook recipe."""
        quick = ["--quick"] if self.quick else []
        return self.run("pipeline", self.work, self.flowers, self.weights, *quick, cache=self.work / "unused")

    def epoch(self) -> Figures:
        """An epoch of fine-tuning; needs what ``pipeline`` has left."""
        project = self.work / "project"
        places = (self.work / "splits", self.work / "artifacts", project / "data")
        return self.run("epoch", *places, self.weights, cache=self.work / "cache")

    def sweeps(self) -> Figures:
        """Sweeps, part by part."""
        own, quick = self.folder / "sweeps", ["--quick"] if self.quick else []
        for part in ("heads", "turns", "memory", "processes"):
            if not (file := own / f"{part}.json").exists():  # of a run that was stopped
                found = self.run("sweeps", part, own / part, self.flowers, self.weights, *quick, cache=own / "unused")
                write_json(file, found)
                shutil.rmtree(own / part)
        return {file.stem: read_json(file) for file in sorted(own.glob("*.json"))}

    def extraction(self) -> Figures:
        """Feature extraction, network by network."""
        own = self.folder / "extraction"
        for name, count in ({"mobilenet_v2": 40, "vgg16": 8} if self.quick else NETWORKS).items():
            if not (file := own / f"{name}.json").exists():  # of a run that was stopped
                write_json(file, self.run("extraction", name, self.flowers, count, cache=own))
        return {file.stem: read_json(file) for file in sorted(own.glob("*.json"))}

    def encoders(self) -> Figures:
        """Transformers, network by network."""
        own = self.folder / "encoders"
        others = ["--python", self.torch] if self.torch else []
        for name, count in ({"dinov2_small": 2} if self.quick else ENCODERS).items():
            if not (file := own / f"{name}.json").exists():  # of a run that was stopped
                write_json(file, self.run("encoders", name, count, *others, cache=own))
        return {file.stem: read_json(file) for file in sorted(own.glob("*.json"))}

    def decoding(self) -> Figures:
        """Large photos, decoded smaller."""
        return self.run("decoding", self.flowers, 10 if self.quick else 100, cache=self.folder / "extraction")

    def scale(self) -> Figures:
        """Very many small images, twice and four times as many: each stage, and DVC."""
        own, parts = self.folder / "scale", ["dvc", *scale.STAGES]
        counts = (1000, 2000, 4000) if self.quick else (250_000, 500_000, 1_000_000)
        for count in (scale.EACH, *counts):  # on a few images first, so that the network is converted before
            root, cache = own / f"{count}", own / "cache"
            missing = [part for part in parts if not (own / f"{count}-{part}.json").exists()]  # by a run that stopped
            if missing:
                self.run("scale", "make", own / "images", counts[-1], cache=cache)
                os.sync()  # what is still being written would slow what follows
            for part in missing:
                found = self.run("scale", part, own / "images", count, root, cache=cache)
                write_json(own / f"{count}-{part}.json", found)
            shutil.rmtree(root, ignore_errors=True)
            shutil.rmtree(cache / "features", ignore_errors=True)
        shutil.rmtree(own / "images", ignore_errors=True)
        return {str(count): {part: read_json(own / f"{count}-{part}.json") for part in parts} for count in counts}


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description="Measure, and write the page.")
    parser.add_argument("--flowers", default="", help="TensorFlow's flower photos, in class folders")
    parser.add_argument("--weights", default="imagenet", help="of MobileNetV2 1.0: imagenet, or a file")
    parser.add_argument("--torch", default="", help="a Python that has torch and transformers, to be measured against")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--again", action="store_true", help="measure finished parts again")
    parser.add_argument("--quick", action="store_true", help="few images and epochs: to try the benchmarks themselves")
    given = parser.parse_args()
    if sys.platform != "linux":  # what counts memory, processes and processors reads /proc
        sys.exit(f"error: expected Linux for the benchmarks, found {sys.platform}; everything else runs here")
    if not given.flowers or not Path(given.flowers).is_dir():
        sys.exit(
            "error: expected the folder of TensorFlow's flower photos, found "
            f"{given.flowers or 'none'}; say 'make bench FLOWERS=PATH'"
        )
    weights = given.weights if given.weights == "imagenet" else str(Path(given.weights).absolute())
    bench = Bench(Path(given.flowers).absolute(), weights, given.torch, given.quick)
    for name in given.only:
        text = section(name, **measured(name, bench, given.again))
        if given.quick:
            print(text)
        else:
            sections = read()
            write_text(PAGE, page(sections | {name: text}))
            print(f"written to {PAGE.relative_to(PROJECT)}: {name}", flush=True)


def measured(name: str, bench: Bench, again: bool) -> Figures:
    """A part's ``figures``, and the ``machine`` and ``commit`` that they are of; measured now unless that was done."""
    file = bench.folder / f"{name}.json"
    if again or not file.exists():
        print(f"{name} …", flush=True)
        if again:
            shutil.rmtree(bench.folder / name, ignore_errors=True)
        about = {"machine": bench.machine(), "commit": (git("rev-parse", "--short", "HEAD") or "unknown").strip()}
        write_json(file, about | {"figures": PARTS[name].measure(bench)})
    found: Figures = read_json(file)
    return found


def read() -> dict[str, str]:
    """The page's sections, by their parts."""
    if not PAGE.exists():
        return {}
    _, *found = PAGE.read_text(encoding="utf-8").split("\n## ")
    return {text.partition("\n")[0].lower(): f"## {text.rstrip()}\n" for text in found}


def page(sections: dict[str, str]) -> str:
    """Lay out the page (Markdown); a part without a section is named as such."""
    lines = [
        "# Benchmarks",
        "",
        "`make bench FLOWERS=PATH` measures all this and writes this page, section by section; what a section compares",
        "ran side by side on one machine. Times on a shared machine are noisy: read the ratios. A missed target says",
        "so. The limit is what the work would take if each picture were decoded once and all multiplications in",
        "float32 were as fast as those of large matrices (`benchmarks/limit.py`); what is better than that has met the",
        "machine in a faster moment, or needs fewer multiplications. Where no limit is given, it is what thaw is",
        "compared with.",
        "",
    ]
    return "\n".join([*lines, *(sections.get(name, f"## {name.capitalize()}\n\nNot measured.\n") for name in PARTS)])


def section(name: str, machine: Figures, figures: Figures, commit: str) -> str:
    """Lay out a part's section (Markdown)."""
    lines = [
        f"## {name.capitalize()}",
        "",
        f"{machine['processor']}, {machine['cores']} cores ({', '.join(machine['instructions'])}), "
        f"{machine['memory'] / 2**30:.0f} GiB of memory, {machine['peak'] / 1e9:.0f} billion multiplications a second"
        f"{'' if machine['gpu'] else ', no GPU'}; commit {commit}.",
        "",
        "| what | thaw | limit | compared with | figure | target | |",
        "|---|---|---|---|---|---|---|",
    ]
    rows, notes = PARTS[name].lay_out(figures, machine)
    for row in rows:
        goal, verdict = "", ""
        if row.target is not None:
            goal = f"{'≥' if row.at_least else '≤'} {row.form.format(row.target)}"
            met = row.figure >= row.target if row.at_least else row.figure <= row.target
            verdict = "met" if met else "**missed**"
        cells = (row.what, row.ours, row.limit, row.theirs, row.form.format(row.figure), goal, verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), *([""] if notes else [])])


def _pipeline(found: Figures, machine: Figures) -> tuple[list[Row], list[str]]:
    ours, frozen, least = found["ours"], found["textbook"]["frozen"], found["limit"]
    (written,) = found["textbook"]["written"].values()

    def mean(part: str, runs: Figures) -> float:
        return float(statistics.mean(one[part] for one in runs.values()))

    seconds, their_seconds = (statistics.median(one["seconds"] for one in runs.values()) for runs in (ours, frozen))
    fastest = min(their_seconds, written["seconds"])
    best, our_best = max(mean("finetuned", frozen), written["finetuned"]), mean("finetuned", ours)
    whole = "tf_flowers, MobileNetV2 1.0 at 160 px: `dvc repro` of all five stages against the textbook recipe, seconds"
    bound = f"{least['decoding'] + least['multiplications'] / machine['peak']:.0f} s"
    nothing, live = found["nothing"], found["live"]
    idle = "`dvc repro` with nothing to do against `dvc status`"
    followed = "fine-tuning (the whole stage) with its curve live in MLflow against without"
    points = 100 * (our_best - best)
    rows = [
        Row(whole, f"{seconds:.0f} s", f"{fastest:.0f} s", fastest / seconds, "{:.1f} ×", 10, limit=bound),
        Row("the same, mean test accuracy, in points", f"{our_best:.1%}", f"{best:.1%}", points, "{:+.1f}", 3),
        _ratio(idle, nothing["repro"], nothing["status"], 1.3, "{:.2f} s", "{:.2f} ×"),
        _ratio(followed, live["followed"], live["alone"], 1.02, "{:.1f} s", "{:.3f} ×"),
    ]

    def listed(runs: Figures) -> str:
        return ", ".join(
            f"{seed}: {one['seconds']:.0f} s, {one['head']:.1%} → {one['finetuned']:.1%}" for seed, one in runs.items()
        )

    notes = [
        "Cold, with nothing extracted and no network converted. Each seed is another split, and both are "
        f"judged on its test images (head alone → fine-tuned). thaw: {listed(ours)}. Textbook recipe with BatchNorm "
        f"frozen: {listed(frozen)}; with BatchNorm as written: {listed(found['textbook']['written'])}."
    ]
    return rows, notes


def _ratio(what: str, ours: float, theirs: float, most: float, form: str, ratio: str = "{:.2f} ×") -> Row:
    """A row of what may be so many times as much as something else, at most."""
    return Row(what, form.format(ours), form.format(theirs), ours / theirs, ratio, most, at_least=False)


def _extraction(found: Figures, machine: Figures) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    notes = []
    # Without AMX, bfloat16 saves little, and no figure was promised.
    targets = {"float32": 2.5, "bfloat16": 5 if "amx_bf16" in machine["instructions"] else None}
    for network, speed in found.items():
        for precision, target in targets.items():
            if f"thaw {precision}" in speed:
                ours, theirs = speed[f"thaw {precision}"], speed["keras"]
                what = f"features of {network} from JPEG files, {precision}, images a second against `Model.predict`"
                bound = ""
                if precision == "float32":
                    bound = f"{1 / (1 / speed['decode'] + speed['multiplications'] / machine['peak']):.0f}"
                rows.append(Row(what, f"{ours:.0f}", f"{theirs:.0f}", ours / theirs, "{:.1f} ×", target, limit=bound))
        ours, decode, engine = (speed[name] for name in ("thaw float32", "decode", "engine float32"))
        lower = min(decode, engine)
        what = (
            f"the same, float32, against the lower of decoding alone ({decode:.0f}) and the engine alone ({engine:.0f})"
        )
        rows.append(Row(what, f"{ours:.0f}", f"{lower:.0f}", ours / lower, "{:.2f}", 0.7))
    notes.append(
        "The same files for all, random weights, after a first pass that does not count; thaw's figure "
        "includes reading the converted network and writing the store. Decoding and engine share the cores, so both "
        "together cannot reach the lower of their limits."
    )
    if targets["bfloat16"] is None:
        notes.append("bfloat16: this processor has no AMX, without which no ratio was promised.")
    return rows, notes


def _encoders(found: Figures, _: Figures) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    for network, speed in found.items():
        ours = "engine bfloat16" if "engine bfloat16" in speed else "engine float32"
        for theirs in ("engine float32", "keras", "torch float32", "torch bfloat16"):
            if theirs in speed and theirs != ours:
                what = f"{network} on pixels in memory, images a second: {ours} against {theirs}"
                least = None if theirs == "engine float32" else 1
                figures = (f"{speed[ours]:.1f}", f"{speed[theirs]:.1f}")
                rows.append(Row(what, *figures, speed[ours] / speed[theirs], "{:.1f} ×", least))
    notes = ["The published shapes at 224 px with random weights; keras is `Model.predict`, in float32."]
    if not any("torch float32" in speed for speed in found.values()):
        notes.append("Not measured against PyTorch, which was not there.")
    return rows, notes


def _epoch(found: Figures, machine: Figures) -> tuple[list[Row], list[str]]:
    what = "an epoch of fine-tuning the last 20 layers, validation included, against Keras' whole model"
    ours, theirs = found["thaw"], found["keras"]
    bound = f"{found['multiplications'] / machine['peak']:.1f} s"
    return [Row(what, f"{ours:.1f} s", f"{theirs:.1f} s", theirs / ours, "{:.2f} ×", 6, limit=bound)], []


def _sweeps(found: Figures, _: Figures) -> tuple[list[Row], list[str]]:
    heads, turns, memory, processes = (found[part] for part in ("heads", "turns", "memory", "processes"))
    count, keras = heads["configurations"], heads["keras"]
    scaled = keras * count
    first, *_, last = memory["peaks"]
    every = f"{count} heads in a sweep on cached features against Keras' training through the whole model (scaled)"
    pairs = f"{turns['jobs']} fine-tuning jobs, two at a time (joblib) against one after the other"
    grown = f"memory of a sweep of {memory['jobs']} fine-tunings: the last tenth of them against the first"
    done = f"{processes['processes']} processes that do {processes['jobs']} jobs, fresh SQLite store: complete runs"
    ours, complete = heads["seconds"], processes["complete"]
    rows = [
        Row(every, f"{ours:.0f} s", f"{scaled:,.0f} s", scaled / ours, "{:.0f} ×", 100),
        Row("the same, seconds in all", f"{ours:.0f} s", "", ours, "{:.0f} s", 60, at_least=False),
        _ratio(pairs, turns["joblib"], turns["serial"], 1, "{:.0f} s"),
        _ratio(grown, last / 1e9, first / 1e9, 1.1, "{:.2f} GB"),
        Row(done, f"{complete}", "", complete, "{:.0f}", processes["jobs"]),
    ]
    return rows, [
        "The heads are Adam's (5 rates × 5 dropouts × 2 batch sizes × 2 class weights), done by two processes; "
        f"with the fine-tuning and evaluation of the best one {heads['whole']:.0f} s. Keras: ten epochs of the "
        f"textbook recipe's head take {keras:.0f} s (the median of {heads['measured']}), times {count}.",
        "Memory: all processes of the sweep together, the highest in each tenth of the jobs: "
        f"{', '.join(f'{peak / 1e9:.2f}' for peak in memory['peaks'])} GB.",
        f"Processes: {processes['incomplete']} runs that are not finished.",
    ]


def _scale(found: Figures, _: Figures) -> tuple[list[Row], list[str]]:
    stages = {count: {part: one for part, one in parts.items() if part != "dvc"} for count, parts in found.items()}
    total = {int(count): sum(one["seconds"] for one in parts.values()) for count, parts in stages.items()}
    peak = max(one["memory"] for parts in stages.values() for one in parts.values()) / 1e9
    what = "all stages but fine-tuning for {:,} images of 64 px against {:,}, seconds"
    rows = [
        _ratio(what.format(two, one), total[two], total[one], 2.2, "{:.0f} s") for one, two in itertools.pairwise(total)
    ]
    rows.append(Row("the same, peak memory of a process", f"{peak:.2f} GB", "", peak, "{:.2f} GB", 3, at_least=False))
    parts = (
        f"{int(count):,} images: "
        + ", ".join(f"{part} {one['seconds']:.0f} s and {one['memory'] / 1e9:.2f} GB" for part, one in parts.items())
        for count, parts in found.items()
    )
    return rows, [
        "100 classes in shards, bundled backbone at 64 px, network converted before; dvc: 'dvc add' of links to "
        f"the shards: {'; '.join(parts)}."
    ]


def _decoding(found: Figures, _: Figures) -> tuple[list[Row], list[str]]:
    full, twice, once = (found[name] for name in ("full size", "twice", "once"))
    note = (
        "Photos of 5 megapixels for a 96 px network, on one core: "
        + "; ".join(
            f"{name} {one['milliseconds']:.0f} ms, pixels {one['pixels']:.2f} of 255 off on average, features at a "
            f"cosine of {one['cosine']:.5f} or more"
            for name, one in (("at least twice the pixels needed", twice), ("at least as many", once))
        )
        + f"; full size {full['milliseconds']:.0f} ms. thaw takes twice."
    )
    what = "decoding a photo of 5 megapixels, scaled in the frequency domain, against full size"
    theirs, ours = full["milliseconds"], twice["milliseconds"]
    rows = [
        Row(what, f"{ours:.0f} ms", f"{theirs:.0f} ms", theirs / ours, "{:.1f} ×", 2),
        Row("the same, lowest cosine of features", "", "", twice["cosine"], "{:.4f}", 0.99),
    ]
    return rows, [note]


class Part(NamedTuple):
    """What is measured together, and how it is laid out: as rows, and notes on them."""

    measure: Callable[[Bench], Figures]
    lay_out: Callable[[Figures, Figures], tuple[list[Row], list[str]]]


PARTS = {
    "pipeline": Part(Bench.pipeline, _pipeline),
    "extraction": Part(Bench.extraction, _extraction),
    "encoders": Part(Bench.encoders, _encoders),
    "epoch": Part(Bench.epoch, _epoch),
    "decoding": Part(Bench.decoding, _decoding),
    "scale": Part(Bench.scale, _scale),
    "sweeps": Part(Bench.sweeps, _sweeps),
}


if __name__ == "__main__":
    main()
