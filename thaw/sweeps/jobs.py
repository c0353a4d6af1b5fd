"""Jobs of a sweep. A job is one configuration of all stages.

Its stages' outputs lie in folders that are named by what they depend on (code, configuration, and what the stages
before have left), so jobs with the same beginning share it, and what was computed once is found again: by the next
job, by the same sweep after a kill, and by another sweep.

    multirun/stages/<stage>/<key>/    the outputs of a stage, as ``artifacts/<stage>`` has them
    multirun/jobs/<job>/              a finished job: links to its stages, and result.json

DVC's run cache does the same for the project's own outputs, and is not used here. To DVC a stage's outputs have one
place in a checkout, so jobs side by side would each need a checkout (``dvc exp run --temp``: seconds for each, and a
process for each stage, which imports TensorFlow anew). It leaves out stages with outputs in Git, as ``evaluate`` has
them, and what is no stage, as the probe. And ``dvc gc`` deletes what no commit names, as none names a sweep's.
"""

import inspect
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from thaw.artifacts import PROJECT, Paths, alone, atomic, fingerprint, plain, rename, write_json
from thaw.config.schema import SECTIONS
from thaw.errors import UserError
from thaw.networks.backbones import FrozenNetwork
from thaw.sweeps.ranking import RESULT

FOLDER, DATA = PROJECT / "multirun", PROJECT / "data"
PATIENCE = 7 * 24 * 60 * 60  # seconds that a job waits for a stage that another one is at

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

    The folder's name depends on the code (what ``dvc.yaml`` names), on the stage's sections and on what the
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
    places = [PROJECT / one for one in named if one.startswith(("thaw/", "stages/"))]
    files = {file for place in places for file in (place.rglob("*") if place.is_dir() else [place])}
    written = {file for file in files if file.suffix in (".py", ".j2", ".js")}
    return fingerprint(*sorted(written | {Path(inspect.getfile(run))}))


def finished(job: Job) -> str:
    """Return the name of the job if it is finished, else nothing."""
    folder = FOLDER
    for _, _, folder in folders(job):
        if not folder.is_dir():
            return ""
    return folder.name if (FOLDER / "jobs" / folder.name / RESULT).exists() else ""


def perform(job: Job) -> tuple[str, str]:
    """Do as ``attempt`` does, with all output in the job's log.

    For a process of its own (``process.Worker``): it loses its standard output.
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


def outputs(job: str) -> Paths:
    """Return the outputs of a finished job."""
    return Paths(DATA, FOLDER / "jobs" / job)
