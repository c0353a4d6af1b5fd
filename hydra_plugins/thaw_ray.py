"""hydra/launcher=ray: does the jobs of a sweep on the machines of a Ray cluster, or of a Ray of its own on this one.

All machines see the project's folder under the same path: code, configuration, data and what jobs leave are there. A
job that loses its machine begins again on another one and finds the stages that are finished. The settings are those of
conf/hydra/launcher/ray.yaml; docs/sweeps.md says how to use it.

Hydra takes launchers from this package only, and looks at it whenever a stage starts, so Ray is imported when jobs are
to be done.
"""

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict


class RayLauncher(Launcher):
    """Has Ray do jobs, as many at a time as its machines have room for."""

    def __init__(self, ray: DictConfig, variables: ListConfig) -> None:
        """Take conf/hydra/launcher/ray.yaml."""
        self._ray, self._variables = ray, tuple(variables)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra has composed, see ``hydra.plugins.launcher``."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Do jobs; print what each one says when it is done, and return what came of them, in their order.

        Raises:
            UserError: Ray is not installed or does not answer, or its machines cannot share MLflow's store.
        """
        from thaw import cluster
        from thaw.artifacts import cache
        from thaw.runs import store

        ray = cluster.connect(_plain(self._ray.init), "hydra/launcher=ray")
        machines = [node for node in ray.nodes() if node["Alive"]]
        check(machines, store.address())
        options = {key: value for key, value in _plain(self._ray.remote).items() if value is not None}
        perform = ray.remote(**{"num_cpus": cores(machines)} | options)(_perform)
        # What decides where things are kept is the same for all jobs, wherever they are done.
        variables = {key: value for key, value in os.environ.items() if key.startswith(self._variables)}
        variables |= {"THAW_CACHE": str(cache()), "MLFLOW_TRACKING_URI": store.address()}
        setup_globals()
        waiting, done = {}, {}
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
            with open_dict(config):
                config.hydra.job.id, config.hydra.job.num = str(number), number
            task = perform.remote(self._context, self._task, config, Singleton.get_state(), variables, Path.cwd())
            waiting[task] = number
        while waiting:
            (task,), _ = ray.wait(list(waiting))
            number = waiting.pop(task)
            try:
                done[number], said = ray.get(task)
                print(said, end="", flush=True)
            except ray.exceptions.RayError as error:
                done[number] = _lost(list(job_overrides[number - initial_job_idx]), error)
        return [done[number] for number in sorted(done)]


def check(machines: Sequence[Mapping[str, Any]], store: str) -> None:
    """See to it that jobs can publish their runs: an SQLite file is safe with the processes of one machine only.

    Args:
        machines: Ray's.
        store: MLflow's address.

    Raises:
        UserError: they cannot.
    """
    from thaw.errors import UserError

    count = len({machine["NodeManagerAddress"] for machine in machines})
    if count > 1 and store.startswith("sqlite"):
        raise UserError(
            f"MLFLOW_TRACKING_URI: expected a server, as the jobs run on {count} machines, found {store}, which is "
            f"safe on one machine only; start 'mlflow server' and set it to an address that all of them reach"
        )


def cores(machines: Sequence[Mapping[str, Any]]) -> float:
    """Return how many cores the smallest machine has for jobs."""
    return min((machine["Resources"]["CPU"] for machine in machines if machine["Resources"].get("CPU")), default=1)


def _perform(
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    state: Any,
    variables: Mapping[str, str],
    folder: Path,
) -> tuple[JobReturn, str]:
    """Do a job in one of Ray's processes; return what came of it, and what it has said."""
    os.environ.update(variables)
    os.environ.pop("RAY_ADDRESS", None)  # a job has this machine, and its stages do not wait for others
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    HydraConfig.instance().set_config(config)
    with redirect_stdout(io.StringIO()) as said:
        done = run_job(
            hydra_context=context,
            task_function=task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    return done, said.getvalue()


def _lost(overrides: list[str], error: Exception) -> JobReturn:
    from thaw.errors import UserError, shortened

    reason = UserError(
        f"expected {' '.join(overrides)} to be done on one of Ray's machines, found: "
        f"{shortened(getattr(error, 'cause', None) or error)}; the same command tries it again"
    )
    return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=reason)


def _plain(settings: DictConfig) -> dict[str, Any]:
    """Return settings as plain values."""
    plain = OmegaConf.to_container(settings, resolve=True)
    assert isinstance(plain, dict)  # the file has them as one
    return {str(key): value for key, value in plain.items()}
