"""Sweeps: many configurations, each computed as little as possible, and none lost.

A job is one configuration of all stages. Its stages' outputs lie in folders that are named by what they depend on, so
jobs with the same beginning (the same data, features or head) share it, and what was computed once is found again:
by the next job, by the same sweep after a kill, and by another sweep.

    multirun/stages/<stage>/<key>/    the outputs of a stage, as ``artifacts/<stage>`` has them
    multirun/jobs/<job>/              a finished job: links to its stages, and result.json
    multirun/sweeps/<sweep>/          a record and a log of each job; summary.txt, table.csv, parallel.svg

The stages are handed in by ``stages.sweep``; the library knows none of them.
"""

import csv
import inspect
import io
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from thaw import coordinates, evidence, manifest, predictions, tracking
from thaw.artifacts import PROJECT, Paths, alone, atomic, fingerprint, plain, read_json, write_json
from thaw.backbones import FrozenNetwork
from thaw.config import SECTIONS, grid, sources, validate
from thaw.errors import UserError
from thaw.worker import Worker, WorkerError

FOLDER, DATA = PROJECT / "multirun", PROJECT / "data"
RESULT = "result.json"  # of a job; it is there when the job is finished
MULTIRUN = {"-m", "--multirun"}  # Hydra's option
PATIENCE = 7 * 24 * 60 * 60  # seconds that a job waits for a stage that another one is at
SHORT = 10  # letters of a job's name that are shown, and suffice
MODELS = {"head": "train_head", "finetuned": "finetune"}  # what may be kept, and the stage that made it
BEFORE = ("prepare", "extract_features", "train_head")  # the stages of a head

Stages = Mapping[str, Callable[..., None]]


@dataclass(frozen=True)
class Job:
    """One configuration.

    Attributes:
        sections: the typed configuration.
        stages: what runs, by name and in order.
        about: what is kept beside its result: what was chosen and overridden.
        listing: the state of the data, see ``listing``.
        log: the file for all that the stages say.
        sweep: the name of the sweep.
    """

    sections: Mapping[str, Any]
    stages: Stages
    about: Mapping[str, Any]
    listing: str
    log: Path
    sweep: str


@dataclass(frozen=True)
class Record:
    """What became of a job in one sweep; a file of its own in the sweep's folder.

    Attributes:
        number: of the job in the sweep, from 0.
        values: of the keys that the sweep varies.
        job: its name; empty if it failed.
        reason: why it failed; empty if it did not.
        seconds: what it took; 0 if it was finished already.
        began: when, in seconds since 1970.
    """

    number: int
    values: Mapping[str, str]
    job: str = ""
    reason: str = ""
    seconds: float = 0.0
    began: float = 0.0


def listing(data: Path) -> str:
    """Hash the names, sizes and times of all data files: another hash means that they may have changed."""
    lines = []
    for folder, _, names in os.walk(data):
        for name in names:
            stat = os.stat(Path(folder, name))  # noqa: PTH116 - a walk of 100,000 files
            lines.append(f"{Path(folder, name).relative_to(data)} {stat.st_size} {stat.st_mtime_ns}")
    return fingerprint("\n".join(sorted(lines)))


def folders(job: Job) -> Iterator[tuple[str, dict[str, Any], Path]]:
    """Yield each stage's name, its sections and the folder of its outputs, which may be there already.

    The folder's name depends on the code (the modules that ``dvc.yaml`` names), on the stage's sections and on what the
    stages before have left, so a stage must have run before the next one is asked for.
    """
    before: list[Path | str] = [job.listing]
    for name, run in job.stages.items():
        sections = {key: job.sections[key] for key in inspect.signature(run).parameters if key in SECTIONS}
        network = [FrozenNetwork(job.sections["backbone"]).fingerprint] if "backbone" in sections else []
        folder = FOLDER / "stages" / name / fingerprint(_code(name), *sections.values(), *network, *before)
        yield name, sections, folder
        # What prepare has found counts, not when the files were last touched.
        before = sorted(folder.iterdir()) if name == "prepare" else [folder.name]


@lru_cache
def _code(stage: str) -> str:
    """Hash the code that a stage depends on."""
    pipeline = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return fingerprint(*(PROJECT / one for one in pipeline[stage]["deps"] if one.startswith(("thaw/", "stages/"))))


def finished(job: Job) -> str:
    """Return the name of the job if it is finished, else nothing."""
    folder = FOLDER
    for _, _, folder in folders(job):
        if not folder.is_dir():
            return ""
    return folder.name if (FOLDER / "jobs" / folder.name / RESULT).exists() else ""


def perform(job: Job) -> tuple[str, str]:
    """Do as ``attempt`` does, with all output in the job's log.

    For a process of its own (``thaw.worker``): it loses its standard output.
    """
    with job.log.open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    done = attempt(job)
    sys.stdout.flush()
    sys.stderr.flush()
    if "keras" in sys.modules:  # as fresh as a new process: names and memory of models start anew
        sys.modules["keras"].backend.clear_session()
    return done


def attempt(job: Job) -> tuple[str, str]:
    """Do as ``complete`` does, and return the job's name; or an empty one, and why it has failed."""
    os.environ["THAW_SWEEP"] = job.sweep
    try:
        return complete(job), ""
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return "", str(error)
    except Exception as error:
        traceback.print_exc()
        said = " ".join(str(error).split())[:200]
        return "", f"{type(error).__name__}: {said} (see {job.log.relative_to(FOLDER.parent)})"


def complete(job: Job) -> str:
    """Run the stages of a job that nobody has run yet, and return its name.

    Raises:
        UserError: see the stages.
    """
    began = time.monotonic()
    done: dict[str, Path] = {}
    for name, sections, folder in folders(job):
        with alone(folder.with_suffix(".lock"), PATIENCE):  # another one that wants it too waits, and finds it done
            if not folder.is_dir():
                _run(name, job.stages[name], sections, folder, done)
        done[name] = folder
    result = {"config": plain(job.sections), **job.about, "seconds": round(time.monotonic() - began, 2)}
    with atomic(FOLDER / "jobs" / folder.name) as unfinished:
        unfinished.mkdir()
        _link(done, unfinished)
        write_json(unfinished / RESULT, result)
    return folder.name


def _run(
    name: str, run: Callable[..., None], sections: Mapping[str, Any], out: Path, before: Mapping[str, Path]
) -> None:
    """Run a stage beside links to the outputs of those before it, and move its outputs to their place."""
    root = FOLDER / ".running" / out.name
    shutil.rmtree(root, ignore_errors=True)  # of a run that was killed
    root.mkdir(parents=True)
    try:
        _link(before, root)
        run(Paths(DATA, root), **sections)
        (root / name).rename(out)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _link(done: Mapping[str, Path], folder: Path) -> None:
    for name, place in done.items():
        (folder / name).symlink_to(os.path.relpath(place, folder), target_is_directory=True)


@dataclass
class Sweep:
    """A sweep while it runs, as Hydra's jobs see it.

    Attributes:
        name: a hash of what was asked for.
        title: what was asked for.
        varied: the keys that vary, with their values.
        stages: all of them.
        heads: jobs end with the head, which is ranked; the winner alone is fine-tuned and evaluated.
        listing: the state of the data.
        total: how many jobs there are.
    """

    name: str
    title: str
    varied: Mapping[str, Sequence[str]]
    stages: Stages
    heads: bool = False
    listing: str = field(default_factory=lambda: listing(DATA))

    @classmethod
    def of(cls, arguments: list[str], stages: Stages, heads: bool = False) -> "Sweep":
        """Make the sweep that a command line asks for, and forget what an earlier run of it has recorded.

        Args:
            arguments: Hydra's.
            stages: all of them, in order.
            heads: see ``Sweep``.

        Raises:
            UserError: see ``config.grid``; or MLflow's address is unusable.
        """
        tracking.store()  # a wrong address is said before the work, not after it
        asked = grid(arguments) if MULTIRUN & {*arguments} else {}  # else Hydra shows something, or ``job`` complains
        varied = {key.lstrip("+~"): values for key, values in asked.items()}
        title = " ".join([*["--heads"] * heads, *(one for one in arguments if not one.startswith("-"))])
        sweep = cls(fingerprint(title)[:SHORT], title, varied, stages, heads)
        for record in sweep.folder.glob("*.json"):
            record.unlink()
        return sweep

    @property
    def folder(self) -> Path:
        """Where its records are."""
        return FOLDER / "sweeps" / self.name

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return int(np.prod([len(values) for values in self.varied.values()], dtype=int))

    def job(self, cfg: DictConfig) -> None:
        """Do one job, whatever comes of it, record that, and say it in one line.

        Raises:
            UserError: Hydra was not told to do several runs.
        """
        state = HydraConfig.get()
        if state.mode != RunMode.MULTIRUN:
            raise UserError(
                "expected -m and the keys to vary, for instance 'python -m stages.sweep -m train_head=lbfgs,adam', "
                "found a single run; add -m"
            )
        overrides = [str(one) for one in state.overrides.task]
        given = dict(one.lstrip("+~").partition("=")[::2] for one in overrides)
        values = {key: given[key] for key in self.varied if key in given}
        chosen = {key: value for key, value in state.runtime.choices.items() if key in SECTIONS}
        about = {"choices": chosen, "overrides": overrides}
        began = time.time()
        name, reason, new = "", "", False
        try:
            sections = validate(cfg, list(SECTIONS), sources())
            stages = {key: run for key, run in self.stages.items() if not self.heads or key in BEFORE}
            name, reason, new = self._do(sections, stages, about, f"{state.job.num}.log")
        except UserError as error:
            reason = str(error)
        seconds = round(time.time() - began, 2) if new else 0.0
        record = Record(state.job.num, values, name, reason, seconds, began)
        write_json(self.folder / f"{record.number}.json", vars(record))
        print(self._status(record), flush=True)

    def finish(self, job: str) -> tuple[str, str]:
        """Fine-tune and evaluate a job that has not been; return the name of the whole job, or why that failed."""
        if not self.heads:
            return job, ""
        result = read_json(FOLDER / "jobs" / job / RESULT)
        sections = {name: SECTIONS[name].validate_python(result["config"][name]) for name in SECTIONS}
        about = {key: result[key] for key in ("choices", "overrides")}
        print("\nThe best head is fine-tuned and evaluated now.", flush=True)
        name, reason, _ = self._do(sections, self.stages, about, "winner.log")
        return name, reason

    def _do(
        self, sections: Mapping[str, Any], stages: Stages, about: Mapping[str, Any], log: str
    ) -> tuple[str, str, bool]:
        """Do a job if it is not done; return its name, why it has failed, and whether anything had to be done.

        Raises:
            UserError: a backbone's weights are not there.
        """
        job = Job(sections, stages, about, self.listing, self.folder / log, self.name)
        if name := finished(job):
            return name, "", False
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.unlink(missing_ok=True)
        try:
            return *worker()(job, wears="finetune" in stages), True
        except WorkerError as error:
            return "", f"{error}; perhaps memory ran out: close other programs, or take a smaller backbone", True

    def _status(self, record: Record) -> str:
        """Say in one line what became of a job, and how long the others may take."""
        records = self.records()  # other processes may have written some
        at = f"{len(records):>{len(str(self.total))}}/{self.total}"
        what = _what(record)
        if record.reason:
            return f"{at}  {what}  failed: {record.reason}"
        accuracy, _ = validation(_outputs(record.job))
        took = f"{record.seconds:.1f} s" if record.seconds else "finished before"
        # By the clock, not by the sum of what they took: jobs may run side by side.
        pace = (time.time() - min(one.began for one in records)) / max(1, sum(one.seconds > 0 for one in records))
        left = (self.total - len(records)) * pace
        remaining = f"  about {_duration(left)} left" if left and record.seconds else ""
        return f"{at}  {what}  validation {accuracy:.1%}  {took}{remaining}"

    def records(self) -> list[Record]:
        """What became of its jobs, in their order."""
        found = [Record(**read_json(file)) for file in self.folder.glob("*.json")]
        return sorted(found, key=lambda one: one.number)


@lru_cache
def worker() -> Worker[Job, tuple[str, str]]:
    """Return the worker of this process: Hydra's launchers may do jobs in several processes."""
    return Worker(perform)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def kept(paths: Paths) -> str:
    """Return which model a job keeps: ``head`` or ``finetuned``."""
    return str(read_json(paths.metrics)["kept"]) if paths.metrics.exists() else "head"


def validation(paths: Paths) -> tuple[float, float]:
    """Return the accuracy and the cross-entropy (nats) on the validation images of the model that a job keeps."""
    found, classes = predictions.read(paths.predictions(MODELS[kept(paths)])), read_json(paths.classes)
    labels = {record.path: classes.index(record.label) for record in manifest.read(paths.manifest)}
    rows = [row for row, split in enumerate(found.splits) if split == "val"]
    true = np.array([labels[found.paths[row]] for row in rows], dtype=np.intp)
    return evidence.accuracy(true, found.probabilities[rows]), evidence.log_loss(true, found.probabilities[rows])


@dataclass(frozen=True)
class Ranked:
    """A configuration of a sweep with what it is ranked by.

    Attributes:
        record: the first one of this configuration.
        accuracy: of the model that is kept, on the validation images.
        loss: its cross-entropy there, in nats.
        kept: which model that is.
        data: the name of the split that it was judged on.
    """

    record: Record
    accuracy: float
    loss: float
    kept: str
    data: str


def ranked(records: Sequence[Record]) -> list[Ranked]:
    """Put finished configurations in order: by validation accuracy, of equals by the lower cross-entropy there.

    The same configuration, written in two ways, counts once. The test images have no say.
    """
    found = []
    for record in {one.job: one for one in reversed(records) if one.job}.values():
        paths = _outputs(record.job)
        found.append(Ranked(record, *validation(paths), kept(paths), (paths.root / "prepare").resolve().name))
    return sorted(found, key=lambda one: (-one.accuracy, one.loss, one.record.number))


def table(ranking: Sequence[Ranked], varied: Sequence[str]) -> list[list[str]]:
    """Lay the ranking out: a header, and a row for each configuration."""
    header = ["rank", *varied, "validation", "loss", "kept", "job"]
    return [header] + [
        [
            str(place),
            *(one.record.values.get(key, "") for key in varied),
            f"{one.accuracy:.1%}",
            f"{one.loss:.4f}",
            one.kept,
            one.record.job[:SHORT],
        ]
        for place, one in enumerate(ranking, 1)
    ]


def summary(ranking: Sequence[Ranked], records: Sequence[Record], varied: Sequence[str], winner: Paths | None) -> str:
    """Return the ranked table, the winner with its test figure, and what failed.

    Args:
        ranking: the finished configurations, the best first.
        records: of all jobs.
        varied: the keys to show.
        winner: the outputs of the best one; None if there are none.
    """
    lines: list[str] = []
    if ranking:
        rows = table(ranking, varied)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.append("")
    if len({one.data for one in ranking}) > 1:
        lines.append("The jobs differ in the split of the data, so their validation figures are of different images.")
    if ranking and winner is not None:
        lines += _winner(ranking, winner)
    if failed := [one for one in records if one.reason]:
        lines += ["", f"{len(failed)} of {len(records)} jobs failed; the same command tries them again:"]
        lines += [f"  {_what(one)}: {one.reason}" for one in failed]
    return "\n".join(lines).strip("\n") + "\n"


def _winner(ranking: Sequence[Ranked], winner: Paths) -> list[str]:
    best, name = ranking[0], winner.root.name[:SHORT]
    metrics = read_json(winner.metrics)
    model = metrics["kept"]
    test = metrics[model]
    count = f"the best of {len(ranking)} configurations" if len(ranking) > 1 else "one configuration"
    flatters = ", which flatters the best of many" if len(ranking) > 1 else ""
    tuned = f"; fine-tuned: {validation(winner)[0]:.1%}" if model != best.kept else ""
    return [
        f"Winner: job {name}, {count} by validation accuracy ({best.accuracy:.1%}{flatters}{tuned}).",
        f"On {metrics['n_test']} test images, which chose nothing: {test['accuracy']:.1%} "
        f"({test['accuracy_low']:.1%} to {test['accuracy_high']:.1%}).",
        f"To make it the project's configuration: python -m stages.sweep --promote {name}",
    ]


def _what(record: Record) -> str:
    return " ".join(f"{key}={value}" for key, value in record.values.items())


def conclude(sweep: Sweep) -> bool:
    """Rank the jobs of a sweep, write, print and publish its summary; return whether all jobs have succeeded."""
    records, varied = sweep.records(), list(sweep.varied)
    if not records:  # Hydra was asked for something else: --help, --cfg job
        return True
    ranking = ranked(records)
    name, reason = sweep.finish(ranking[0].record.job) if ranking else ("", "")
    text = summary(ranking, records, varied, _outputs(name) if name else None)
    if reason:
        text += f"\nThe best of them could not be finished: {reason}\n"
    with atomic(sweep.folder / "summary.txt") as partial:
        partial.write_text(text, encoding="utf-8")
    cells = io.StringIO()
    csv.writer(cells, lineterminator="\n").writerows(table(ranking, varied))
    with atomic(sweep.folder / "table.csv") as partial:
        partial.write_text(cells.getvalue(), encoding="utf-8")
    if ranking and varied:
        lines = [([one.record.values.get(key, "") for key in varied], one.accuracy) for one in ranking]
        with atomic(sweep.folder / "parallel.svg") as partial:
            partial.write_text(coordinates.picture(varied, lines, "validation"), encoding="utf-8")
    print(f"\n{text}", end="")
    jobs = [name] * bool(name) if sweep.heads else [one.record.job for one in ranking]
    published = [(_outputs(job), read_json(_outputs(job).root / RESULT)["config"]) for job in jobs]
    tracking.publish_sweep(sweep.name, sweep.title, published, len(ranking), sweep.folder)
    return not reason and not any(one.reason for one in records)


def _outputs(job: str) -> Paths:
    """Return the outputs of a finished job."""
    return Paths(DATA, FOLDER / "jobs" / job)
