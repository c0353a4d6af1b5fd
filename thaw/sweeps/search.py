"""Which configurations a sweep tries: all of a grid, or those that Optuna proposes from what it has seen.

A search is a conversation. It yields jobs in batches, each job a list of Hydra overrides, and is sent the validation
accuracy of each; at the end it yields nothing. It keeps no state on disk: what it proposes follows from its seed and
the answers, so the same command asks the same questions again, and jobs that are finished answer them at once.
"""

import itertools
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException

from thaw.config.schema import SECTIONS
from thaw.errors import UserError

if TYPE_CHECKING:
    from optuna import Study, Trial

Rank = Literal["model", "head", "backbone"]
Job = list[str]
Search = Generator[list[Job], list[float | None], None]
SAMPLERS = ("grid", "random", "tpe")
PATIENCE = 5  # trials that are finished before any is given up


@dataclass(frozen=True)
class Settings:
    """How to search; conf/hydra/sweeper/thaw.yaml says what each means.

    Raises:
        UserError: a value is none of those.
    """

    sampler: str
    trials: int
    seeds: int
    at_once: int
    prune: bool

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UserError(
                f"hydra.sweeper.sampler: expected {', '.join(SAMPLERS)}, found {self.sampler!r}; correct it"
            )
        for key in ("trials", "seeds", "at_once"):
            value = getattr(self, key)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"hydra.sweeper.{key}: expected a number of at least 1, found {value!r}; correct it")


@dataclass(frozen=True)
class Space:
    """What is asked for: overrides that all jobs have, and the keys that vary with what they may be."""

    fixed: Job
    varied: Mapping[str, Override]

    @classmethod
    def of(cls, overrides: Sequence[Override]) -> "Space":
        """Sort overrides; of two for one key, the last one counts, as Hydra has it."""
        last = {one.get_key_element(): one for one in overrides}
        fixed = {key: one for key, one in last.items() if not one.is_sweep_override()}
        varied = {key: one for key, one in last.items() if one.is_sweep_override()}
        return cls([f"{key}={one.get_value_element_as_str()}" for key, one in fixed.items()], varied)

    def grid(self) -> list[Job]:
        """Return every combination.

        Raises:
            UserError: there is an interval, which has no end of values.
        """
        for key, one in self.varied.items():
            if not one.is_discrete_sweep():
                raise UserError(
                    f"{key}: expected values to choose among, found an interval; list some, or let Optuna choose: add "
                    "hydra.sweeper.sampler=tpe"
                )
        values = [[f"{key}={value}" for value in one.sweep_string_iterator()] for key, one in self.varied.items()]
        return [[*self.fixed, *combination] for combination in itertools.product(*values)]


def hold_back(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take out of a command's arguments the fixed keys of sections whose option may vary; return the others, and these.

    Hydra composes a configuration of fixed overrides and default options first, and a default option may not have such
    a key; the jobs' options do. An experiment may vary the option of any section.
    """
    parser, read = OverridesParser.create(), dict[str, Override]()
    for argument in arguments:
        with suppress(HydraException):  # an option; or Hydra will say what is wrong
            read[argument] = parser.parse_override(argument)
    varied = {one.key_or_group for one in read.values() if one.is_sweep_override()}
    experiment = any(one.key_or_group == "experiment" for one in read.values())

    def is_held(argument: str) -> bool:
        one = read.get(argument)
        if one is None or one.is_sweep_override() or one.is_delete():
            return False
        section, _, key = one.key_or_group.partition(".")
        return bool(key) and (section in varied or (experiment and section in SECTIONS))

    return [one for one in arguments if not is_held(one)], [*filter(is_held, arguments)]


def at_most(space: Space, settings: Settings, rank: str) -> int:
    """Return how many jobs there will be, if none is given up."""
    if settings.sampler == "grid":
        return len(space.grid()) * settings.seeds
    return settings.trials * len(_parts(settings, 0, rank))


def search(space: Space, settings: Settings, seed: int, rank: str) -> Search:
    """Begin a search.

    Args:
        space: what may vary.
        settings: how to search.
        seed: the first seed of each configuration; with several ``seeds``, those above it follow.
        rank: what the sweep compares.

    Raises:
        UserError: what varies does not go with the settings; or Optuna is not installed.
    """
    if rank not in get_args(Rank):
        raise UserError(f"rank: expected {', '.join(get_args(Rank))}, found {rank!r}; correct it")
    if "rank" in space.varied:
        raise UserError("rank: expected one value for the whole sweep, found several; run a sweep for each")
    if "seed" in space.varied and (settings.seeds > 1 or settings.sampler != "grid"):
        raise UserError(
            "seed: expected no values to choose among, found some; for the mean of several seeds, say "
            "hydra.sweeper.seeds=3"
        )
    if settings.sampler == "grid":
        return _everything(space, settings.seeds, seed)
    if not space.varied:
        raise UserError(f"hydra.sweeper.sampler={settings.sampler}: expected keys to vary, found none; name some")
    try:
        import optuna
    except ModuleNotFoundError:
        raise UserError(
            f"hydra.sweeper.sampler={settings.sampler}: expected Optuna, found that it is not installed; install "
            "thaw's extra 'optuna' (pip install '.[optuna]')"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Both have a seed of their own: what is proposed does not depend on the split.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the constant liar has been for years
        sampler: optuna.samplers.BaseSampler
        if settings.sampler == "random":
            sampler = optuna.samplers.RandomSampler(seed=0)
        else:
            sampler = optuna.samplers.TPESampler(seed=0, constant_liar=settings.at_once > 1)
    pruner = optuna.pruners.MedianPruner(PATIENCE) if settings.prune else optuna.pruners.NopPruner()
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    return _proposed(study, space, settings, _parts(settings, seed, rank))


def _everything(space: Space, seeds: int, first: int) -> Search:
    """Yield the whole grid at once."""
    each = [[f"seed={seed}"] for seed in range(first, first + seeds)] if seeds > 1 else [[]]
    yield [[*job, *seed] for job in space.grid() for seed in each]
    yield []


def _parts(settings: Settings, seed: int, rank: str) -> list[Job]:
    """Return what is added to a configuration, job by job: each seed, and its head alone before all that."""
    seeds = [[f"seed={one}"] for one in range(seed, seed + settings.seeds)]
    return [[*seeds[0], "rank=head"], *seeds] if settings.prune and rank == "model" else seeds


def _proposed(study: "Study", space: Space, settings: Settings, parts: list[Job]) -> Search:
    """Yield what Optuna proposes, part by part; after each, give up what is below the median of those before.

    The head costs a fraction of a whole job, and the first seed a fraction of all, so that is where something can be
    saved: a job that has begun is finished, and serves other sweeps as well.
    """
    from optuna.trial import TrialState

    distributions = {key: _distribution(key, one) for key, one in space.varied.items()}
    for begun in range(0, settings.trials, settings.at_once):
        trials = [study.ask(distributions) for _ in range(min(settings.at_once, settings.trials - begun))]
        seen: dict[int, list[float]] = {trial.number: [] for trial in trials}
        for step, part in enumerate(parts):
            if not trials:
                break
            answers = yield [[*space.fixed, *_overrides(trial), *part] for trial in trials]
            going_on = []
            for trial, accuracy in zip(trials, answers, strict=True):
                if accuracy is None:
                    study.tell(trial, state=TrialState.FAIL)
                    continue
                if "rank=head" not in part:
                    seen[trial.number].append(accuracy)
                trial.report(_mean(seen[trial.number] or [accuracy]), step)
                if step < len(parts) - 1 and trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                else:
                    going_on.append(trial)
            trials = going_on
        for trial in trials:
            study.tell(trial, _mean(seen[trial.number]))
    yield []


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _distribution(key: str, override: Override) -> Any:
    """Translate what a key may be, in Hydra's syntax, to Optuna's.

    Raises:
        UserError: an interval is none.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    values = override.value()
    if not isinstance(values, IntervalSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    low, high, log = values.start, values.end, "log" in values.tags
    assert low is not None  # Hydra's grammar wants both
    assert high is not None
    if high < low or (log and low <= 0):
        raise UserError(
            f"{key}: expected an interval from a lower to a higher value{', both above 0' * log}, found {low:g} to "
            f"{high:g}; correct it"
        )
    if isinstance(low, int) and isinstance(high, int):  # Hydra has floats unless it is told int(interval(…))
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _overrides(trial: "Trial") -> Job:
    """Write a proposal as overrides; four digits of a number say enough, and can be read."""
    chosen = trial.params.items()
    return [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in chosen]
