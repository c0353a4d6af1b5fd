"""What TensorFlow and Keras say about themselves is kept from a run's output; what they say of the run stays.

Nobody can act on which kernels TensorFlow was built with. Its C++ part says that before any setting of its log counts,
straight to the file of standard error, while it is imported: so that file is another one for as long.
"""

import io
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# Lines of information, as glog and TensorFlow Lite write them, and how they are announced.
_INFORMATION = re.compile(rb"I\d{4} .*|INFO: .*|WARNING: All log messages before absl::InitializeLog.*")
_RETRACING = "triggered tf.function retracing"  # another network is traced anew: that is meant
# Keras says so of every network that is built on a tensor; the sizes that weights were trained at stand in conf/.
_SIZES = r"`input_shape` is undefined or non-square"


def silence() -> None:
    """Do so for the rest of this process; TensorFlow is not imported yet, and need not ever be."""
    sys.meta_path.insert(0, _TensorFlow())
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


class _TensorFlow(MetaPathFinder):
    """Finds TensorFlow where it is, and lets nothing be seen of its import but what matters."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See ``importlib``."""
        if fullname != "tensorflow":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def quietly(module: ModuleType) -> None:
                with without_information():
                    execute(module)

            spec.loader.exec_module = quietly  # type: ignore[method-assign]
        return spec


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
