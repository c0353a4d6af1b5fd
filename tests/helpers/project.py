"""A copy of the project in a folder of its own, with toy data and a toy backbone, for the tests that run real DVC."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

import tasks
from tests.helpers import options
from thaw.artifacts import PROJECT, Paths

PIPELINE: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
CODE = sorted(
    path.relative_to(PROJECT).as_posix()
    for folder in ("thaw", "stages")
    for path in PROJECT.glob(f"{folder}/**/*.py")
    if path.stem != "__init__"
)

# What a module reads by its name.
READ = {
    "thaw/audit/review.py": {
        f"thaw/audit/{name}" for name in ("classes.js", "corrections.js", "review.html.j2", "review.js")
    },
    "thaw/evidence/report.py": {"thaw/evidence/card.md.j2", "thaw/evidence/report.html.j2"},
    "thaw/runs/registry.py": {"thaw/models/serving.py"},
}

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}
OPTIONS = {
    "dataset/squares": {"val": 0.2, "test": 0.2, "min_images": 3, "max_megapixels": 1},
    "backbone/toy": options.BACKBONE | {"engine": "auto"},
    "backbone/toy_48px": options.BACKBONE | {"engine": "auto", "input_size": 48},
    "finetune/toy": options.FINETUNE,
}
CHOICES = {
    "dataset": "squares",
    "backbone": "toy",
    "augment": "none",
    "train_head": "lbfgs",
    "finetune": "toy",
    "evaluate": "default",
    "seed": 0,
}

# A sweep that is small.
SWEEP = ("-m", "train_head=lbfgs,adam", "finetune.learning_rate=1e-4,1e-3", "finetune.epochs=2")


def squares(folder: Path, per_class: int = 30, side: int = 48) -> Path:
    """Write squares of one noisy colour, in a folder for each colour."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.clip(random.normal(colour, 25, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


def imports(file: str) -> set[str]:
    """The files of thaw/ and stages/ that a file imports, also inside its functions; both relative to the project."""
    found = set()
    for node in ast.walk(ast.parse((PROJECT / file).read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                modules = [name.name for name in names]
            case ast.ImportFrom(module=str(package), names=names):
                modules = [package, *(f"{package}.{name.name}" for name in names)]
            case _:
                continue
        paths = (f"{module.replace('.', '/')}.py" for module in modules)
        found |= {path for path in paths if path.startswith(("thaw/", "stages/")) and (PROJECT / path).is_file()}
    return found


def closure(file: str) -> set[str]:
    """A file and all files of thaw/ and stages/ that running it reads: what it imports, and ``READ``."""
    found, waiting = set(), {file}
    while waiting:
        found |= waiting
        waiting = set().union(*map(imports, waiting)) - found
    return found.union(*(READ[file] for file in found & {*READ}))


def place(file: str) -> str:
    """The room of thaw/ that a file is in; of others, the file."""
    room = Path(file).parent.as_posix()
    return room if room.startswith("thaw/") else file


def used_by(stage: str) -> set[str]:
    """The code that a stage uses: its own file, rooms of thaw/ and what these use, and the modules beside them."""
    found, waiting = set(), {f"stages/{stage}.py"}
    while waiting:
        found |= waiting
        files = {file for file in CODE if place(file) in waiting}
        waiting = {place(file) for file in set().union(*map(imports, files))} - found
    return found


@dataclass(frozen=True)
class Project:
    """A checkout of its own: Git, DVC with its cache, data, artifacts and thaw's cache, all below ``root``.

    Attributes:
        root: the folder.
        variables: environment variables beside those that a clean shell has.
    """

    root: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> Paths:
        """Its data and artifacts."""
        return Paths(self.root / "data", self.root / "artifacts")

    @property
    def lock(self) -> str:
        """What DVC has recorded."""
        return (self.root / "dvc.lock").read_text(encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """The environment of its commands: this Python first, and nothing from the project that runs the tests.

        Training is not followed live unless ``variables`` say so: it takes seconds, and few tests are about it.
        """
        private = ("THAW_", "MLFLOW_", "HYDRA_", "DVC_", "GIT_", "PYTHONPATH", "COVERAGE_", "COV_")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(private)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "DVC_SITE_CACHE_DIR": str(self.root / ".site"), "THAW_LIVE": "0"}
        return clean | own | self.variables

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, whatever comes of it."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment() | variables,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )

    @contextmanager
    def started(self, *command: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
        """Start a command in it, and end it with the block if it is still running then."""
        with subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment() | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def shell(self, *command: str, **variables: str) -> str:
        """Run a command that has to succeed, and return what it said."""
        done = self.run(*command, **variables)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def dvc(self, *arguments: str) -> str:
        """Run a DVC command that has to succeed, and return what it said."""
        return self.shell(sys.executable, "-m", "dvc", *arguments)

    def repro(self, *arguments: str) -> list[str]:
        """Bring the pipeline up to date and return the stages that ran, in order."""
        return ran(self.dvc("repro", *arguments))

    def stage(self, name: str, *overrides: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one stage as DVC does, whatever comes of it."""
        return self.run(sys.executable, "-m", f"stages.{name}", *overrides, **variables)

    def bash(self, commands: str, **variables: str) -> str:
        """Run commands as a page prints them; all have to succeed. Returns what they said."""
        return self.shell("bash", "-euo", "pipefail", "-c", commands, **variables)

    def install(self) -> None:
        """Give it the environment that runs the tests as its own, as ``make setup`` would."""
        venv = self.root / ".venv"
        venv.mkdir()
        for entry in Path(sys.prefix).iterdir():
            if entry.name != ".ready":
                (venv / entry.name).symlink_to(entry)
        (venv / ".ready").write_text(tasks.origin(self.root), encoding="utf-8")

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace the one place in a file that matches the regular expression ``old``."""
        path = self.root / file
        text, count = re.subn(old, new, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert count == 1, f"expected {old!r} once in {file}, found it {count} times"
        path.write_text(text, encoding="utf-8")

    @contextmanager
    def appended(self, file: str, text: str) -> Iterator[None]:
        """Add to a file for as long as the block lasts."""
        path = self.root / file
        before = path.read_bytes()
        path.write_bytes(before + text.encode())
        try:
            yield
        finally:
            path.write_bytes(before)

    def commit(self) -> None:
        """Commit everything that Git does not ignore."""
        self.shell("git", "add", "--all")
        self.shell("git", "commit", "--quiet", "--message", "state")

    def copy(self, root: Path, **variables: str) -> "Project":
        """The same project, data and artifacts in another folder, for a test to change."""
        shutil.copytree(self.root, root, symlinks=True, ignore=shutil.ignore_patterns(".site", "__pycache__"))
        return Project(root, variables or self.variables)


def printed(page: str, heading: str) -> list[str]:
    """The blocks of commands that a page prints below a heading of the second order."""
    text = (PROJECT / page).read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def ran(output: str) -> list[str]:
    """The stages that a DVC command executed, in order."""
    return re.findall(r"^Running stage '(\w+)'", output, re.MULTILINE)


def checkout(root: Path, **variables: str) -> Project:
    """Copy what Git would commit of this project now, without data and results, and choose the toy options."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (PROJECT / name).is_file() and not name.startswith("artifacts/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, root / name)
    for name in ("dvc.lock", "data.dvc", "config.log"):
        (root / name).unlink(missing_ok=True)
    for name, option in OPTIONS.items():
        (root / "conf" / f"{name}.yaml").write_text(yaml.safe_dump(option, sort_keys=False), encoding="utf-8")
    (root / "params.yaml").write_text(yaml.safe_dump(CHOICES, sort_keys=False), encoding="utf-8")
    return Project(root, variables)


def repository(root: Path, **variables: str) -> Project:
    """``checkout`` as a Git and DVC repository, with squares for data, ready for ``dvc repro``."""
    project = checkout(root, **variables)
    squares(root / "data")
    with (root / ".gitignore").open("a", encoding="utf-8") as file:
        file.write("/.site/\n")
    project.shell("git", "init", "--quiet")
    for key, value in (("user.name", "t"), ("user.email", "t@localhost"), ("commit.gpgsign", "false")):
        project.shell("git", "config", key, value)
    project.dvc("add", "--quiet", "data")
    project.commit()
    return project
