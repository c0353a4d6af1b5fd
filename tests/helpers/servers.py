"""Real servers for tests: MLflow, PostgreSQL, S3, machines of a Ray cluster; each gone when its block ends."""

import http.client
import http.server
import importlib.util
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

needs_ray = pytest.mark.skipif(
    not importlib.util.find_spec("ray")
    or sys.platform != "linux",  # elsewhere, 127.0.0.2 is no address of this machine
    reason="needs Linux and Ray (the extra 'ray' of pyproject.toml), which is not here",
)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(command: list[str], health: str, log: Path, **variables: str) -> Iterator[None]:
    """Run a server for as long as the block lasts; enter it when ``health`` answers."""
    # As in an activated environment: mlflow starts uvicorn by its name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path} | variables
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, process_group=0) as server,
    ):
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(health, timeout=1).close()
                    break
                except OSError:
                    assert server.poll() is None, log.read_text()
                    time.sleep(0.1)
            else:
                pytest.fail(f"no answer from {health}:\n{log.read_text()}")
            yield
        finally:
            with suppress(psutil.NoSuchProcess):  # it ended by itself, which the block has said
                first = psutil.Process(server.pid)
                for process in [*first.children(recursive=True), first]:
                    process.kill()


@contextmanager
def mlflow(folder: Path, port: int | None = None) -> Iterator[str]:
    """An MLflow server that keeps everything in ``folder``; yields its address."""
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    options = ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", str(folder / "files")]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *options]
    with served(
        command,
        f"http://127.0.0.1:{port}/health",
        folder / "log",
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        MLFLOW_DISABLE_TELEMETRY="true",
    ):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of its own, as Debian has it; yields the address of an empty database."""
    import pwd  # not on Windows

    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("needs Debian's PostgreSQL (apt-get install postgresql), which is not here")
    folder = Path(tempfile.mkdtemp())
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = "postgres"
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    port = free_port()

    def run(program: str, *arguments: str) -> None:
        subprocess.run([programs[-1] / program, *arguments], user=user, cwd=folder, check=True, capture_output=True)

    try:
        run("initdb", "-D", str(folder / "data"), "-U", "thaw", "-A", "trust")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-D", str(folder / "data"), "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://thaw@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Bucket:
    """A bucket of an S3 server of our own.

    Attributes:
        url: of the bucket.
        endpoint: of the server, which asks for no true credentials where it is not ``guarded``.
        log: what the server writes.
    """

    url: str
    endpoint: str
    log: Path

    def put(self, folder: Path, prefix: str) -> str:
        """Put the files of a folder below a prefix; return its URL."""
        import s3fs

        store = s3fs.S3FileSystem()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            store.put_file(str(path), f"{self.url}/{prefix}/{path.relative_to(folder).as_posix()}")
        return f"{self.url}/{prefix}"

    def requests(self, method: str) -> list[str]:
        """The paths that have been asked for in this bucket."""
        name = self.url.removeprefix("s3://")
        found = re.findall(rf'"{method} /{name}/(\S+) HTTP', self.log.read_text(encoding="utf-8"))
        return [path for path in found if path]

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Let the server refuse whom it does not know, for as long as the block lasts."""

        def ask_after(requests: str) -> None:
            header = {"Content-Type": "text/plain"}
            asked = urllib.request.Request(f"{self.endpoint}/moto-api/reset-auth", requests.encode(), header)
            urllib.request.urlopen(asked).close()

        ask_after("0")
        try:
            yield
        finally:
            ask_after("inf")


@contextmanager
def s3(folder: Path) -> Iterator[tuple[str, Path]]:
    """An S3 server; yields its endpoint, and the file that it writes each request to."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with served(command, f"http://127.0.0.1:{port}/moto-api/", log := folder / "log"):
        yield f"http://127.0.0.1:{port}", log


@contextmanager
def unsteady(endpoint: str) -> Iterator[str]:
    """A way to another server that fails again and again; yields its address.

    Of three answers one is that the server is busy, and of five one ends in the middle.
    """
    asked, host = itertools.count(1), endpoint.removeprefix("http://")

    class Way(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if (number := next(asked)) % 3 == 0:
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            behind = http.client.HTTPConnection(host)
            behind.request(self.command, self.path, headers=dict(self.headers))
            answer = behind.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "date", "server"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if number % 5 == 0 else content)
            self.close_connection = number % 5 == 0

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Way) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@dataclass(frozen=True)
class Machine:
    """A machine of a Ray cluster: what one ``ray start`` has started, and what that has."""

    first: subprocess.Popen[bytes]

    def processes(self) -> list[psutil.Process]:
        """All that run on it."""
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.first.pid)
            return [first, *first.children(recursive=True)]
        return []

    def unplug(self) -> None:
        """End all at once, as a power cut does."""
        everything = self.processes()
        for process in everything:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everything, 10)


@contextmanager
def ray(address: str, *options: str, **variables: str) -> Iterator[Machine]:
    """A machine of a Ray cluster with room for one job; enter the block when it is ready.

    Args:
        address: its own, of those that are all this machine: 127.0.0.2, 127.0.0.3 and so on.
        options: of ``ray start``: whether it is the head, or where that is.
        variables: for its environment.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # a short path: those of Ray's sockets have at most 107 letters
    command = [Path(sys.executable).with_name("ray"), "start", "--block", "--num-cpus", "1", "--temp-dir", folder]
    log = folder / "log"
    with (
        log.open("w") as out,
        subprocess.Popen(
            [*command, "--node-ip-address", address, "--object-store-memory", "80000000", *options],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"} | variables,
            process_group=0,
        ) as first,
    ):
        machine = Machine(first)
        try:
            for _ in range(600):
                if "Ray runtime started" in log.read_text():
                    break
                assert first.poll() is None, log.read_text()
                time.sleep(0.1)
            else:
                pytest.fail(f"Ray did not start:\n{log.read_text()}")
            yield machine
        finally:
            machine.unplug()
            shutil.rmtree(folder, ignore_errors=True)
