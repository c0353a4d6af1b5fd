"""Where everything lies, and writers that never leave a half-written file.

``Paths`` names every file that one stage hands to another. A stage's folder appears whole or not at all: it is written
under a temporary name and renamed when the stage is done.
"""

import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

PROJECT = Path(__file__).resolve().parent.parent
STAGES = ("prepare", "extract_features", "audit", "train_head", "finetune", "evaluate")
# Windows renames nothing that somebody has open, if only a scanner that looks at what is new: seconds between tries.
PAUSES = (0.1, 0.3, 1.0, 3.0) if os.name == "nt" else ()


def workspace() -> Path:
    """The checkout that owns caches and runs, also from inside ``dvc exp run --temp`` or ``--queue``.

    DVC runs those in ``<project>/.dvc/tmp/exps/<name>``; what is written there is thrown away afterwards.
    """
    for parent in PROJECT.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return PROJECT


def git(*arguments: str) -> str | None:
    """Return what a Git command says about the project; None where it fails, or there is no Git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.decode("utf-8", "replace")


def cache() -> Path:
    """The folder of everything that can be computed again: features, converted networks, training checkpoints."""
    folder = Path(os.environ.get("THAW_CACHE", workspace() / ".cache")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Paths:
    """The files of one pipeline run; the defaults are those that ``dvc.yaml`` tracks."""

    data: Path = PROJECT / "data"
    root: Path = PROJECT / "artifacts"

    @property
    def manifest(self) -> Path:
        """One row per usable image, see ``thaw.data.manifest``."""
        return self.root / "prepare" / "manifest.csv"

    @property
    def classes(self) -> Path:
        """The class names; a class's number is its place in this list."""
        return self.root / "prepare" / "classes.json"

    @property
    def refused(self) -> Path:
        """The files that are no usable images, with the reason."""
        return self.root / "prepare" / "refused.csv"

    @property
    def contradictory(self) -> Path:
        """Those of them that show the same and are in different classes, as in the manifest."""
        return self.root / "prepare" / "contradictory.csv"

    @property
    def features(self) -> Path:
        """Bottleneck features: images, in the order of the manifest × views × features."""
        return self.root / "extract_features" / "features.npy"

    @property
    def backbone(self) -> Path:
        """The network that made them as OpenVINO IR (images → features, perhaps more); a .bin lies beside it."""
        return self.root / "extract_features" / "backbone.xml"

    @property
    def mixes(self) -> Path:
        """What the views are mixed with, see ``thaw.networks.outputs.Mixes``."""
        return self.root / "extract_features" / "mixes.npy"

    @property
    def texts(self) -> Path:
        """What the network makes of the class names, see ``thaw.networks.texts``; only where there are prompts."""
        return self.root / "extract_features" / "texts.npy"

    @property
    def findings(self) -> Path:
        """What the data say about themselves, see ``thaw.audit.findings.Findings``."""
        return self.root / "audit" / "findings.json"

    @property
    def copies(self) -> Path:
        """The copies that were found among the images, as corrections."""
        return self.root / "audit" / "copies.csv"

    @property
    def head(self) -> Path:
        """The trained head."""
        return self.root / "train_head" / "head.h5"

    @property
    def model(self) -> Path:
        """The weights of the whole fine-tuned classifier."""
        return self.root / "finetune" / "model.weights.h5"

    @property
    def network(self) -> Path:
        """The whole fine-tuned classifier as OpenVINO IR (images → logits); a .bin lies beside it."""
        return self.root / "finetune" / "model.xml"

    @property
    def finished(self) -> Path:
        """The folder of the model that is kept, see ``thaw.models.portable``."""
        return self.root / "evaluate" / "model"

    @property
    def figures(self) -> Path:
        """All figures of the comparison, see ``thaw.evidence.comparison.compare``."""
        return self.root / "evaluate" / "figures.json"

    @property
    def metrics(self) -> Path:
        """The few of them that ``dvc metrics show`` shows, see ``thaw.evidence.comparison.metrics``."""
        return self.root / "evaluate" / "metrics.json"

    @property
    def environment(self) -> Path:
        """What they were computed with, see ``thaw.machine.environment``."""
        return self.root / "evaluate" / "environment.json"

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.root / "evaluate" / "report.html"

    @property
    def verification(self) -> Path:
        """The picture of whether it is still the committed result, see ``thaw.evidence.verification``."""
        return self.root / "verification.svg"

    @property
    def summary(self) -> Path:
        """The table that ends ``make repro``."""
        return self.root / "evaluate" / "summary.txt"

    def config(self, stage: str) -> Path:
        """The configuration that ``stage`` ran with."""
        return self.root / stage / "config.json"

    def stored(self, stage: str) -> Path:
        """What the network outputs that ``extract_features`` or ``finetune`` used take in the feature store."""
        return self.root / stage / "meta.json"

    def history(self, stage: str) -> Path:
        """The learning curve of ``train_head`` or ``finetune``."""
        return self.root / stage / "history.csv"

    def predictions(self, stage: str) -> Path:
        """The validation and test predictions of ``train_head`` or ``finetune``, see ``thaw.learning.predictions``."""
        return self.root / stage / "predictions.csv"

    def probabilities(self, stage: str) -> Path:
        """The array of all their probabilities."""
        return self.predictions(stage).with_suffix(".npy")

    @contextmanager
    def stage(self, name: str, **sections: Any) -> Iterator[Path]:
        """Yield a folder to write ``name``'s outputs to; it becomes ``root/name`` only if the stage succeeds.

        ``sections`` are the typed configuration the stage was given; they are kept beside its outputs as
        ``config.json``, so that ``evaluate`` can tell the whole story from files.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        final, partial = self.root / name, self.root / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            write_json(partial / "config.json", plain(sections))
            if final.exists():
                shutil.rmtree(final)
            rename(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def plain(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Typed sections of the configuration as plain values, which is how files and MLflow have them."""
    return {
        name: value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value
        for name, value in sections.items()
    }


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder; a file at ``target`` is replaced. Where Windows refuses it for a moment, try again."""
    for pause in PAUSES:
        try:
            source.replace(target)
        except PermissionError:
            time.sleep(pause)
        else:
            return
    source.replace(target)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` and rename it to ``path`` when the block ends without an error.

    It may become a file or a folder; what was at ``path`` before is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(8)}.{path.name}")  # not a pid: another machine may have the same
    try:
        yield partial
        if path.is_dir():
            shutil.rmtree(path)
        rename(partial, path)
    finally:
        with suppress(PermissionError):  # Windows: somebody has it open; why the block failed matters more
            if partial.is_dir():
                shutil.rmtree(partial)
            partial.unlink(missing_ok=True)


@contextmanager
def alone(lock: Path, patience: float) -> Iterator[None]:
    """Let one process at a time into the block; wait for at most ``patience`` seconds.

    SQLite's exclusive lock is a portable file lock that the system lets go of when its owner dies, however that ends.
    It holds between machines if the file system that they share has such locks (NFS 4 does).

    Args:
        lock: a file for it, which stays.
        patience: in seconds.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(lock, timeout=patience, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def fingerprint(*parts: BaseModel | Path | str | int | None) -> str:
    """A hash of configuration, values and the contents of files."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        else:
            digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()[:24]


def write_text(path: Path, text: str) -> None:
    """Write a text, the same bytes on every system: UTF-8, and lines that end as they do here."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    """Write ``value`` as JSON, byte for byte the same for the same value (keys in the order given)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that ``write_json`` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
