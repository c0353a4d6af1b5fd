"""Work in another process: renewed now and then, never lost sight of, and gone with its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.killing import alive
from thaw.artifacts import PROJECT
from thaw.sweeps.process import Worker, WorkerError


def pid(_: object) -> int:
    return os.getpid()


def die(how: int) -> None:
    os.kill(os.getpid(), how)
    time.sleep(60)


def leave(status: int) -> None:
    os._exit(status)


@pytest.fixture
def worker() -> Iterator[Worker[object, int]]:
    made = Worker(pid, renewed=2)
    yield made
    made.stop()


def test_the_process_is_another_one_and_renewed(worker: Worker[object, int]) -> None:
    done = [worker(number) for number in range(5)]
    assert os.getpid() not in done
    assert [done[0] == done[1], done[1] == done[2], done[2] == done[3], done[3] == done[4]] == [
        True,
        False,
        True,
        False,
    ]
    assert worker.processes == 3


def test_work_that_leaves_nothing_in_memory_does_not_count(worker: Worker[object, int]) -> None:
    assert len({worker(number, wears=False) for number in range(4)}) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without signals")
def test_its_end_is_an_error_that_says_how_and_the_next_work_gets_a_new_process() -> None:
    worker = Worker(die)
    with pytest.raises(WorkerError, match="its process ended with signal SIGKILL"):
        worker(signal.SIGKILL)
    with pytest.raises(WorkerError, match="SIGTERM"):
        worker(signal.SIGTERM)
    assert worker.processes == 2
    with pytest.raises(WorkerError, match="exit status 3"):
        Worker(leave)(3)


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from tests.thaw.sweeps.test_process import announce_and_wait
from thaw.sweeps.process import Worker
if __name__ == "__main__":
    Worker(announce_and_wait)({str(tmp_path / "pid")!r})
"""
    script = tmp_path / "parent.py"
    script.write_text(code, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, script], env=os.environ | {"PYTHONPATH": str(PROJECT)}, cwd=PROJECT)
    child = int(wait_for(tmp_path / "pid"))
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not alive(child):
            return
        time.sleep(0.1)
    pytest.fail("the worker has outlived its parent")


def announce_and_wait(file: str) -> None:
    partial = Path(f"{file}.partial")
    partial.write_text(str(os.getpid()), encoding="utf-8")
    partial.rename(file)
    time.sleep(60)


def wait_for(file: Path) -> str:
    for _ in range(300):
        if file.exists():
            return file.read_text(encoding="utf-8")
        time.sleep(0.1)
    raise AssertionError(f"expected {file} to appear")
