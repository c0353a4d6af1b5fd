"""A process of its own for long work, renewed now and then: TensorFlow never gives back all memory of a training.

The process ends with its parent, whatever ends that, and may end without it: then the work at hand has failed, and the
next work gets a new process.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

Work = TypeVar("Work")
Answer = TypeVar("Answer")

RENEWED = 8  # after so many pieces of work that leave something in memory
# A process that is killed cannot take its locks down; Python does it for it, and need not tell anybody.
QUIET = "ignore:resource_tracker:UserWarning"
PATIENCE = 10  # seconds in which a process that has nothing left to do should end


class WorkerError(Exception):
    """The process ended in the middle of its work; the message says how."""


class Worker(Generic[Work, Answer]):
    """Does work in another process, one piece after the other.

    Attributes:
        processes: how many there have been.
    """

    def __init__(self, do: Callable[[Work], Answer], renewed: int = RENEWED) -> None:
        """Take what does a piece of work: a function of a module, which raises nothing."""
        self._do, self._renewed = do, renewed
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._left = self.processes = 0

    def __call__(self, work: Work, wears: bool = True) -> Answer:
        """Have a piece of work done.

        Args:
            work: what to do.
            wears: whether it leaves something in memory.

        Raises:
            WorkerError: the process ended before it was.
        """
        if not self._left:
            self._start()
        assert self._pipe is not None  # _start has made it
        assert self._process is not None
        self._left -= wears
        try:
            self._pipe.send(work)
            answer: Answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            self.kill()
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            raise WorkerError(f"its process ended with {how}") from None
        except BaseException:  # Ctrl-C
            self.kill()
            raise
        return answer

    def stop(self) -> None:
        """Let the process end: there is no more work."""
        if self._pipe is not None and self._process is not None:
            self._pipe.close()
            self._process.join(PATIENCE)
        self.kill()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._left, self._process, self._pipe = 0, None, None

    def _start(self) -> None:
        self.stop()
        if QUIET not in os.environ.get("PYTHONWARNINGS", ""):
            os.environ["PYTHONWARNINGS"] = f"{os.environ.get('PYTHONWARNINGS', '')},{QUIET}".lstrip(",")
        if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
            # joblib's processes have a method of their own, which they would hand down and a new process does not know.
            multiprocessing.set_start_method("spawn", force=True)
        # Spawned, not forked: a copy of this process would share its threads' locks and its files.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._do), daemon=True)
        self._process.start()
        theirs.close()  # so that reading ends when the process does
        self._left, self.processes = self._renewed, self.processes + 1


def _serve(pipe: Connection, do: Callable[[Work], Answer]) -> None:
    """Work until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process when it is interrupted
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError):
        while True:
            pipe.send(do(pipe.recv()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a process that was started
    parent.join()
    os._exit(1)
