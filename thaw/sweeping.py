"""Sweeps: many configurations, each computed as little as possible, and none lost.

A job is one configuration of all stages. Its stages' outputs lie in folders that are named by what they depend on, so
jobs with the same beginning (the same data, features or head) share it, and what was computed once is found again:
by the next job, by the same sweep after a kill, and by another sweep.

    multirun/stages/<stage>/<key>/    the outputs of a stage, as ``artifacts/<stage>`` has them
    multirun/jobs/<job>/              a finished job: links to its stages, and result.json
    multirun/sweeps/<sweep>/          a record and a log of each job; summary.txt, table.csv, parallel.svg

The stages are handed in by ``stages.sweep``; the library knows none of them. Which configurations there are is the
matter of ``thaw.searching``; Hydra's launchers do the jobs, wherever they are told to.
"""

import csv
import inspect
import io
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from thaw import coordinates, tracking
from thaw.artifacts import PROJECT, Paths, alone, atomic, fingerprint, plain, read_json, rename, write_json, write_text
from thaw.backbones import FrozenNetwork, weights_at_hand
from thaw.config import CONF, SECTIONS, sources, validate
from thaw.errors import UserError
from thaw.ranking import JUDGED, RESULT, SHORT, Ranked, Record, configuration, ranked, shown, summary, table, validation
from thaw.worker import Worker, WorkerError

FOLDER, DATA = PROJECT / "multirun", PROJECT / "data"
PATIENCE = 7 * 24 * 60 * 60  # seconds that a job waits for a stage that another one is at
# What is compared, and the stages that it takes; the last one's folder gives a job its name.
RANKS = {
    "backbone": ("prepare", "extract_features", "probe"),
    "head": ("prepare", "extract_features", "train_head"),
    "model": ("prepare", "extract_features", "train_head", "finetune", "evaluate"),
}

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


def listing(data: Path) -> str:
    """Hash the names, sizes and times of all data files: another hash means that they may have changed."""
    lines = []
    for folder, _, names in os.walk(data):
        for name in names:
            stat = os.stat(Path(folder, name))  # noqa: PTH116 - a walk of 100,000 files
            lines.append(f"{Path(folder, name).relative_to(data).as_posix()} {stat.st_size} {stat.st_mtime_ns}")
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
        folder = FOLDER / "stages" / name / fingerprint(_code(name, run), *sections.values(), *network, *before)
        yield name, sections, folder
        # What prepare has found counts, not when the files were last touched.
        before = sorted(folder.iterdir()) if name == "prepare" else [folder.name]


@lru_cache
def _code(stage: str, run: Callable[..., None]) -> str:
    """Hash the code that a stage depends on; a probe trains heads, and adds a file of its own."""
    pipeline = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = pipeline[stage if stage in pipeline else "train_head"]["deps"]
    files = {PROJECT / one for one in named if one.startswith(("thaw/", "stages/"))}
    return fingerprint(*sorted(files | {Path(inspect.getfile(run))}))


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
        rename(root / name, out)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _link(done: Mapping[str, Path], folder: Path) -> None:
    for name, place in done.items():
        try:
            (folder / name).symlink_to(os.path.relpath(place, folder), target_is_directory=True)
        except OSError:  # Windows lets only some users make links
            shutil.copytree(place, folder / name, copy_function=_name_or_copy)


def _name_or_copy(source: str, target: str) -> None:
    """Give a file a second name, which takes no disk; copy it where the file system knows one name for a file only."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@dataclass
class Sweep:
    """A sweep while it runs, as Hydra's sweeper and its jobs see it.

    Attributes:
        stages: all that jobs may run, by name.
        name: a hash of what was asked for; empty until it begins.
        title: what was asked for.
        rank: what is compared: one of ``RANKS``.
        varied: the keys that vary.
        total: how many jobs there are, if none is given up.
        listing: the state of the data.
    """

    stages: Stages
    name: str = ""
    title: str = ""
    rank: str = "model"
    varied: Sequence[str] = ()
    total: int = 0
    listing: str = ""

    def begin(self, asked: Sequence[str], rank: str, varied: Iterable[str], total: int) -> None:
        """Take what Hydra was asked for, and forget what an earlier run of the same sweep has recorded."""
        self.title, self.rank, self.total = " ".join(asked), rank, total
        self.varied = [key.lstrip("+~") for key in varied]
        self.name = fingerprint(self.title)[:SHORT]
        self.listing = listing(DATA)
        for record in self.folder.glob("*.json"):
            record.unlink()
        print(f"Sweep {self.name}: {total} job{'s' * (total > 1)}", flush=True)

    @property
    def folder(self) -> Path:
        """Where its records are."""
        return FOLDER / "sweeps" / self.name

    def job(self, cfg: DictConfig) -> float | None:
        """Do one job, whatever comes of it, record that, and say it in one line.

        Returns:
            The accuracy that it is ranked by; None if it failed.

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
        chosen = {key: value for key, value in state.runtime.choices.items() if key in SECTIONS}
        about = {"choices": chosen, "overrides": overrides}
        began = time.time()
        name, reason, new = "", "", False
        try:
            sections = validate(cfg, list(SECTIONS), sources())
            name, reason, new = self._do(sections, cfg.rank, about, f"{state.job.num}.log")
        except UserError as error:
            reason = str(error)
        seconds = round(time.time() - began, 2) if new else 0.0
        values = self._values(overrides)
        return self._recorded(Record(state.job.num, values, name, reason, cfg.rank, seconds, began))

    def refuse(self, number: int, overrides: Sequence[str], reason: str) -> None:
        """Record and say that a job cannot even be begun."""
        self._recorded(Record(number, self._values(overrides), "", reason, self.rank, 0.0, time.time()))

    def _values(self, overrides: Sequence[str]) -> dict[str, str]:
        """Return what a job has for the keys that vary; several seeds of one configuration vary as well."""
        given = dict(one.lstrip("+~").partition("=")[::2] for one in overrides)
        return {key: given[key] for key in dict.fromkeys((*self.varied, "seed")) if key in given}

    def _recorded(self, record: Record) -> float | None:
        write_json(self.folder / f"{record.number}.json", vars(record))
        accuracy = None if record.reason else validation(_outputs(record.job))[0]
        print(self._status(record, accuracy), flush=True)
        return accuracy

    def finish(self, job: str) -> tuple[str, str]:
        """Fine-tune and evaluate the best head; return the name of the whole job, or why that failed."""
        result = read_json(FOLDER / "jobs" / job / RESULT)
        sections = {name: SECTIONS[name].validate_python(result["config"][name]) for name in SECTIONS}
        about = {key: result[key] for key in ("choices", "overrides")}
        print("\nThe best head is fine-tuned and evaluated now.", flush=True)
        name, reason, _ = self._do(sections, "model", about, "winner.log")
        return name, reason

    def _do(self, sections: Mapping[str, Any], rank: str, about: Mapping[str, Any], log: str) -> tuple[str, str, bool]:
        """Do a job if it is not done; return its name, why it has failed, and whether anything had to be done.

        Raises:
            UserError: a backbone's weights are not there.
        """
        stages = {name: self.stages[name] for name in RANKS[rank]}
        job = Job(sections, stages, about, self.listing, self.folder / log, self.name)
        if name := finished(job):
            return name, "", False
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.unlink(missing_ok=True)
        try:
            return *worker()(job, wears="finetune" in stages), True
        except WorkerError as error:
            return "", f"{error}; perhaps memory ran out: close other programs, or take a smaller backbone", True

    def _status(self, record: Record, accuracy: float | None) -> str:
        """Say in one line what became of a job, and how long the others may take."""
        records = self.records()  # other processes may have written some
        at = f"{len(records):>{len(str(self.total))}}/{self.total}"
        what = record.what + "  head alone" * (record.rank != self.rank)
        if accuracy is None:
            return f"{at}  {what}  failed: {record.reason}"
        took = f"{record.seconds:.1f} s" if record.seconds else "finished before"
        # By the clock, not by the sum of what they took: jobs may run side by side.
        pace = (time.time() - min(one.began for one in records)) / max(1, sum(one.seconds > 0 for one in records))
        left = (self.total - len(records)) * pace
        remaining = f"  about {_duration(left)} left" if left and record.seconds else ""
        return f"{at}  {what}  {JUDGED[self.rank]} {accuracy:.1%}  {took}{remaining}"

    def records(self) -> list[Record]:
        """What became of its jobs, in their order."""
        found = [Record(**read_json(file)) for file in self.folder.glob("*.json")]
        return sorted(found, key=lambda one: one.number)


def at_hand() -> list[str]:
    """Return the options of conf/backbone/ whose weights are on this machine."""
    found = []
    for file in sorted((CONF / "backbone").glob("*.yaml")):
        option = yaml.safe_load(file.read_text(encoding="utf-8"))
        if weights_at_hand(option["weights"], option["network"], option["alpha"]):
            found.append(file.stem)
    return found


OmegaConf.register_new_resolver("at_hand", lambda: ",".join(at_hand()), replace=True)  # conf/experiment/backbones.yaml


@lru_cache
def worker() -> Worker[Job, tuple[str, str]]:
    """Return the worker of this process: Hydra's launchers may do jobs in several processes."""
    return Worker(perform)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def conclude(sweep: Sweep) -> bool:
    """Rank the jobs of a sweep, write, print and publish its summary; return whether all jobs have succeeded."""
    records = sweep.records() if sweep.name else []
    if not records:  # Hydra was asked for something else: --help, --cfg job
        return True
    outcomes = [(record, _outputs(record.job)) for record in records]
    ranking = ranked(outcomes, sweep.rank)
    winners, reason = [one.job for one in ranking[0].records] if ranking else [], ""
    if ranking and sweep.rank == "head":
        name, reason = sweep.finish(winners[0])
        winners = [name] * bool(name)
    whole = [_outputs(job) for job in winners if sweep.rank != "backbone"]
    text = summary(ranking, outcomes, sweep.varied, whole)
    if reason:
        text += f"\nThe best of them could not be finished: {reason}\n"
    write_text(sweep.folder / "summary.txt", text)
    cells = io.StringIO()
    csv.writer(cells, lineterminator="\n").writerows(table(ranking, sweep.varied) if ranking else [])
    write_text(sweep.folder / "table.csv", cells.getvalue())
    if ranking and (keys := shown(ranking, sweep.varied)):
        lines = [([one.records[0].values.get(key, "") for key in keys], one.accuracy) for one in ranking]
        write_text(sweep.folder / "parallel.svg", coordinates.picture(keys, lines, JUDGED[sweep.rank]))
    print(f"\n{text}", end="")
    _publish(sweep, records, ranking, whole)
    return not reason and not any(one.reason for one in records)


def _publish(sweep: Sweep, records: Sequence[Record], ranking: Sequence[Ranked], whole: Sequence[Paths]) -> None:
    """Publish a sweep; ``whole`` are the outputs of the best configuration's whole jobs."""
    figures = {"configurations": float(len(ranking))}
    if ranking:
        figures[JUDGED[sweep.rank].replace("-", "_")] = ranking[0].accuracy
    if whole:
        metrics = [read_json(one.figures) for one in whole]
        figures["accuracy"] = sum(one[one["kept"]]["accuracy"] for one in metrics) / len(metrics)
    done = [_outputs(job) for job in dict.fromkeys([*(one.root.name for one in whole), *_jobs(records, "model")])]
    covered = {configuration(one) for one in done}
    parts = [_outputs(job) for part in ("head", "backbone") for job in _jobs(records, part)]
    tracking.publish_sweep(
        sweep.name,
        sweep.title,
        [(one, read_json(one.root / RESULT)["config"]) for one in done],
        [_part(one) for one in parts if configuration(one) not in covered],
        figures,
        sweep.folder,
    )


def _jobs(records: Sequence[Record], rank: str) -> list[str]:
    return [one.job for one in records if one.job and one.rank == rank]


def _part(paths: Paths) -> tuple[Paths, dict[str, Any], dict[str, float]]:
    """Return the outputs of a job that fine-tunes nothing, its configuration, and figures for MLflow."""
    config = read_json(paths.root / RESULT)["config"] | {"finetune": {"unfreeze": "none"}}
    accuracy, loss = validation(paths)
    if paths.predictions("probe").exists():
        return paths, config | {"rank": "backbone"}, {"probe/accuracy": accuracy, "probe/log_loss": loss}
    return paths, config, {"head/val_accuracy": accuracy, "head/val_log_loss": loss}


def _outputs(job: str) -> Paths:
    """Return the outputs of a finished job."""
    return Paths(DATA, FOLDER / "jobs" / job)
