"""Work on all cores of this machine: in order, a bounded number of items ahead of whoever takes the results."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain
from typing import TypeVar

from tqdm import tqdm

from thaw.errors import UserError
from thaw.machine import cores

T = TypeVar("T")
R = TypeVar("R")

MANY = 5_000  # items from which on processes are worth the seconds that they take to start
CHUNK = 64  # items that a process is given at once


def ahead(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in order, computed by threads.

    Decoding and hashing release Python's lock, so threads use all cores.
    """
    return _ahead(ThreadPoolExecutor(cores()), function, items)


def shown(function: Callable[[T], R], items: Sequence[T], description: str, unit: str = "image") -> Iterator[R]:
    """Do as ``ahead`` does, with a progress bar that is quiet when stderr is no terminal."""
    return _bar(ahead(function, items), len(items), description, unit)


def spread(function: Callable[[T], R], items: Sequence[T], description: str) -> Iterator[R]:
    """Do as ``shown`` does; of very many items, by processes.

    Of small images, most work is done under Python's lock, which threads share. Results are the same to the byte.

    Args:
        function: of an item; it, the items and the results can be pickled.
        items: that it is called for.
        description: of the progress bar.

    Raises:
        UserError: a process was ended from outside.
    """
    if len(items) < MANY or cores() == 1:
        return shown(function, items, description)
    # None is forked: a process with threads, as TensorFlow's, must not be.
    pool = ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn"), _begin)
    chunks = [items[at : at + CHUNK] for at in range(0, len(items), CHUNK)]
    return _bar(_alive(chain.from_iterable(_ahead(pool, partial(_all, function), chunks))), len(items), description)


def _bar(results: Iterator[R], total: int, description: str, unit: str = "image") -> Iterator[R]:
    return iter(tqdm(results, description, total, disable=None, unit=unit))


def _ahead(pool: Executor, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    waiting: deque[Future[R]] = deque()
    most = 4 * cores()
    with pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _alive(results: Iterator[R]) -> Iterator[R]:
    try:
        yield from results
    except BrokenProcessPool:
        raise UserError(
            "expected the processes that read images to live through their work, found one that was ended, as where "
            "memory is short; give it more, or take fewer processes: THAW_CORES=1"
        ) from None


def _all(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [function(item) for item in items]


def _begin() -> None:
    """What a process does first: see to it that it ends with the one that has started it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for that one
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
