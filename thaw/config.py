"""The typed configuration: one model per folder of ``conf/``, and the way from Hydra to a stage's ``run``.

``params.yaml`` chooses, ``conf/`` defines. Hydra composes both (the ``params`` resolver below reads the choices), DVC
tracks exactly the chosen files, and a stage's ``run`` is given only the sections that its parameters name. So a stage
cannot read a key that DVC does not track.
"""

import difflib
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from yaml import MarkedYAMLError

from thaw.architectures import ARCHITECTURES
from thaw.artifacts import PROJECT, STAGES, Paths, plain, read_json
from thaw.errors import UserError

CONF = PROJECT / "conf"
PARAMS = PROJECT / "params.yaml"

# Keys that say how something is computed or where it is kept, and change no result by more than rounding.
NO_MATTER = {
    "backbone.engine",
    "backbone.keep_blocks",
    "backbone.cache_limit_gb",
    "finetune.devices",
    "dataset.min_images",
}

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
# YAML reads the names of some classes as numbers.
ByClass = Annotated[
    dict[str, Positive],
    BeforeValidator(lambda given: {str(k): v for k, v in given.items()} if isinstance(given, dict) else given),
]
ClassWeights = Literal["none", "balanced"] | ByClass


class Section(BaseModel):
    """A group of ``conf/``: unknown keys and wrong types are errors, and a value never changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Dataset(Section):
    """How ``data/`` becomes training, validation and test images."""

    val: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]
    min_images: Count
    max_megapixels: Positive

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> "Dataset":
        if self.val + self.test >= 1:
            raise ValueError(
                f"val + test must be below 1, so that training images remain, and are {self.val + self.test:g}"
            )
        return self


class Custom(Section):
    """A network of one's own: the .keras file that ``weights`` names, up to one of its layers.

    Pixels of 0–255 reach it as ``pixel * scale + offset``; ``blocks`` names the first layer of each block, from the
    output to the input, and may be empty: then it is fine-tuned by layers.
    """

    feature_layer: Annotated[str, Field(min_length=1)]
    blocks: list[str]
    scale: Positive
    offset: float


class Backbone(Section):
    """The pretrained network, its input and how it is run."""

    network: str
    alpha: Positive
    input_size: Annotated[int, Field(ge=32, le=1024)]
    weights: Annotated[str, Field(min_length=1)]
    pooling: Literal["avg", "max", "avg+max", "flatten"]
    engine: Literal["auto", "openvino", "tensorflow"]
    precision: Literal["float32", "bfloat16"]
    keep_blocks: Annotated[int, Field(ge=0)]
    cache_limit_gb: Annotated[float, Field(ge=0)]
    custom: Custom | None = None

    @field_validator("network")
    @classmethod
    def _is_known(cls, network: str) -> str:
        if network not in (*ARCHITECTURES, "custom"):
            valid = [*ARCHITECTURES, "custom"]
            raise ValueError(f"expected one of {', '.join(valid)}, found {network!r}{_nearest(network, valid)}")
        return network

    @model_validator(mode="after")
    def _is_a_network_that_there_is(self) -> "Backbone":
        if (self.network == "custom") != (self.custom is not None):
            raise ValueError("expected the key 'custom' with 'network: custom', and only with it; add or remove it")
        facts = ARCHITECTURES.get(self.network)
        if facts and self.alpha not in facts.alphas:
            valid = " or ".join(f"{alpha:g}" for alpha in facts.alphas)
            raise ValueError(f"alpha must be {valid} for {self.network}, and is {self.alpha:g}; correct it")
        if facts and self.input_size < facts.least:
            raise ValueError(
                f"input_size must be at least {facts.least} for {self.network}, and is {self.input_size}; enlarge it"
            )
        if self.custom and self.weights in ("imagenet", "bundled", "random"):
            raise ValueError(
                f"weights must be the path of a .keras file for a custom network, and is {self.weights}; correct it"
            )
        return self


class Augment(Section):
    """Random changes to training images; ``views`` of each image are made, beside the image itself."""

    views: Annotated[int, Field(ge=0)]
    flip: Literal["none", "horizontal", "vertical", "both"]
    rotation: Annotated[float, Field(ge=0, le=180)]
    shift: Annotated[float, Field(ge=0, le=0.5)]
    zoom: Annotated[float, Field(ge=0, le=0.5)]
    shear: Annotated[float, Field(ge=0, le=45)]
    brightness: Fraction
    contrast: Fraction
    randaugment: Annotated[int, Field(ge=0, le=4)]
    magnitude: Annotated[float, Field(ge=0, le=1)]
    erase: Annotated[float, Field(ge=0, le=0.5)]
    mixup: Annotated[float, Field(ge=0)]
    cutmix: Annotated[float, Field(ge=0)]


class Adam(Section):
    """Stochastic training of the head with early stopping."""

    solver: Literal["adam"]
    hidden: list[Count]
    class_weights: ClassWeights
    dropout: Fraction
    learning_rate: Positive
    batch_size: Count
    epochs: Count
    patience: Count


class Lbfgs(Section):
    """The head as a logistic regression solved to convergence; the regularisation is chosen on validation."""

    solver: Literal["lbfgs"]
    class_weights: ClassWeights
    inverse_l2: Annotated[list[Positive], Field(min_length=1)]
    max_iterations: Count


TrainHead = Annotated[Adam | Lbfgs, Discriminator("solver")]


class Unfreeze(Section):
    """The top of the backbone that is trained, counted from its output: so many layers, or so many blocks, or all."""

    layers: Count | None = None
    blocks: Count | None = None
    all: Literal[True] | None = None

    @model_validator(mode="before")
    @classmethod
    def _says_how_much(cls, given: Any) -> Any:
        if not isinstance(given, dict | Unfreeze):
            raise ValueError(  # noqa: TRY004 - pydantic collects ValueErrors
                f"expected 'layers: N', 'blocks: K' or 'all: true' below it, found {given!r}; correct it, or choose "
                f"'finetune: none' to unfreeze nothing"
            )
        return given

    @model_validator(mode="after")
    def _says_one_of_them(self) -> "Unfreeze":
        if sum(value is not None for value in (self.layers, self.blocks, self.all)) != 1:
            raise ValueError("expected one of 'layers: N', 'blocks: K' and 'all: true', found none or several")
        return self


class Step(Section):
    """How deep, how fast and how long: a part of a fine-tuning, with an optimiser of its own."""

    unfreeze: Unfreeze
    learning_rate: Positive
    epochs: Count


class Finetune(Step):
    """Which top of the backbone is trained, and how gently; ``then`` goes deeper, step by step."""

    then: list[Step]
    batchnorm: Literal["frozen", "adapt", "train"]
    dropout: Fraction
    label_smoothing: Fraction
    class_weights: ClassWeights
    block_decay: Share
    warmup: Fraction
    decay: Literal["none", "cosine", "plateau"]
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Annotated[float, Field(ge=0)]
    ema: Fraction
    batch_size: Count
    monitor: Literal["loss", "accuracy"]
    patience: Count
    mix: list[Annotated[float, Field(ge=0, le=1)]]
    precision: Literal["float32", "bfloat16"]
    devices: Literal["one", "all"]

    @model_validator(mode="after")
    def _can_be_warmed_up(self) -> "Finetune":
        if self.warmup and self.decay == "plateau":
            raise ValueError("expected warmup 0 with 'decay: plateau', which sets the rate itself; change one of both")
        return self

    @property
    def steps(self) -> list[Step]:
        """All steps, the first one included."""
        return [self, *self.then]


class HeadOnly(Section):
    """Nothing is fine-tuned: the head on the frozen backbone is the model before and after."""

    unfreeze: Literal["none"]


def _policy(given: Any) -> str:
    """Which of both kinds of ``conf/finetune/`` is meant."""
    return "HeadOnly" if isinstance(given, dict) and given.get("unfreeze") == "none" else "Finetune"


Policy = Annotated[Annotated[Finetune, Tag("Finetune")] | Annotated[HeadOnly, Tag("HeadOnly")], Discriminator(_policy)]


class Evaluate(Section):
    """How sure the comparison has to be."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    resamples: Annotated[int, Field(ge=100)]
    keep_best_of: Annotated[list[Literal["head", "finetuned"]], Field(min_length=1)]


_SCHEMAS: Mapping[str, Any] = {
    "dataset": Dataset,
    "backbone": Backbone,
    "augment": Augment,
    "train_head": TrainHead,
    "finetune": Policy,
    "evaluate": Evaluate,
    "seed": Annotated[int, Field(ge=0, lt=2**31, strict=True)],
}
SECTIONS: Mapping[str, TypeAdapter[Any]] = {name: TypeAdapter(schema) for name, schema in _SCHEMAS.items()}


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
            raise UserError(f"params.yaml: {_unknown(key, list(SECTIONS))}")
    for key in SECTIONS:
        if key not in found:
            raise UserError(f"params.yaml: expected the key '{key}', found none; add a line '{key}: …'")
        if key != "seed":
            options = sorted(path.stem for path in (CONF / key).glob("*.yaml"))
            if found[key] not in options:
                near = _nearest(str(found[key]), options)
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
            raise UserError(f"{files[name]}: {_explain(name, value, error)}") from None
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
        curve: takes the learning curve of a stage that has one, see ``thaw.live``; ``run`` is given what it yields as
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


def unusable(error: Exception) -> str:
    """Say in one sentence why Hydra cannot compose a configuration."""
    reason = " ".join(str(error).partition("Config search path")[0].split())
    return (
        f"expected overrides like train_head=adam or train_head.epochs=20, found: {reason}; "
        f"'python -m stages.train_head --cfg job' shows all keys"
    )


def fail(error: UserError) -> None:
    """End the program as a user's mistake ends: one sentence, exit status 1; a traceback only if it was asked for."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    sys.exit(f"error: {error}")


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


def _nearest(word: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(word, valid, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _unknown(key: str, valid: list[str]) -> str:
    return f"expected the keys {', '.join(valid)}, found {key!r}{_nearest(key, valid)}; correct or remove it"


def _explain(section: str, value: Any, error: ValidationError) -> str:
    """One sentence for the first of pydantic's complaints, in the words of the file."""
    # In a union every member complains; the complaints of the member that fits best come first and are the fewest.
    # A misspelt key is an unknown one and a missing one; the unknown one says more.
    complaints = error.errors(include_url=False)
    complaint = next((one for one in complaints if one["type"] == "extra_forbidden"), complaints[0])
    inside = [str(part) for part in complaint["loc"] if _is_key(value, str(part)) or isinstance(part, int)]
    key = ".".join(inside)
    expected = complaint["msg"].removeprefix("Value error, ")
    match complaint["type"]:
        case "extra_forbidden":
            place = f"{'.'.join(inside[:-1])}: " if inside[:-1] else ""
            return place + _unknown(inside[-1], _keys(SECTIONS[section], complaint["loc"][:-1]))
        case "missing":
            found = ", ".join(map(str, complaint["input"]))  # where the key should be
            return f"expected the key '{complaint['loc'][-1]}', found {found}; add it"
        case "value_error":
            return f"{key}: {expected}" if key else expected
        case "union_tag_not_found" | "union_tag_invalid":
            tag = complaint["ctx"]["discriminator"].strip("'")
            valid = " or ".join(repr(name) for name in SECTIONS[section].json_schema()["discriminator"]["mapping"])
            return f"{tag}: expected {valid}, found {value.get(tag, 'none')!r}; correct it"
        case _:
            found = value if not key else complaint["input"]
            expected = expected.replace("Input should be", "expected").replace("less than or equal to", "at most")
            expected = expected.replace("less than", "a value below")
            expected = expected.replace("greater than or equal to", "at least").replace("greater than", "a value above")
            return f"{key or section}: {expected}, found {found!r}; correct it"


def _is_key(value: Any, key: str) -> bool:
    """Whether ``key`` stands anywhere in ``value`` (pydantic's locations also hold the names of union members)."""
    if isinstance(value, list):
        return any(_is_key(inner, key) for inner in value)
    return isinstance(value, dict) and (key in value or any(_is_key(inner, key) for inner in value.values()))


def _keys(schema: TypeAdapter[Any], place: tuple[int | str, ...]) -> list[str]:
    """The valid keys at a place of a section, read off its JSON schema; a place in a union begins with the member."""
    described = here = schema.json_schema()
    for step in place:
        if isinstance(step, int):  # the members of a list are all of one kind
            continue
        # Members of a union go by the value that tells them apart, or else by their name.
        members = here.get("discriminator", {}).get("mapping", {})
        inner = here.get("properties", {}).get(step) or members.get(step, f"#/$defs/{step}")
        (name,) = set(re.findall(r"#/\$defs/(\w+)", str(inner)))
        here = described["$defs"][name]
    return list(here["properties"])
