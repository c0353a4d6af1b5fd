"""Jobs of a sweep on Ray's machines: the same table as without it, also when one of them loses its power."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hydra_plugins.thaw_ray import check, cores
from tests.helpers import servers
from tests.helpers.project import SWEEP, Project, checkout, squares
from thaw.errors import UserError


def machine(address: str, cpus: float | None) -> dict[str, object]:
    """One of Ray's machines, as it describes them."""
    return {"NodeManagerAddress": address, "Resources": {"memory": 1.0} | ({"CPU": cpus} if cpus else {})}


def test_a_job_has_the_smallest_machine_to_itself() -> None:
    assert cores([machine("10.0.0.1", None), machine("10.0.0.2", 16.0), machine("10.0.0.3", 8.0)]) == 8


def test_a_file_of_runs_is_for_one_machine() -> None:
    two = [machine("10.0.0.1", 4), machine("10.0.0.2", 4)]
    check(two, "http://runs.example:5000")
    check([two[0], two[0]], "sqlite:///mlflow.db")
    with pytest.raises(
        UserError, match="^MLFLOW_TRACKING_URI: expected a server, as the jobs run on 2 machines, found"
    ):
        check(two, "sqlite:///mlflow.db")


def test_that_ray_is_not_installed_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "without" / "ray").mkdir(parents=True)
    (tmp_path / "without" / "ray" / "__init__.py").write_text("raise ImportError('no ray')")
    project = checkout(tmp_path / "project")
    done = project.stage("sweep", *SWEEP, "hydra/launcher=ray", PYTHONPATH=str(tmp_path / "without"))
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: hydra/launcher=ray: expected Ray, found it not installed")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, see ``servers.ray``."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as name:
        yield Path(name)


@servers.needs_ray
def test_ray_that_does_not_answer_is_one_sentence(tmp_path: Path, token: dict[str, str]) -> None:
    nowhere = f"127.0.0.2:{servers.free_port()}"
    done = checkout(tmp_path / "project").stage("sweep", *SWEEP, "hydra/launcher=ray", RAY_ADDRESS=nowhere, **token)
    assert done.returncode == 1, done.stderr
    assert f"error: hydra/launcher=ray: expected Ray to answer at {nowhere}, found: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@servers.needs_ray
def test_without_a_cluster_ray_starts_here_and_ends(tmp_path: Path, folder: Path, token: dict[str, str]) -> None:
    project = checkout(tmp_path / "project")
    squares(project.root / "data")
    here = [f"+hydra.launcher.ray.init.{key}={value}" for key, value in _here(folder).items()]
    done = project.stage("sweep", "-m", "finetune.learning_rate=1e-4,1e-3", "hydra/launcher=ray", *here, **token)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert [line[:3] for line in done.stdout.splitlines()[1:3]] == ["1/2", "2/2"]
    assert (project.root / "mlflow.db").exists()
    for _ in range(100):
        if not subprocess.run(["pgrep", "-f", folder], capture_output=True, check=False).stdout:
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process is left")


def _here(folder: Path) -> dict[str, str]:
    return {"_temp_dir": str(folder), "_node_ip_address": "127.0.0.2"}


@pytest.mark.slow
@servers.needs_ray
def test_a_machine_that_loses_its_power_changes_nothing(swept: Project, tmp_path: Path, token: dict[str, str]) -> None:
    there = checkout(tmp_path / "there")
    squares(there.root / "data")

    head = f"127.0.0.2:{servers.free_port()}"
    with (
        servers.mlflow(tmp_path / "mlflow") as runs,
        servers.ray("127.0.0.2", "--head", "--port", head.split(":")[1], "--include-dashboard", "false", **token),
        servers.ray("127.0.0.3", "--address", head, **token) as second,
    ):
        refused = there.stage("sweep", *SWEEP, "hydra/launcher=ray", RAY_ADDRESS=head, **token)
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: MLFLOW_TRACKING_URI: expected a server, as the jobs run on 2 machines")

        command = (sys.executable, "-m", "stages.sweep", *SWEEP, "hydra/launcher=ray")
        with there.started(*command, RAY_ADDRESS=head, MLFLOW_TRACKING_URI=runs, **token) as sweep:
            cut = _both_at_work(there, sweep)
            assert any("multiprocessing.spawn" in str(one.cmdline()) for one in second.processes()), "at a job"
            second.unplug()
            assert any(place.exists() for place in cut), "what it was at is left half-written"
            out, err = sweep.communicate(timeout=900)
        assert sweep.returncode == 0, out + err
        assert [line[:3] for line in out.splitlines() if line[1:3] == "/4"] == ["1/4", "2/4", "3/4", "4/4"]

        client = MlflowClient(runs)
        found = client.search_runs([client.get_experiment_by_name("thaw").experiment_id])
    assert not any((there.root / "multirun" / ".running").iterdir())
    one, two = ((_only(project) / "table.csv").read_text(encoding="utf-8") for project in (swept, there))
    assert one == two
    assert len(one.splitlines()) == 5
    jobs = [run for run in found if "thaw.sweep.summary" not in run.data.tags]
    assert (len(found), len(jobs)) == (5, 4)
    assert {run.info.status for run in found} == {"FINISHED"}
    assert {run.data.tags["thaw.sweep"] for run in found} == {_only(there).name}


def _only(project: Project) -> Path:
    """The folder of its only sweep."""
    (folder,) = (project.root / "multirun" / "sweeps").iterdir()
    return folder


def _both_at_work(project: Project, sweep: "subprocess.Popen[str]") -> list[Path]:
    """Wait until both machines are at a stage, each at one of its own; return the folders that these write to."""
    for _ in range(3000):
        places = [*(project.root / "multirun" / ".running").glob("*")]
        if len(places) == 2:
            return places
        assert sweep.poll() is None, sweep.communicate()
        time.sleep(0.05)
    pytest.fail("the machines were never at work both")
