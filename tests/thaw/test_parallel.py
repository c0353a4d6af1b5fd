"""Work on all cores: the same results in the same order, by threads or by processes, and nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from thaw import parallel
from thaw.artifacts import PROJECT
from thaw.errors import UserError
from thaw.machine import cores


def test_the_order_is_kept_and_threads_stay_a_bounded_distance_ahead() -> None:
    started, lock = 0, threading.Lock()

    def square(number: int) -> int:
        nonlocal started
        with lock:
            started += 1
        return number * number

    results = parallel.shown(square, range(1000), "test")
    assert [next(results) for _ in range(10)] == [number * number for number in range(10)]
    assert started <= 10 + 4 * cores() + 1
    assert list(results) == [number * number for number in range(10, 1000)]


@pytest.mark.parametrize("items", [[], [1]])
def test_few_items_are_taken(items: list[int]) -> None:
    assert list(parallel.shown(str, items, "test")) == [str(item) for item in items]


def test_errors_are_passed_on_and_without_a_terminal_all_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    function: Callable[[int], float] = (1).__truediv__
    with pytest.raises(ZeroDivisionError):
        list(parallel.shown(function, [1, 0, 1], "test"))
    assert capsys.readouterr().err == ""


# Processes.


def where(number: int) -> tuple[int, int]:
    return number, os.getpid()


def refuse(number: int) -> int:
    raise UserError(f"expected no {number}")


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """What few items count as, with two cores wherever this runs."""
    monkeypatch.setattr(parallel, "MANY", 100)
    monkeypatch.setattr(parallel, "cores", lambda: 2)


@pytest.mark.usefixtures("many")
def test_many_items_are_spread_over_processes_and_stay_in_order() -> None:
    found = list(parallel.spread(where, range(1000), "test"))
    assert [number for number, _ in found] == [*range(1000)]
    assert os.getpid() not in {process for _, process in found}
    assert {process for _, process in parallel.spread(where, range(99), "test")} == {os.getpid()}


@pytest.mark.usefixtures("many")
def test_a_user_s_mistake_is_one_there_too_and_ends_the_processes() -> None:
    with pytest.raises(UserError, match="^expected no 0$"):
        list(parallel.spread(refuse, range(1000), "test"))
    assert not _workers(os.getpid())


@pytest.mark.usefixtures("many")
def test_a_process_that_is_ended_from_outside_is_one_sentence() -> None:
    with pytest.raises(UserError, match="^expected the processes that read images to live .* THAW_CORES=1$"):
        list(parallel.spread(die, range(1000), "test"))


def test_processes_end_with_the_one_that_has_started_them() -> None:
    code = """
import time
from thaw import parallel
parallel.MANY = 1
parallel.cores = lambda: 2
if __name__ == "__main__":
    for _ in parallel.spread(time.sleep, [0.01] * 10**6, ""):
        print("at work", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stdout.readline()
        workers = _workers(started.pid)
        assert workers
        started.kill()
    for _ in range(100):
        if not any(worker.is_running() for worker in workers):
            return
        time.sleep(0.1)
    pytest.fail("a process is left")


def _workers(process: int) -> list[psutil.Process]:
    """The processes that it has started to work for it."""
    children = psutil.Process(process).children()
    return [one for one in children if any("spawn_main" in word for word in one.cmdline())]
