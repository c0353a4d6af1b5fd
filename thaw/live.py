"""Learning curves in MLflow while they grow: each row of a curve goes to a process of its own, which publishes it.

So MLflow costs training neither time nor an error, whatever becomes of the server; and if training is killed, even by
``kill -9``, somebody is left to mark the run. What is published for good is up to ``evaluate``, which works from files.

The process is ``python -m thaw.following``. It reads JSON lines: a first one that says whose curve it is, then
rows, and at last how it ended; if the last one is missing, the training process was killed. ``THAW_LIVE=0`` leaves it
out.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import IO, Any

from thaw.artifacts import PROJECT, Paths
from thaw.history import Row

Report = Callable[[Row], None]


def silent(row: Row) -> None:
    """Tell nobody."""


@contextmanager
def curve(stage: str, paths: Paths, config: Mapping[str, Any]) -> Iterator[Report]:
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
        [sys.executable, "-m", "thaw.following"],
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
