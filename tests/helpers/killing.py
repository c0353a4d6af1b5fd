"""A training run that is killed after an epoch, as by SIGKILL: nothing of ours catches it. And who is alive."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from thaw.learning.training import Checkpoint


class Killed(BaseException):
    """Stands for SIGKILL."""


@contextmanager
def killed_after(epoch: int) -> Iterator[None]:
    """Let what runs within the block be killed when it has saved its state so many times."""
    save, saved = Checkpoint.save, itertools.count(1)

    def save_and_die(self: Checkpoint, *arguments: Any) -> None:
        save(self, *arguments)
        if next(saved) == epoch:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_and_die)
        with pytest.raises(Killed):
            yield


def alive(process: int) -> bool:
    """Whether a process runs: one that has ended and that nobody has asked for is a zombie."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
