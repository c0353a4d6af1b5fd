"""Real servers for tests: MLflow on loopback, PostgreSQL, a published model; each gone when its block ends."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


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
            with suppress(ProcessLookupError):  # it ended by itself, which the block has said
                os.killpg(server.pid, 9)


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
