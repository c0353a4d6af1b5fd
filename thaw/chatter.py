"""What TensorFlow and Keras say about themselves is kept from a run's output; what they say of the run stays.

Nobody can act on which kernels TensorFlow was built with. Its C++ part says that before any setting of its log counts,
straight to the file of standard error, while it is imported: so that file is another one for as long. Nor does Keras
import what serves nothing here.

And where nobody reads a command's output any more, it ends in silence.
"""

import atexit
import errno
import io
import logging
import os
import re
import select
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TextIO

# Lines of information, as glog and TensorFlow Lite write them, and how they are announced.
_INFORMATION = re.compile(rb"I\d{4} .*|INFO: .*|WARNING: All log messages before absl::InitializeLog.*")
_NEEDLESS = ("matplotlib", "pandas", "sklearn")  # for plots, tables and wrappers of Keras's own; it does without them
_RETRACING = "triggered tf.function retracing"  # another network is traced anew: that is meant
# Keras says so of every network that is built on a tensor; the sizes that weights were trained at stand in conf/.
_SIZES = r"`input_shape` is undefined or non-square"


def silence() -> None:
    """Do so for the rest of this process; TensorFlow is not imported yet, and need not ever be."""
    sys.meta_path.insert(0, _Imports())
    logging.getLogger("tensorflow").addFilter(lambda record: _RETRACING not in record.getMessage())
    warnings.filterwarnings("ignore", message=_SIZES)
    warnings.filterwarnings("ignore", category=FutureWarning, module="keras")  # what Keras will have to mend


def in_utf8() -> None:
    """Write UTF-8 from now on, whatever standard output and error go to.

    Into files and pipes, as those of ``dvc repro > log``, Windows writes in an encoding of its own, and fails at →.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")


def end_with_readers() -> None:
    """End without a word where nobody reads standard output or error any more, as in ``… | head``, as other tools do.

    What Python itself flushes at its end would else end in a message as well.
    """
    otherwise = sys.excepthook

    def said(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not (_is_of_a_broken_pipe(error) and _let_go()):
            otherwise(kind, error, trace)

    sys.excepthook = said
    atexit.register(_let_go)


def _is_of_a_broken_pipe(error: BaseException) -> bool:
    # Windows says of such a pipe that the argument is invalid.
    invalid = os.name == "nt" and isinstance(error, OSError) and error.errno == errno.EINVAL
    return isinstance(error, BrokenPipeError) or invalid


def _let_go() -> bool:
    """Let what is still to be said go nowhere, wherever it has no reader; return whether there was such a place."""
    found = False
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # there is none, it is no file, or it is closed
            if _has_no_reader(stream):
                found = True
                with Path(os.devnull).open("wb") as nowhere:
                    os.dup2(nowhere.fileno(), stream.fileno())
    return found


def _has_no_reader(stream: TextIO) -> bool:
    try:
        stream.flush()
    except OSError as error:
        return _is_of_a_broken_pipe(error)
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()  # what was too long for a buffer has failed already, and nothing is left to flush
    poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


class _Imports(MetaPathFinder):
    """Finds TensorFlow and Keras where they are.

    Of the import of TensorFlow nothing is seen but what matters. Keras finds none of the packages that it imports for
    what nobody asks of it here: that takes a third of the time. Whoever imports them otherwise finds them.
    """

    def __init__(self) -> None:
        self._keras: int | None = None  # the thread that imports it

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See ``importlib``."""
        if fullname in _NEEDLESS and self._keras == threading.get_ident():
            raise ModuleNotFoundError(f"Keras does without {fullname}", name=fullname)
        around = {"tensorflow": without_information, "keras": self._alone}.get(fullname)
        if around is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def within(module: ModuleType) -> None:
                with around():
                    execute(module)

            spec.loader.exec_module = within  # type: ignore[method-assign]
        return spec

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._keras = threading.get_ident()
        try:
            yield
        finally:
            self._keras = None


@contextmanager
def without_information() -> Iterator[None]:
    """Keep lines of information from the file of standard error; others appear at the end."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            said.seek(0)
            for line in said:
                if not _INFORMATION.match(line):
                    os.write(2, line)
