"""Sweeps: many configurations, each computed as little as possible, ranked, and none lost.

    multirun/sweeps/<sweep>/          a record and a log of each job; summary.txt, tables and pictures

The stages are handed in by ``stages.sweep``; the library knows none of them. Which configurations there are is the
matter of ``search``; Hydra's launchers do the jobs, wherever they are told to.
"""

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from thaw.artifacts import STAGES, Paths, fingerprint, read_json, write_json, write_text
from thaw.config.composing import CONF, sources, validate
from thaw.config.schema import SECTIONS
from thaw.errors import UserError
from thaw.networks.weights import weights_at_hand
from thaw.sweeps import jobs, picture, publication, seeds, speed
from thaw.sweeps.jobs import Job, Stages
from thaw.sweeps.process import Worker, WorkerError
from thaw.sweeps.ranking import (
    JUDGED,
    RESULT,
    SHORT,
    Ranked,
    Record,
    configuration,
    front,
    ranked,
    shown,
    summary,
    table,
    validation,
)

# What is compared, and the stages that it takes; the last one's folder gives a job its name.
RANKS = {
    "backbone": ("prepare", "extract_features", "probe"),
    "head": STAGES[: STAGES.index("train_head") + 1],
    "model": STAGES,
}


@dataclass
class Sweep:
    """A sweep while it runs, as Hydra's sweeper and its jobs see it.

    Attributes:
        stages: all that jobs may run, by name.
        held: overrides that only jobs are given, see ``search.hold_back``.
        name: a hash of what was asked for; empty until it begins.
        title: what was asked for.
        rank: what is compared: one of ``RANKS``.
        varied: the keys that vary.
        total: how many jobs there are, if none is given up.
        listing: the state of the data.
    """

    stages: Stages
    held: Sequence[str] = ()
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
        self.listing = jobs.listing(jobs.DATA)
        for record in self.folder.glob("*.json"):
            record.unlink()
        print(f"Sweep {self.name}: {total} job{'s' * (total > 1)}", flush=True)

    @property
    def folder(self) -> Path:
        """Where its records are."""
        return jobs.FOLDER / "sweeps" / self.name

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
        accuracy = None if record.reason else validation(jobs.outputs(record.job))[0]
        print(self._status(record, accuracy), flush=True)
        return accuracy

    def finish(self, job: str) -> tuple[str, str]:
        """Fine-tune and evaluate the best head; return the name of the whole job, or why that failed."""
        result = read_json(jobs.FOLDER / "jobs" / job / RESULT)
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
        if name := jobs.finished(job):
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
    return Worker(jobs.perform)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def conclude(sweep: Sweep) -> bool:
    """Rank the jobs of a sweep, write, print and publish its summary; return whether all jobs have succeeded."""
    records = sweep.records() if sweep.name else []
    if not records:  # Hydra was asked for something else: --help, --cfg job
        return True
    outcomes = [(record, jobs.outputs(record.job)) for record in records]
    ranking = ranked(outcomes, sweep.rank)
    if sweep.rank == "backbone":
        ranking = _timed(ranking)
    winners, reason = [one.job for one in ranking[0].records] if ranking else [], ""
    if ranking and sweep.rank == "head":
        name, reason = sweep.finish(winners[0])
        winners = [name] * bool(name)
    whole = [jobs.outputs(job) for job in winners if sweep.rank != "backbone"]
    text = summary(ranking, outcomes, sweep.varied, whole)
    keys = shown(ranking, sweep.varied) if ranking else []
    repeated = seeds.of(ranking[0]) if seeds.several(ranking) else None
    if repeated:
        text += "\n" + "\n".join(seeds.said(repeated)) + "\n"
    if reason:
        text += f"\nThe best of them could not be finished: {reason}\n"
    write_text(sweep.folder / "summary.txt", text)
    _write_csv(sweep.folder / "table.csv", table(ranking, sweep.varied) if ranking else [])
    if keys:
        lines = [([one.records[0].values.get(key, "") for key in keys], one.accuracy) for one in ranking]
        write_text(sweep.folder / "parallel.svg", picture.picture(keys, lines, JUDGED[sweep.rank]))
    if any(one.milliseconds for one in ranking):
        write_text(sweep.folder / "cost.svg", picture.cost(_points(ranking, keys), JUDGED[sweep.rank]))
    if repeated:
        _write_csv(sweep.folder / "seeds.csv", seeds.rows(repeated))
    if repeated and repeated.is_tuned:
        write_text(sweep.folder / "seeds.svg", picture.seeds(repeated))
    print(f"\n{text}", end="")
    _publish(sweep, records, ranking, whole, repeated.figures() if repeated else {})
    return not reason and not any(one.reason for one in records)


def _timed(ranking: Sequence[Ranked]) -> list[Ranked]:
    """Measure what an image costs each backbone, while no job is at work."""
    worker().stop()  # with what it holds of a GPU
    configs = [read_json(one.jobs[0].root / RESULT)["config"]["backbone"] for one in ranking]
    try:
        times = speed.milliseconds([SECTIONS["backbone"].validate_python(config) for config in configs])
    except UserError as error:  # its weights are gone since
        print(f"\nThe networks' speed cannot be measured: {error}")
        return list(ranking)
    return [replace(one, milliseconds=time) for one, time in zip(ranking, times, strict=True)]


def _points(ranking: Sequence[Ranked], keys: Sequence[str]) -> list[picture.Point]:
    """Return what there is to draw of backbones, the best first."""
    worth = [one.records[0].job for one in front(ranking)]
    return [
        picture.Point(
            one.named(keys),
            one.milliseconds,
            one.accuracy,
            one.interval if len(one.jobs) == 1 else None,
            one.records[0].job in worth,
        )
        for one in ranking
    ]


def _write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    cells = io.StringIO()
    csv.writer(cells, lineterminator="\n").writerows(rows)
    write_text(path, cells.getvalue())


def _publish(
    sweep: Sweep,
    records: Sequence[Record],
    ranking: Sequence[Ranked],
    whole: Sequence[Paths],
    repeated: Mapping[str, float],
) -> None:
    """Publish a sweep; ``whole`` are the outputs of the best configuration's whole jobs, ``repeated`` its figures over
    several seeds.
    """
    figures = {"configurations": float(len(ranking)), **repeated}
    if ranking:
        figures[JUDGED[sweep.rank].replace("-", "_")] = ranking[0].accuracy
    if whole:
        metrics = [read_json(one.figures) for one in whole]
        figures["accuracy"] = sum(one[one["kept"]]["accuracy"] for one in metrics) / len(metrics)
    done = [jobs.outputs(job) for job in dict.fromkeys([*(one.root.name for one in whole), *_jobs(records, "model")])]
    covered = {configuration(one) for one in done}
    parts = [jobs.outputs(job) for part in ("head", "backbone") for job in _jobs(records, part)]
    publication.publish_sweep(
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
