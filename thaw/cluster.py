"""Work on the machines of a Ray cluster: where ``RAY_ADDRESS`` names one, they share the stages' loops over all images.

Where a cluster is changes no result, so it is a matter of the environment, and of no file that DVC tracks. Each machine
has an actor, which has all its cores and prepares once what its work needs (or one actor for each GPU). Whoever asks
hands out batches, two to an actor at most, and collects what comes back. An actor that is lost, alone or with its
machine, costs the batches that it had: they begin again elsewhere; machines that join get an actor as well. The actors
run the code of whoever asks, which Ray brings to them.

Ray is imported only where there is a cluster to be asked.
"""

import math
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from thaw import parallel
from thaw.errors import UserError, shortened
from thaw.machine import cores, environment

T = TypeVar("T")
R = TypeVar("R")

ADDRESS = "RAY_ADDRESS"
PATIENCE = 10  # seconds in which a cluster's head should answer
WAITING = 30  # seconds after which it is said that no machine is at work
BATCH = 256  # images that are handed out at once: seconds of work, and what is lost with a worker
TRIES = 4  # of a batch, and of the actors of one machine: what ends a worker each time would do so for ever
HERE = ("processor", "threads")  # what may differ between machines that do the same work


class Seat(NamedTuple):
    """A place for an actor.

    Attributes:
        node: Ray's name of the machine.
        number: of the actor on it.
        address: of the machine.
        cores: that the actor has.
        gpus: that it has, 0 or 1.
    """

    node: str
    number: int
    address: str
    cores: float
    gpus: int


class Worker:
    """What runs as an actor."""

    def start(self, make: Callable[[], Callable[[Any], Any]], folder: Path) -> Mapping[str, str | int]:
        """Prepare the work; return what decides its last bits here.

        Raises:
            UserError: this machine has no such folder.
        """
        if not folder.is_dir():
            raise UserError(
                f"expected {folder} on every machine of the Ray cluster, found no such folder; share it between them "
                f"under this path, or unset {ADDRESS}"
            )
        self._do = make()
        return environment()

    def do(self, batch: Any) -> Any:
        """Do the work for one batch."""
        return self._do(batch)


def is_named() -> bool:
    """Whether the environment names a cluster."""
    return bool(os.environ.get(ADDRESS))


def everywhere(
    function: Callable[[T], R],
    items: Sequence[T],
    description: str,
    folder: Path,
) -> list[R]:
    """Call ``function`` for all items, on the cluster's machines or, where none is named, on all cores of this one.

    Args:
        function: of an item; it, and what it returns, can be pickled.
        items: that it is called for.
        description: of the progress bar.
        folder: that it reads from.

    Returns:
        What it has returned, in the order of the items.
    """
    if not is_named():
        return list(parallel.spread(function, items, description))
    found = dict(each(partial(_threads, function), batches(items), description, folder))
    return [one for place in sorted(found) for one in found[place]]


def batches(items: Sequence[T]) -> list[Sequence[T]]:
    """Cut items into what is handed out at once."""
    return [items[at : at + BATCH] for at in range(0, len(items), BATCH)]


def _threads(function: Callable[[T], R]) -> Callable[[Sequence[T]], list[R]]:
    pool = ThreadPoolExecutor(cores())
    return lambda batch: list(pool.map(function, batch))


def each(
    make: Callable[[], Callable[[Sequence[T]], R]],
    work: Sequence[Sequence[T]],
    description: str,
    folder: Path,
    gpus: bool = False,
) -> Iterator[tuple[int, R]]:
    """Do some work for each batch, on the machines of the cluster; show a progress bar.

    Args:
        make: prepares the work on a machine, once for each actor, and returns what does it for a batch.
        work: the batches.
        description: of the progress bar.
        folder: that the work reads from.
        gpus: whether there is an actor for each GPU, where a machine has some.

    Yields:
        The number of a batch and what came of it, in the order in which they are done.

    Raises:
        UserError: the cluster does not answer, has no machine that can do it, or the work itself raised one.
    """
    code = {"py_modules": [str(Path(__file__).parent)]}
    ray = connect({"runtime_env": code, "log_to_driver": False, "logging_level": "error"}, ADDRESS)
    team = _Team(ray, ray.put(make), work, folder, gpus)
    print(f"  {description}: {team.described()}", flush=True)
    with tqdm(desc=description, total=sum(map(len, work)), unit="image", disable=None) as bar:
        try:
            while team.is_busy():
                team.hire()
                team.deal()
                for place, result in team.finished():
                    bar.update(len(work[place]))
                    yield place, result
        finally:
            team.dismiss()


class _Team:
    """The actors, the batches that they are at, and those that wait."""

    def __init__(self, ray: Any, make: Any, work: Sequence[Any], folder: Path, gpus: bool) -> None:
        self._ray, self._make, self._work, self._folder, self._gpus = ray, make, work, folder, gpus
        self._waiting = deque(range(len(work)))
        self._actor, self._actors = ray.remote(Worker), dict[Seat, Any]()
        self._ready: set[Seat] = set()
        self._tasks: dict[Any, tuple[Seat, int | None]] = {}  # who is at what: a batch's number, None for the start
        self._losses, self._last = Counter[Seat | int](), ""  # of actors by seat, and of batches; how the last one was
        self._mine, self._said = environment(), {""}
        self._begun, self._looked = time.monotonic(), -math.inf

    def described(self) -> str:
        """Say who takes part."""
        found = seats(self._ray.nodes(), self._gpus)
        gpus = sum(seat.gpus for seat in found)
        return (
            f"on the Ray cluster {os.environ.get(ADDRESS)}; machines: {len({seat.node for seat in found})}, workers: "
            f"{len(found)}, cores: {sum(seat.cores for seat in found):g}{f', GPUs: {gpus}' if gpus else ''}"
        )

    def is_busy(self) -> bool:
        """Whether there is something left to do."""
        return bool(self._waiting) or any(place is not None for _, place in self._tasks.values())

    def hire(self) -> None:
        """See to it, once a second, that there is an actor on each seat, but for those where every one is lost.

        Raises:
            UserError: there is no seat.
        """
        if time.monotonic() - self._looked < 1:
            return
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        found = [seat for seat in seats(self._ray.nodes(), self._gpus) if self._losses[seat] < TRIES]
        if not found:
            raise UserError(
                f"{ADDRESS}: expected machines with cores in the Ray cluster, found none"
                f"{f' any more ({self._last})' if self._last else ''}; 'ray status' shows them, and the same command "
                f"goes on where it was"
            )
        for seat in found:
            if seat not in self._actors:
                self._actors[seat] = self._actor.options(
                    num_cpus=seat.cores,
                    num_gpus=seat.gpus,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(seat.node, soft=False),
                    runtime_env={"env_vars": {"THAW_CORES": str(max(1, int(seat.cores)))}},
                ).remote()
                self._tasks[self._actors[seat].start.remote(self._make, self._folder)] = (seat, None)
        self._looked = time.monotonic()

    def deal(self) -> None:
        """Hand out batches: one to each actor, and then a second one, so that none waits for its next."""
        held = Counter(seat for seat, _ in self._tasks.values())
        for seat in sorted(self._ready, key=lambda one: held[one]) * 2:
            if self._waiting and held[seat] < 2:
                place = self._waiting.popleft()
                self._tasks[self._actors[seat].do.remote(self._work[place])] = (seat, place)
                held[seat] += 1

    def finished(self) -> Iterator[tuple[int, Any]]:
        """Wait for a second at most; yield the batches that are done, and what came of them.

        Raises:
            UserError: the work has raised one, or has ended too many workers.
        """
        done, _ = self._ray.wait([*self._tasks], timeout=1)
        if not self._ready and time.monotonic() - self._begun > WAITING:
            self._say("no machine is at work; 'ray status' shows whether others use the cluster")
        for task in done:
            seat, place = self._tasks[task]
            errors = self._ray.exceptions
            try:
                result = self._ray.get(task)
            except errors.RayTaskError as error:
                if isinstance(error.cause, UserError):
                    raise UserError(f"{error.cause} (found on the machine {seat.address})") from None
                raise
            except errors.RayError as error:
                self._last = shortened(error)
                self._lose(seat)
                return  # what else of that actor is done is lost as well
            del self._tasks[task]
            if place is None:
                self._say(compare(self._mine, result, seat.address))
                self._ready.add(seat)
            else:
                yield place, result

    def _lose(self, seat: Seat) -> None:
        """Forget the actor of a seat; the batches that it had wait again, before all others."""
        self._ray.kill(self._actors.pop(seat))
        self._ready.discard(seat)
        mine = [(task, place) for task, (one, place) in self._tasks.items() if one == seat]
        lost = [place for _, place in mine if place is not None]
        for task, _ in mine:
            del self._tasks[task]
        self._waiting.extendleft(reversed(lost))
        self._losses.update([seat, *lost])
        self._looked = -math.inf  # somebody is missing
        if lost:
            tqdm.write(f"  a worker on {seat.address} was lost; what it was at begins again")
        if any(self._losses[place] >= TRIES for place in lost):
            raise UserError(
                f"expected workers of the Ray cluster to live through their work, found {TRIES} to end at the same "
                f"images, at last so: {self._last}; unset {ADDRESS} to see what happens here"
            )

    def _say(self, what: str) -> None:
        if what not in self._said:
            tqdm.write(f"  {what}")
            self._said.add(what)

    def dismiss(self) -> None:
        """End all actors."""
        for actor in self._actors.values():
            self._ray.kill(actor)


def seats(nodes: Iterable[Mapping[str, Any]], gpus: bool) -> list[Seat]:
    """Find the places for actors on Ray's machines, as ``ray.nodes`` describes them.

    Args:
        nodes: the machines.
        gpus: whether there is one for each GPU, where a machine has some.
    """
    found = []
    for node in nodes:
        has = node["Resources"]
        if node["Alive"] and has.get("CPU"):
            here = int(has.get("GPU", 0)) if gpus else 0
            share = has["CPU"] / max(1, here)
            share = share if share < 1 else math.floor(share)  # as Ray has it
            for number in range(max(1, here)):
                found.append(Seat(node["NodeID"], number, node["NodeManagerAddress"], share, min(1, here)))
    return sorted(found, key=lambda one: (one.address, one.number))


def compare(mine: Mapping[str, str | int], theirs: Mapping[str, str | int], address: str) -> str:
    """Say what a machine may compute otherwise than this one, if anything; see ``machine.environment``.

    Raises:
        UserError: it has other versions.
    """
    for name in sorted({*mine, *theirs} - {*HERE}):
        if mine.get(name) != theirs.get(name):
            raise UserError(
                f"expected {name} {mine.get(name, 'missing')} on every machine of the Ray cluster, as here, found "
                f"{theirs.get(name, 'none')} on {address}; install the same requirements.lock there"
            )
    if mine["processor"] == theirs["processor"]:
        return ""
    return (
        f"{address} is {theirs['processor']}, and this machine {mine['processor']}: what networks compute there may "
        f"differ in the last bit"
    )


def connect(settings: Mapping[str, Any], by: str) -> Any:
    """Return Ray, connected to a cluster or to a Ray of its own on this machine.

    Args:
        settings: what ``ray.init`` is given.
        by: what has asked for it, as a user would name it.

    Raises:
        UserError: Ray is not installed or does not answer.
    """
    for key in ("RAY_USAGE_STATS_ENABLED", "RAY_COLOR_PREFIX"):
        os.environ.setdefault(key, "0")
    try:
        import ray
    except ImportError:
        raise UserError(
            f"{by}: expected Ray, found it not installed; requirements.lock has it: "
            "'python -m pip install --no-deps --require-hashes -r requirements.lock'"
        ) from None
    place = str(settings.get("address") or os.environ.get(ADDRESS) or "this machine")
    try:
        if not ray.is_initialized():
            host, _, port = place.removeprefix("ray://").rpartition(":")
            if port.isdecimal():
                _ask(host, port)
            ray.init(**settings)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(
            f"{by}: expected Ray to answer at {place}, found: {shortened(error)}; 'ray start --head' "
            f"starts a cluster, 'ray status' asks it"
        ) from None
    return ray


def _ask(host: str, port: str) -> None:
    """See to it that what speaks Ray's protocol listens there: of a dashboard, ``ray.init`` would ask for minutes.

    Raises:
        OSError: nothing does.
    """
    import grpc

    socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    if os.environ.get("RAY_USE_TLS", "0") == "0":
        with grpc.insecure_channel(f"{host}:{port}") as channel:
            try:
                grpc.channel_ready_future(channel).result(PATIENCE)
            except grpc.FutureTimeoutError:
                raise TimeoutError("what listens there does not speak as Ray does") from None
