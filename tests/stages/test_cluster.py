"""Stages whose work is shared by the machines of a Ray cluster: the same bytes, whoever dies meanwhile."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.helpers import servers, tars
from tests.helpers.project import Project, checkout, squares
from thaw.data import manifest, sources
from thaw.data.layouts import Options

IMAGES, SHARD, BATCH = 120, 10, 4  # all images, those of a shard of the store, and those handed out at once


@contextmanager
def cluster(token: dict[str, str], *options: str) -> Iterator[tuple[dict[str, str], list[servers.Machine]]]:
    """A head and two workers with a core each; yields the variables that name them, and the workers."""
    head = f"127.0.0.2:{servers.free_port()}"
    first = ("--head", "--port", head.split(":")[1], "--include-dashboard", "false", *options)
    with (
        servers.ray("127.0.0.2", *first, **token),
        servers.ray("127.0.0.3", "--address", head, **token) as second,
        servers.ray("127.0.0.4", "--address", head, **token) as third,
    ):
        yield {"RAY_ADDRESS": head} | token, [second, third]


def _project(root: Path) -> Project:
    """A project with small shards and batches."""
    project = checkout(root)
    project.edit("thaw/networks/features.py", r"^SHARD_BYTES = .*", f"SHARD_BYTES = {SHARD} * 4 * 1280")
    project.edit("thaw/cluster.py", r"^BATCH = \d+", f"BATCH = {BATCH}")
    squares(root / "data", IMAGES // 3)
    return project


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after extraction, and an audit, on this machine alone."""
    project = _project(tmp_path_factory.mktemp("alone") / "project")
    for stage in ("prepare", "extract_features", "audit"):
        done = project.stage(stage)
        assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def there(tmp_path: Path) -> Project:
    """The same before extraction; each image takes its time, and which process takes which one is written down."""
    project = _project(tmp_path / "project")
    project.edit(
        "thaw/networks/views.py",
        r'(^        """Decode it, make it a square.*\n)',
        r"\1        import os, time\n        time.sleep(0.1)\n"
        f"        with open({str(_log(project))!r}, 'a') as log:\n"
        r"            log.write(f'{os.getpid()} {self.key}\\n')" + "\n",
    )
    _log(project).touch()
    return project


def _log(project: Project) -> Path:
    return project.root / "log"


def _seen(project: Project) -> list[tuple[int, str]]:
    """Which process has loaded which image, in their order."""
    lines = _log(project).read_text(encoding="utf-8").splitlines()
    return [(int(process), key) for process, key in map(str.split, lines)]


def _left(project: Project) -> dict[str, bytes]:
    """All that a stage has left, and the store: bytes by path."""
    folders = [project.root / "artifacts", project.root / ".cache" / "features"]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(project.root).as_posix(): path.read_bytes() for path in files}


def _at_work(project: Project, machine: servers.Machine, stage: "subprocess.Popen[str]", images: int) -> int:
    """Wait until a process of a machine has loaded so many images; return it."""
    for _ in range(1200):
        mine = {process.pid for process in machine.processes()}
        count = Counter(process for process, _ in _seen(project) if process in mine)
        if found := [process for process, seen in count.items() if seen >= images]:
            return found[0]
        assert stage.poll() is None, stage.communicate()
        time.sleep(0.05)
    pytest.fail("it was never at work")


@pytest.mark.slow
@servers.needs_ray
def test_a_worker_and_a_machine_that_die_cost_what_they_were_at(
    alone: Project, there: Project, token: dict[str, str]
) -> None:
    with cluster(token) as (variables, (second, third)):
        assert there.shell(sys.executable, "-m", "stages.prepare", **variables).startswith(
            f"  prepare: on the Ray cluster {variables['RAY_ADDRESS']}; machines: 3, workers: 3, cores: 3\n"
        )
        assert _left(there) == {name: found for name, found in _left(alone).items() if "prepare" in name}
        with there.started(sys.executable, "-m", "stages.extract_features", **variables) as stage:
            psutil.Process(_at_work(there, second, stage, 3)).kill()
            _at_work(there, third, stage, 3)
            (raylet,) = (process for process in third.processes() if process.name() == "raylet")
            raylet.kill()
            out, err = stage.communicate(timeout=900)
    assert stage.returncode == 0, out + err
    assert f"{IMAGES} went through the network" in out
    assert "  a worker on 127.0.0.3 was lost; what it was at begins again\n" in out
    assert "  a worker on 127.0.0.4 was lost; what it was at begins again\n" in out
    assert _left(there) == {name: found for name, found in _left(alone).items() if "audit" not in name}
    seen = Counter(key for _, key in _seen(there))
    assert len(seen) == IMAGES
    assert sum(seen.values()) - IMAGES <= 2 * BATCH, "of each of the two, what it was at"


@pytest.mark.slow
@servers.needs_ray
def test_after_a_kill_extraction_goes_on_from_the_store(alone: Project, there: Project, token: dict[str, str]) -> None:
    """The audit's pictures then are looked at by way of Ray's client, as from a machine outside the cluster."""
    with cluster(token, "--ray-client-server-port", str(port := servers.free_port())) as (variables, _):
        there.shell(sys.executable, "-m", "stages.prepare", **variables)
        with there.started(sys.executable, "-m", "stages.extract_features", **variables) as stage:
            while len(_kept(there)) < 3 * SHARD:
                assert stage.poll() is None, stage.communicate()
                time.sleep(0.05)
            stage.send_signal(signal.SIGKILL)
        kept = _kept(there)
        assert len(kept) < IMAGES
        time.sleep(5)  # its workers end
        former = {process for process, _ in _seen(there)}
        out = there.shell(sys.executable, "-m", "stages.extract_features", **variables)
        outside = variables | {"RAY_ADDRESS": f"ray://127.0.0.2:{port}"}
        said = there.shell(sys.executable, "-m", "stages.audit", **outside)
    assert f"{IMAGES - len(kept)} went through the network" in out
    again = [key for process, key in _seen(there) if process not in former]
    assert len(again) == len({*again}) == IMAGES - len(kept)
    assert not kept & {*again}
    assert f"  audit: pictures: on the Ray cluster {outside['RAY_ADDRESS']}; machines: 3" in said
    assert _left(there) == _left(alone)


@pytest.mark.slow
@servers.needs_ray
def test_machines_read_shards_in_a_store(
    alone: Project, tmp_path: Path, token: dict[str, str], bucket: servers.Bucket
) -> None:
    """Of ``data/`` they need what stands for the shards, and what the environment says of the store."""
    there = _project(tmp_path / "project")
    tars.shards(alone.root / "data", tmp_path / "packed")
    shutil.rmtree(there.root / "data")
    sources.write_images(bucket.put(tmp_path / "packed", "x"), there.root / "data", Options())
    with cluster(token) as (variables, _):
        for stage in ("prepare", "extract_features"):
            assert "; machines: 3, workers: 3" in there.shell(sys.executable, "-m", f"stages.{stage}", **variables)
    assert _learnt(there) == _learnt(alone)


def _learnt(project: Project) -> dict[str, tuple[str, str, bytes]]:
    """Label, split and features of each image, by its content."""
    rows = zip(manifest.read(project.paths.manifest), np.load(project.paths.features), strict=True)
    return {one.sha256: (one.label, one.split, row.tobytes()) for one, row in rows}


def _kept(project: Project) -> set[str]:
    """The images whose features are in the store."""
    keys = (project.root / ".cache" / "features").rglob("[!.]*.keys")
    return {key for file in keys for key in file.read_text(encoding="utf-8").split()}


@servers.needs_ray
def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path: Path, token: dict[str, str]) -> None:
    project = checkout(tmp_path / "project")
    squares(project.root / "data", 4)
    for prefix in ("", "ray://"):
        nowhere = f"{prefix}127.0.0.2:{servers.free_port()}"
        begun = time.monotonic()
        done = project.stage("prepare", RAY_ADDRESS=nowhere, **token)
        assert time.monotonic() - begun < 30
        assert done.returncode == 1
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith(f"error: RAY_ADDRESS: expected Ray to answer at {nowhere}, found: ")
        assert not (project.root / "artifacts" / "prepare").exists()


@pytest.mark.slow
@servers.needs_ray
def test_something_else_that_listens_there_is_one_sentence(tmp_path: Path) -> None:
    project = checkout(tmp_path / "project")
    squares(project.root / "data", 4)
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = project.stage("prepare", RAY_ADDRESS=f"127.0.0.1:{other.getsockname()[1]}")
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert ", found: what listens there does not speak as Ray does; 'ray start --head' starts" in sentence


def test_without_a_cluster_ray_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "without" / "ray").mkdir(parents=True)
    (tmp_path / "without" / "ray" / "__init__.py").write_text("raise SystemExit('Ray was imported')")
    project = checkout(tmp_path / "project")
    squares(project.root / "data", 10)
    for stage in ("prepare", "extract_features"):
        done = project.stage(stage, PYTHONPATH=str(tmp_path / "without"))
        assert done.returncode == 0, done.stderr
