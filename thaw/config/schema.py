"""The typed configuration: one model per folder of ``conf/``.

A value out of range, a misspelt key and a combination that there is not are errors when the configuration is read, not
when a stage comes to them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    field_validator,
    model_validator,
)

from thaw.architectures import ARCHITECTURES, HUB
from thaw.config.wording import nearest

# Keys that say how something is computed or where it is kept, and change no result by more than rounding.
NO_MATTER = {
    "backbone.engine",
    "backbone.keep_blocks",
    "backbone.cache_limit_gb",
    "finetune.devices",
}

CLASS = "{class}"  # in a prompt: where the class's name goes

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Rank = Annotated[int, Field(ge=0)]
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
    dedupe: Literal["keep", "group", "drop"] = "group"

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
    """The pretrained network, its input and how it is run.

    ``network: hub`` is the preset of KerasHub that ``weights`` names: one of its presets, a handle, or a folder. With
    ``pooling: embedding``, which images and texts share, ``prompts`` are sentences about a ``{class}``.
    """

    network: str
    alpha: Positive
    input_size: Annotated[int, Field(ge=32, le=1024)]
    fit: Literal["crop", "stretch"]
    weights: Annotated[str, Field(min_length=1)]
    pooling: Literal["avg", "max", "avg+max", "flatten", "token", "token+avg", "embedding"]
    engine: Literal["auto", "openvino", "tensorflow"]
    precision: Literal["float32", "bfloat16"]
    keep_blocks: Annotated[int, Field(ge=0)]
    cache_limit_gb: Annotated[float, Field(ge=0)]
    prompts: list[str] | None = None
    custom: Custom | None = None

    @field_validator("network")
    @classmethod
    def _is_known(cls, network: str) -> str:
        valid = [*ARCHITECTURES, "custom", HUB]
        if network not in valid:
            raise ValueError(f"expected one of {', '.join(valid)}, found {network!r}{nearest(network, valid)}")
        return network

    @field_validator("prompts")
    @classmethod
    def _name_the_class(cls, prompts: list[str] | None) -> list[str] | None:
        if lacking := [one for one in prompts or [] if CLASS not in one]:
            raise ValueError(
                f"expected {CLASS}, where the class's name goes, in each prompt, found {lacking[0]!r}; add it"
            )
        return prompts

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
        wanted = {"custom": "the path of a .keras file", HUB: "a preset of KerasHub"}.get(self.network)
        if wanted and self.weights in ("imagenet", "bundled", "random"):
            raise ValueError(
                f"weights must be {wanted} for a {self.network} network, and is {self.weights}; correct it"
            )
        if self.network != HUB and self.pooling in ("token", "token+avg", "embedding"):
            raise ValueError(
                f"pooling must be avg, max, avg+max or flatten for {self.network}, and is {self.pooling}; correct it"
            )
        if self.network != HUB and self.prompts:
            raise ValueError(
                f"expected 'prompts' with 'network: hub' alone, found them with {self.network}; remove them"
            )
        return self

    @property
    def asked(self) -> list[str]:
        """The prompts, where there is an embedding to compare them with."""
        return self.prompts or [] if self.pooling == "embedding" else []


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


class Finetune(Section):
    """Which top of the backbone is trained, how fast and how long, as people set it by hand."""

    unfreeze: Unfreeze
    learning_rate: Positive
    warmup: Fraction
    epochs: Count
    batch_size: Count
    block_decay: Share
    weight_decay: Annotated[float, Field(ge=0)]
    dropout: Fraction
    label_smoothing: Fraction
    batchnorm: Literal["frozen", "adapt", "train"]
    class_weights: ClassWeights
    precision: Literal["float32", "bfloat16"]
    devices: Literal["one", "all"]
    lora: Rank = 0


class Auto(Section):
    """The same found from the data, see ``learning.policy``; what is no choice there is a constant here."""

    unfreeze: Literal["auto"]
    effort: Literal["quick", "normal", "thorough"]
    class_weights: ClassWeights
    precision: Literal["float32", "bfloat16"]
    devices: Literal["one", "all"]
    lora: Rank = 0

    batch_size: ClassVar[int] = 64
    block_decay: ClassVar[float] = 1.0
    weight_decay: ClassVar[float] = 0.0
    dropout: ClassVar[float] = 0.5
    label_smoothing: ClassVar[float] = 0.1
    batchnorm: ClassVar[str] = "frozen"


class HeadOnly(Section):
    """Nothing is fine-tuned: the head on the frozen backbone is the model before and after."""

    unfreeze: Literal["none"]


def _policy(given: Any) -> str:
    """Which kind of ``conf/finetune/`` is meant."""
    unfreeze = given.get("unfreeze") if isinstance(given, dict) else None
    return {"none": "HeadOnly", "auto": "Auto"}.get(unfreeze, "Finetune") if isinstance(unfreeze, str) else "Finetune"


Policy = Annotated[
    Annotated[Auto, Tag("Auto")] | Annotated[Finetune, Tag("Finetune")] | Annotated[HeadOnly, Tag("HeadOnly")],
    Discriminator(_policy),
]


class Evaluate(Section):
    """How sure the comparison has to be."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    resamples: Annotated[int, Field(ge=100)]
    keep_best_of: Annotated[list[Literal["head", "finetuned"]], Field(min_length=1)]
    splits: Annotated[int, Field(ge=0)]
    sure_enough: Annotated[float, Field(gt=0, lt=1)]


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
