"""The whole pipeline against the textbook recipe, ``dvc repro`` with nothing to do, and what live curves cost.

Runs in a copy of the project with a DVC, feature store and MLflow store of its own, so that each run is a cold one:
nothing is extracted and no network is converted.

    python -m benchmarks.pipeline FOLDER FLOWERS WEIGHTS [--quick]
"""

import argparse
import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from thaw.artifacts import PROJECT, Paths, read_json, write_text
from thaw.data.sources import GOES_WITH


def main() -> None:
    """Be the command line: print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline")
    parser.add_argument("folder", type=Path, help="to work in")
    parser.add_argument("flowers", type=Path, help="the images, in class folders")
    parser.add_argument("weights", help="of MobileNetV2 1.0: imagenet, or a file")
    parser.add_argument("--quick", action="store_true", help="one epoch and one seed, to try the benchmark itself")
    given = parser.parse_args()
    copy = Copy(given.folder, given.flowers.absolute(), given.weights)
    ours: dict[int, Any] = {}
    theirs: dict[str, dict[int, Any]] = {"written": {}, "frozen": {}}
    for seed in [0] if given.quick else [0, 1, 2]:  # each seed is another split; side by side: theirs after ours
        ours[seed] = copy.repro(seed)
        for batchnorm in ["written", "frozen"] if seed == 0 else ["frozen"]:
            theirs[batchnorm][seed] = copy.textbook(batchnorm, epochs=1 if given.quick else 10)
    rounds = 2 if given.quick else 5
    rest = {"nothing": copy.nothing(rounds), "live": copy.live(rounds), "limit": copy.limit()}
    print(json.dumps({"ours": ours, "textbook": theirs} | rest))


class Copy:
    """A copy of the project that works on FLOWERS."""

    def __init__(self, folder: Path, flowers: Path, weights: str) -> None:
        self.root, self.cache, self.splits = folder / "project", folder / "cache", folder / "splits"
        self.weights = weights if weights == "imagenet" else str(Path(weights).absolute())
        shutil.rmtree(folder, ignore_errors=True)
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=PROJECT,
            check=True,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        for name in listed.stdout.splitlines():
            if (PROJECT / name).is_file():
                target = self.root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT / name, target)
        self.run("git", "init", "--quiet")
        self.run(sys.executable, "-m", "stages.get_data", "folder", str(flowers), "--force")
        yaml = self.root / "conf" / "backbone" / "mobilenet_v2.yaml"
        text = yaml.read_text(encoding="utf-8")
        write_text(yaml, re.sub(r"(?m)^weights: \S+", f"weights: {self.weights}", text))

    def run(self, *command: str, **variables: str) -> float:
        """Run a command in the copy; return its seconds."""
        start = time.perf_counter()
        self.said(*command, **variables)
        return time.perf_counter() - start

    def said(self, *command: str, **variables: str) -> str:
        """Run a command in the copy; return what it prints."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            sys.exit(f"error: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of commands in the copy."""
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "THAW_CACHE": str(self.cache),
        }
        # Of whoever runs this; the second slows all.
        dropped = ("MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE")
        return {name: value for name, value in os.environ.items() if name not in dropped} | own | variables

    def repro(self, seed: int) -> dict[str, float]:
        """Time ``dvc repro`` of all stages from nothing; return seconds and test accuracies."""
        for leftover in (self.cache, self.root / "artifacts", self.root / ".dvc" / "cache" / "runs"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in (self.root / "dvc.lock", self.root / "mlflow.db"):
            leftover.unlink(missing_ok=True)
        params = self.root / "params.yaml"
        text = params.read_text(encoding="utf-8")
        for choice, option in (GOES_WITH["flowers"] | {"seed": str(seed)}).items():
            text = re.sub(rf"(?m)^{choice}: \S+", f"{choice}: {option}", text)
        write_text(params, text)
        seconds = self.run("dvc", "repro")
        metrics = read_json(Paths(root=self.root / "artifacts").figures)
        self.split(self.root / "artifacts")
        kept = self.splits.with_name("artifacts")  # for the other benchmarks
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.root / "artifacts", kept)
        return {"seconds": seconds} | {part: metrics[part]["accuracy"] for part in ("head", "finetuned")}

    def split(self, artifacts: Path) -> None:
        """Lay out the images as the textbook recipe wants them, so that both are judged on the same test images."""
        shutil.rmtree(self.splits, ignore_errors=True)
        with (artifacts / "prepare" / "manifest.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                link = self.splits / row["split"] / row["label"] / Path(row["path"]).name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(self.root / "data" / row["path"])

    def textbook(self, batchnorm: str, epochs: int) -> dict[str, float]:
        """Time the textbook recipe; return seconds and test accuracies."""
        out = self.splits / f"{batchnorm}.json"
        options = ["--weights", self.weights, "--batchnorm", batchnorm, "--epochs", str(epochs), "--out", str(out)]
        seconds = self.run(sys.executable, "-m", "benchmarks.textbook", str(self.splits), *options)
        accuracies: dict[str, float] = read_json(out)
        return {"seconds": seconds} | accuracies

    def nothing(self, rounds: int) -> dict[str, float]:
        """Time ``dvc repro`` and ``dvc status`` when all is up to date: medians."""
        found: dict[str, list[float]] = {"status": [], "repro": []}
        for _ in range(rounds):
            for command, seconds in found.items():
                seconds.append(self.run("dvc", command))
        return {command: statistics.median(seconds) for command, seconds in found.items()}

    def live(self, rounds: int) -> dict[str, float]:
        """Time fine-tuning alone, and followed by MLflow: medians of runs that alternate."""
        found: dict[str, list[float]] = {"0": [], "1": []}
        for _ in range(rounds):
            for switch, seconds in found.items():
                seconds.append(self.run(sys.executable, "-m", "stages.finetune", THAW_LIVE=switch))
                time.sleep(5)  # until nobody follows any more
        return {name: statistics.median(found[switch]) for name, switch in (("alone", "0"), ("followed", "1"))}

    def limit(self) -> dict[str, float]:
        """What the pipeline that was run last cannot do without, see ``benchmarks.limit``."""
        said = self.said(sys.executable, "-m", "benchmarks.limit", "pipeline", "data", "artifacts")
        found: dict[str, float] = json.loads(said.splitlines()[-1])
        return found


if __name__ == "__main__":
    main()
