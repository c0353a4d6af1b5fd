"""Sweeps: heads against Keras' whole model, jobs side by side, 200 jobs in one process, and many processes at once.

Each part works in a copy of the project with a feature store, multirun folder and MLflow store of its own.

    python -m benchmarks.sweeps heads|turns|memory|processes FOLDER FLOWERS WEIGHTS [--quick]
"""

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import textbook
from benchmarks.pipeline import Copy

IMAGES = 24  # of each class, where the number of jobs counts and not their size
KERAS = 3  # head trainings that are measured, to be scaled
SAMPLE = 0.2  # seconds between two looks at the memory
HEADS = (
    "train_head=adam",
    "train_head.learning_rate=0.0003,0.001,0.003,0.01,0.03",
    "train_head.dropout=0.0,0.1,0.2,0.35,0.5",
    "train_head.batch_size=32,64",
    "train_head.class_weights=none,balanced",
)
TUNING = ("finetune=last_3_blocks", "finetune.epochs=1")  # of which many are done: short, at rates that are set


def main() -> None:
    """Be the command line: print the figures of a part as JSON."""
    parts: dict[str, Callable[[Sweeps], dict[str, Any]]] = {
        "heads": Sweeps.heads,
        "turns": Sweeps.turns,
        "memory": Sweeps.memory,
        "processes": Sweeps.processes,
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweeps")
    parser.add_argument("part", choices=parts)
    parser.add_argument("folder", type=Path, help="to work in")
    parser.add_argument("flowers", type=Path, help="the images, in class folders")
    parser.add_argument("weights", help="of MobileNetV2 1.0: imagenet, or a file")
    parser.add_argument("--quick", action="store_true", help="a few jobs, to try the benchmark itself")
    given = parser.parse_args()
    flowers = given.flowers.absolute()
    if given.part in ("memory", "processes"):
        flowers = _few(flowers, given.folder.absolute() / "few")
    print(json.dumps(parts[given.part](Sweeps(given.folder.absolute() / "copy", flowers, given.weights, given.quick))))


def _few(flowers: Path, folder: Path) -> Path:
    """Link a few images of each class."""
    shutil.rmtree(folder, ignore_errors=True)
    for label in sorted(path for path in flowers.iterdir() if path.is_dir()):
        (folder / label.name).mkdir(parents=True)
        for file in sorted(label.iterdir())[:IMAGES]:
            shutil.copy(file, folder / label.name / file.name)
    return folder


class Sweeps:
    """A copy of the project on the flowers, and sweeps in it."""

    def __init__(self, folder: Path, flowers: Path, weights: str, quick: bool) -> None:
        self.copy = Copy(folder, flowers, weights)
        self.quick, self.database = quick, folder / "mlflow.db"

    def heads(self) -> dict[str, Any]:
        """100 heads on cached features, against Keras' training of the head through the whole model."""
        overrides = ["dataset=flowers", "backbone=mobilenet_v2"]
        self._sweep(*overrides, "finetune=none")  # the features are there now
        kept = [HEADS[0], *(one.partition(",")[0] if self.quick else one for one in HEADS[1:])]
        moments = self._sweep(*overrides, "rank=head", *kept, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
        count = len(moments) - 1  # the last one is the end
        job = min((self.copy.root / "multirun" / "jobs").iterdir())  # all have the same split
        seconds = [self._keras(job) for _ in range(1 if self.quick else KERAS)]
        return {
            "configurations": count,
            "seconds": moments[-2],
            "whole": moments[-1],
            "keras": statistics.median(seconds),
            "measured": len(seconds),
        }

    def turns(self) -> dict[str, Any]:
        """The same fine-tuning jobs one after the other, and two at a time."""
        rates = [f"{rate:g}" for rate in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)[: 1 if self.quick else 6]]
        data = ["dataset=flowers", "backbone=mobilenet_v2"]
        jobs = [*data, *TUNING, "finetune.unfreeze.blocks=3,6"]
        self._sweep(*jobs)  # what is frozen has run, for both
        found = {}
        for name, launcher in (("serial", []), ("joblib", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])):
            shutil.rmtree(self.copy.root / "multirun")
            self._sweep(*data, "finetune=none")  # both find the head
            found[name] = self._sweep(*jobs, f"finetune.learning_rate={','.join(rates)}", *launcher)[-1]
        return {"jobs": 2 * len(rates), **found}

    def memory(self) -> dict[str, Any]:
        """The memory of a sweep of 200 fine-tunings: the highest in each tenth of the jobs."""
        count = 4 if self.quick else 200
        rates = ",".join(f"{1e-5 * 1.02**number:.6g}" for number in range(count))
        peaks: list[float] = []
        moments = self._sweep(*TUNING, f"finetune.learning_rate={rates}", peaks=peaks)
        block = max(1, count // 10)
        return {
            "jobs": len(moments) - 1,
            "peaks": [max(peaks[at : at + block]) for at in range(0, count, block)],
        }

    def processes(self) -> dict[str, Any]:
        """8 processes × 25 jobs that all publish to one fresh SQLite store: how many complete runs it has then."""
        count = 16 if self.quick else 200
        strengths = ",".join(f"[{1e-4 * 1.04**number:.6g}]" for number in range(count))
        command = [f"train_head.inverse_l2={strengths}", "finetune=none", "hydra/launcher=joblib"]
        self._sweep(*command, "hydra.launcher.n_jobs=8")
        with sqlite3.connect(self.database) as store:
            complete = store.execute(
                "select count(*) from runs where status = 'FINISHED' and lifecycle_stage = 'active' and run_uuid in"
                " (select run_uuid from tags where key = 'thaw.published') and run_uuid in"
                " (select run_uuid from latest_metrics where key = 'head/accuracy')"
            ).fetchone()[0]
            others = store.execute("select count(*) from runs where status != 'FINISHED'").fetchone()[0]
        return {"jobs": count, "processes": 8, "complete": complete, "incomplete": others}

    def _sweep(self, *overrides: str, peaks: list[float] | None = None) -> list[float]:
        """Run a sweep; return the seconds after which each job's line came, and those of the end.

        Args:
            overrides: of Hydra.
            peaks: is given the memory of all its processes while each job ran, in bytes.
        """
        environment = self.copy.environment(MLFLOW_TRACKING_URI=f"sqlite:///{self.database}")
        start, moments, seen = time.perf_counter(), list[float](), list[float]()
        command, log = [sys.executable, "-m", "stages.sweep", "-m", *overrides], self.copy.root.parent / "log"
        with (
            log.open("wb") as out,
            subprocess.Popen(
                command, cwd=self.copy.root, env=environment, stdout=out, stderr=subprocess.STDOUT
            ) as running,
        ):
            ended = False
            while not ended:
                time.sleep(SAMPLE)
                ended = running.poll() is not None  # before looking for new lines: the last ones count as well
                if peaks is not None:
                    seen.append(_memory(running.pid))
                new = sum(map(_counts, log.read_text(encoding="utf-8").splitlines())) - len(moments)
                moments += [time.perf_counter() - start] * new
                if peaks is not None and new:  # not the highest: what forks is counted twice for a moment
                    peaks += [statistics.median(seen)] * new
                    seen = []
        if running.returncode:
            sys.exit(f"error: {' '.join(command)} failed:\n{log.read_text(encoding='utf-8')}")
        return [*moments, time.perf_counter() - start]

    def _keras(self, job: Path) -> float:
        """Train a head through the whole model, as the textbook has it; return the seconds."""
        self.copy.split(job)
        code = f"from benchmarks.sweeps import keras_head; keras_head({str(self.copy.splits)!r}, {self.copy.weights!r})"
        return self.copy.run(sys.executable, "-c", code)


def keras_head(splits: str, weights: str) -> None:
    """Train the textbook's head: ten epochs through the frozen base."""
    train, val = (textbook.images(Path(splits), split) for split in ("train", "val"))
    model, _ = textbook.classifier(weights, len(train.class_names))
    textbook.compiled(model, 1e-3).fit(train.prefetch(-1), validation_data=val.prefetch(-1), epochs=10, verbose=0)


def _counts(line: str) -> bool:
    """Whether a line is that of a job: 12/200  …"""
    number, slash, _ = line.strip().partition("/")
    return bool(slash) and number.isdigit()


def _memory(root: int) -> float:
    """The memory of a process and all that it has started, in bytes; pages that they share count once for each."""
    total, waiting = 0, [root]
    page = os.sysconf("SC_PAGE_SIZE")
    while waiting:
        pid = waiting.pop()
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * page
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text(encoding="utf-8").split())
        except OSError:  # it has just ended
            continue
    return total


if __name__ == "__main__":
    main()
