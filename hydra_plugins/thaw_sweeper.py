"""The project's Hydra sweeper: has a search say which jobs come next, and Hydra's launcher do them.

Hydra takes sweepers from this package only, and looks at it whenever a stage starts, so what it takes to search is
imported when a sweep begins.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from thaw.errors import UserError

if TYPE_CHECKING:
    from thaw.sweeps.running import Sweep


class Searcher(Sweeper):
    """Asks ``thaw.sweeps.search`` for jobs, batch by batch, and tells it what came of them."""

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(self, params: Mapping[str, Any] | None, **settings: Any) -> None:
        """Take conf/hydra/sweeper/thaw.yaml: what an experiment varies, and how to search."""
        self.params, self.settings = dict(params or {}), settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra has composed, see ``hydra.plugins.sweeper``."""
        self.hydra_context, self.config, self.task = hydra_context, config, task_function
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Do all jobs that the overrides on the command line ask for.

        Raises:
            UserError: see ``search.search``; or Hydra cannot compose a single job.
        """
        from thaw.config import wording
        from thaw.sweeps import running, search

        sweep = getattr(inspect.unwrap(self.task), "__self__", None)
        if not isinstance(sweep, running.Sweep):  # a stage, which says that it takes no -m
            self.launcher.launch([[]], 0)
            return
        arguments = [*arguments, *sweep.held]
        given = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        space = search.Space.of(OverridesParser.create(self.hydra_context.config_loader).parse_overrides(given))
        settings = search.Settings(**self.settings)
        rank = str(self.config.rank)
        proposals = search.search(space, settings, int(self.config.seed), rank)
        batch = next(proposals)
        settled = [one for one in self.config.hydra.overrides.hydra if one.startswith("hydra.sweeper.")]
        sweep.begin([*arguments, *settled], rank, space.varied, search.at_most(space, settings, rank))
        number = 0
        while batch:
            reasons = [self._refused(job) for job in batch]
            if not number and all(reasons):
                raise next(reason for reason in reasons if reason)
            composed = [job for job, reason in zip(batch, reasons, strict=True) if not reason]
            for job, reason in zip(batch, reasons, strict=True):
                if reason:
                    sweep.refuse(number, job, wording.unusable(reason))
                    number += 1
            answers = self._answers(sweep, composed, number)
            number += len(composed)
            batch = proposals.send([None if reason else next(answers) for reason in reasons])

    def _answers(self, sweep: "Sweep", jobs: list[list[str]], number: int) -> Iterator[float | None]:
        """Have jobs done; yield what they return, None for one that was lost on the way."""
        for job, done in zip(jobs, self.launcher.launch(jobs, number) if jobs else [], strict=True):
            if done.status is JobStatus.FAILED and isinstance(lost := done._return_value, UserError):
                sweep.refuse(number, job, str(lost))  # its machine was lost; jobs themselves raise nothing
                yield None
            else:
                yield done.return_value
            number += 1

    def _refused(self, job: list[str]) -> Exception | None:
        """Return why Hydra cannot compose a job, if so."""
        try:
            self.hydra_context.config_loader.load_sweep_config(self.config, job)
        except (HydraException, OmegaConfBaseException) as error:
            return error
        return None
