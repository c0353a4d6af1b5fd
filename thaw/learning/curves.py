"""Learning curves: as files, and in MLflow while they grow.

``history.csv`` has one row per epoch (or per candidate that a solver tried). While training runs, each row also goes to
a process of its own, which publishes it. So MLflow costs training neither time nor an error, whatever becomes of the
server; and if training is killed, even by ``kill -9``, somebody is left to mark the run. What is published for good is
up to ``evaluate``, which works from files.

That process is ``python -m thaw.runs.live``. It reads JSON lines: a first one that says whose curve it is, then rows,
and at last how it ended; if the last one is missing, the training process was killed. ``THAW_LIVE=0`` leaves it out.
"""

import contextlib
import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import IO, Any

from thaw.artifacts import PROJECT, Paths, atomic

Row = dict[str, float]
Report = Callable[[Row], None]

FOLLOWER = "thaw.runs.live"  # not imported: who publishes a curve is no part of what is learnt
COLUMNS = ("step", "loss", "accuracy", "val_loss", "val_accuracy")


def row(step: int, train: tuple[float, float], val: tuple[float, float], **more: float) -> Row:
    """One row: the loss (nats) and accuracy on the training and the validation images; NaN where there is none."""
    return dict(zip(COLUMNS, (step, *train, *val), strict=True)) | more


def choose(rows: list[Row], place: int) -> list[Row]:
    """Say at which row the model is that is kept."""
    return [row | {"kept": float(number == place)} for number, row in enumerate(rows)]


def kept(rows: list[Row]) -> int:
    """Where the row is whose model is kept: of a head, the one that was chosen; of fine-tuning, the last one."""
    return next((place for place, row in enumerate(rows) if row.get("kept")), len(rows) - 1)


def write(path: Path, rows: list[Row]) -> None:
    """Write the rows, which all have the same keys; NaN becomes an empty cell."""
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(rows[0])
        for values in rows:
            table.writerow("" if math.isnan(value) else f"{value:.9g}" for value in values.values())


def read(path: Path) -> list[Row]:
    """Read what ``write`` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {key: math.nan if cell == "" else float(cell) for key, cell in values.items()}
            for values in csv.DictReader(file)
        ]


def silent(row: Row) -> None:
    """Tell nobody."""


@contextmanager
def live(stage: str, paths: Paths, config: Mapping[str, Any]) -> Iterator[Report]:
    """Yield what takes the rows of a learning curve.

    Args:
        stage: ``train_head`` or ``finetune``.
        paths: of the pipeline.
        config: of all stages, as plain values: with the manifest, it says which run this is.
    """
    if os.environ.get("THAW_LIVE") == "0" or not paths.manifest.exists():
        yield silent
        return
    # In a session of its own: Ctrl-C is for the training, and the follower still has to say so.
    follower = subprocess.Popen(
        [sys.executable, "-m", FOLLOWER],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # what Windows has for it
    )
    assert follower.stdin is not None and follower.stdout is not None  # noqa: PT018
    Thread(target=_repeat, args=(follower.stdout,), daemon=True).start()

    def send(message: Any) -> None:
        # It is gone if it could not publish, and has said why.
        with contextlib.suppress(OSError):
            follower.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
            follower.stdin.flush()  # type: ignore[union-attr]

    began = time.time()
    send({"stage": stage, "root": str(paths.root), "data": str(paths.data), "config": config, "began": began})
    end = "FAILED"
    try:
        yield send
        end = "SCHEDULED"  # the next stage goes on with the run
    except KeyboardInterrupt:
        end = "KILLED"
        raise
    finally:
        send(end)
        with contextlib.suppress(OSError):
            follower.stdin.close()


def _repeat(lines: IO[str]) -> None:
    """Say here what the follower has to say: its own stderr might keep a pipe open after this process has ended."""
    for line in lines:
        print(line, end="", file=sys.stderr, flush=True)
