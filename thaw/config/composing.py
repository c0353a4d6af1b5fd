"""From ``params.yaml``, ``conf/`` and overrides to the typed sections that a stage's ``run`` is given.

``params.yaml`` chooses, ``conf/`` defines. Hydra composes both (the ``params`` resolver below reads the choices), DVC
tracks exactly the chosen files, and a stage's ``run`` is given only the sections that its parameters name. So a stage
cannot read a key that DVC does not track.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    ValidationError,
)
from yaml import MarkedYAMLError

from thaw.artifacts import PROJECT, STAGES, Paths, plain, read_json
from thaw.config.schema import SECTIONS
from thaw.config.wording import explain, nearest, unknown, unusable
from thaw.errors import UserError, fail

CONF = PROJECT / "conf"
PARAMS = PROJECT / "params.yaml"


def choices() -> dict[str, Any]:
    """Read ``params.yaml``: the chosen option of every folder of ``conf/``, and the seed.

    Raises:
        UserError: a key is missing or unknown, or names an option that ``conf/`` does not hold.
    """
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(PARAMS))
    except FileNotFoundError:
        raise UserError(
            f"params.yaml: expected the project's choices in {PARAMS}, found no such file; restore it"
        ) from None
    except Exception as error:  # PyYAML's and OmegaConf's errors share no base class
        reason = " ".join(str(error).split())
        raise UserError(f"params.yaml: expected YAML with one 'key: value' a line, found {reason}; mend it") from None
    found = {str(key): value for key, value in loaded.items()} if isinstance(loaded, dict) else {}
    for key in found:
        if key not in SECTIONS:
            raise UserError(f"params.yaml: {unknown(key, list(SECTIONS))}")
    for key in SECTIONS:
        if key not in found:
            raise UserError(f"params.yaml: expected the key '{key}', found none; add a line '{key}: …'")
        if key != "seed":
            options = sorted(path.stem for path in (CONF / key).glob("*.yaml"))
            if found[key] not in options:
                near = nearest(str(found[key]), options)
                raise UserError(
                    f"params.yaml: {key}: expected one of {', '.join(options)}, found {found[key]!r}{near}; "
                    f"choose one, or add conf/{key}/{found[key]}.yaml"
                )
    return found


OmegaConf.register_new_resolver("params", lambda key: choices()[key], replace=True)


def validate(cfg: DictConfig, names: list[str], files: Mapping[str, str]) -> dict[str, Any]:
    """Turn the named sections of a composed configuration into their typed models.

    Args:
        cfg: what Hydra composed.
        names: the sections wanted, keys of ``SECTIONS``.
        files: for each section, the place to name in an error (a file, or the command line).

    Raises:
        UserError: the first mistake: the place, the key, what was expected and what was found.
    """
    typed = {}
    for name in names:
        try:
            value = OmegaConf.to_container(cfg[name], resolve=True) if OmegaConf.is_config(cfg[name]) else cfg[name]
        except OmegaConfBaseException as error:
            raise UserError(f"{files[name]}: expected plain values, found {str(error).splitlines()[0]}") from None
        try:
            typed[name] = SECTIONS[name].validate_python(value)
        except ValidationError as error:
            raise UserError(f"{files[name]}: {explain(name, SECTIONS[name], value, error)}") from None
    return typed


def compose(overrides: list[str], names: list[str] | None = None) -> dict[str, Any]:
    """Compose and validate the project's configuration as the stages would, with Hydra ``overrides``.

    Returns:
        The typed sections by name; all of them unless ``names`` says which.
    """
    choices()
    with _readable(), hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides, return_hydra_config=True)
    return validate(cfg, names or list(SECTIONS), _files(cfg.hydra.runtime.choices, overrides))


def recorded(paths: Paths, **given: Any) -> dict[str, Any]:
    """Put together, in the order of ``params.yaml``, what every stage ran with, as plain values.

    Args:
        paths: of the pipeline.
        given: sections of a stage that is still running; without them, what ``evaluate`` has left.

    Raises:
        UserError: two stages ran with different values of one section, so their results cannot be compared.
        FileNotFoundError: a stage has not run.
    """
    found = plain(given) or read_json(paths.config("evaluate"))
    for stage in STAGES[:-1]:
        for section, value in read_json(paths.config(stage)).items():
            if found.setdefault(section, value) != value:
                raise UserError(
                    f"{stage}: expected to have run with {section} {found[section]} like the other stages, found "
                    f"{value}; run 'dvc repro' to bring all stages to one configuration"
                )
    return {section: found[section] for section in SECTIONS}


Curve = Callable[[str, Paths, Mapping[str, Any]], AbstractContextManager[Any]]


def command(run: Callable[..., None], curve: Curve | None = None) -> None:
    """Be the command line of a stage: compose, validate, and call ``run`` with the sections its parameters name.

    Args:
        run: the stage.
        curve: takes the learning curve of a stage that has one, see ``curves.live``; ``run`` is given what it yields as
            ``report``. It alone is told the configuration of all stages, which decides nothing that ``run`` computes.
    """
    names = [name for name in inspect.signature(run).parameters if name in SECTIONS]
    paths = Paths()

    def job(cfg: DictConfig) -> None:
        state = HydraConfig.get()
        if state.mode == RunMode.MULTIRUN:
            raise UserError(
                "expected a single run of a stage, found -m/--multirun; the stages write the project's DVC outputs, so "
                "compare configurations with 'python -m stages.sweep -m …' or 'dvc exp run --queue -S …' instead"
            )
        files = sources()
        sections = validate(cfg, names, files)
        try:
            if curve is None:
                run(paths, **sections)
                return
            everything = plain(validate(cfg, list(SECTIONS), files))
            with curve(Path(inspect.getfile(run)).stem, paths, everything) as report:
                run(paths, **sections, report=report)
        except FileNotFoundError as error:
            missing = Path(error.filename or "")
            if not missing.is_relative_to(paths.root):
                raise
            stage, file = missing.relative_to(paths.root).parts[0], missing.relative_to(PROJECT).as_posix()
            raise UserError(
                f"expected the outputs of {stage}, found no file {file}; run 'dvc repro {stage}' first"
            ) from None

    launch(job, run.__module__)


def launch(job: Callable[[DictConfig], Any], module: str) -> None:
    """Be a command line of Hydra's: call ``job`` with each configuration that it asks for.

    Args:
        job: may read ``HydraConfig``; a ``UserError`` of its ends the program. A sweeper is told what it returns.
        module: whose command line it is; Hydra shows its name.
    """
    shown = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # while it composes, Hydra then raises what it would print in its own way

    @functools.wraps(job)
    def shielded(cfg: DictConfig) -> Any:
        os.environ["HYDRA_FULL_ERROR"] = shown
        try:
            return job(cfg)
        except UserError as error:
            fail(error)
        except BrokenPipeError as error:  # Hydra would show it, also where ``chatter`` knows that nobody is listening
            sys.excepthook(type(error), error, error.__traceback__)
            sys.exit(1)

    # Hydra reads the name of the job and the folder of the configuration from the function it is given.
    shielded.__module__ = module
    try:
        choices()
        with _readable():
            hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(shielded)()
    except UserError as error:
        os.environ["HYDRA_FULL_ERROR"] = shown
        fail(error)


@contextmanager
def _readable() -> Iterator[None]:
    """Say in one sentence what keeps Hydra from composing the configuration.

    Raises:
        UserError: a file of ``conf/`` is no YAML, or an override names what is not there.
    """
    try:
        yield
    except MarkedYAMLError as error:
        file = Path(error.problem_mark.name).relative_to(CONF.parent).as_posix() if error.problem_mark else "conf/"
        raise UserError(
            f"{file}: expected YAML with one 'key: value' a line, found {' '.join(str(error).split())}; mend it"
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(unusable(error)) from None


def sources() -> dict[str, str]:
    """Say, for each section of the configuration that Hydra has composed, where a person would mend it."""
    state = HydraConfig.get()
    return _files(state.runtime.choices, list(state.overrides.task))


def _files(chosen: Mapping[str, str], overrides: list[str]) -> dict[str, str]:
    """Say, for each section, where a person would mend it."""
    files = {}
    for name in SECTIONS:
        prefix = "seed=" if name == "seed" else f"{name}."
        touched = [override for override in overrides if override.lstrip("+~").startswith(prefix)]
        file = "params.yaml" if name == "seed" else Path("conf", name, f"{chosen.get(name)}.yaml").as_posix()
        files[name] = f"{file} with {' '.join(touched)}" if touched else file
    return files
