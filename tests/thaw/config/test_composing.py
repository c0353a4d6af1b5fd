"""Every option of conf/ composes, and what a mistake in one says."""

import importlib
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tests.helpers.project import CHOICES, Project, checkout
from thaw.artifacts import PROJECT, STAGES, Paths
from thaw.config import composing
from thaw.config.composing import CONF, command, compose
from thaw.config.schema import SECTIONS, Evaluate
from thaw.errors import UserError
from thaw.sweeps.search import Space

EXPERIMENTS = sorted(path.stem for path in PROJECT.glob("conf/experiment/*.yaml"))
OPTIONS = sorted(
    path.relative_to(PROJECT / "conf").with_suffix("").as_posix()
    for path in PROJECT.glob("conf/*/*.yaml")
    if path.parent.name not in ("experiment", "hydra")
)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_is_valid(option: str) -> None:
    group, name = option.split("/")
    assert group in SECTIONS
    compose([f"{group}={name}"], [group])


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_says_what_it_is_and_what_each_key_means(option: str) -> None:
    first, *lines = (PROJECT / "conf" / f"{option}.yaml").read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")
    values = [line for line in lines if re.match(r"\s*\w+:\s*[^\s#]", line)]
    assert values
    assert [line for line in values if " # " not in line] == []


def test_every_choice_of_the_project_has_its_folder() -> None:
    chosen = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    assert {*chosen} == {*SECTIONS}
    assert {option.split("/")[0] for option in OPTIONS} == {*SECTIONS} - {"seed"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_opens_with_its_command_and_says_what_it_varies(name: str) -> None:
    package, shown, about, *lines = (PROJECT / f"conf/experiment/{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert package == "# @package _global_"
    assert shown == f"# python -m stages.sweep -m experiment={name}"
    assert about.startswith("# ")
    assert [line for line in lines if re.match(r"\s*\S+:\s*[^\s#]", line) and " # " not in line] == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_configuration_of_an_experiment_is_valid(name: str) -> None:
    chosen = f"experiment={name}"
    importlib.import_module("thaw.sweeps.running")  # which says what backbones are at hand
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", [chosen], return_hydra_config=True)
    varied = [f"{key}={values}" for key, values in cfg.hydra.sweeper.params.items()]
    jobs = Space.of(OverridesParser.create().parse_overrides([chosen, *varied])).grid()
    assert len({repr(compose(job)) for job in jobs}) == len(jobs) > 0


# Mistakes, in a copy of conf/ and params.yaml.


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    monkeypatch.setattr(composing, "CONF", tmp_path / "conf")
    monkeypatch.setattr(composing, "PARAMS", tmp_path / "params.yaml")
    return tmp_path


def rewrite(path: Path, change: dict[str, Any]) -> None:
    """Change keys of a YAML file; None removes one."""
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    kept = {key: value for key, value in (values | change).items() if value is not None}
    path.write_text(yaml.safe_dump(kept), encoding="utf-8")


MISTAKES = [
    ("dataset/digits", {"vall": 0.1}, "found 'vall' (did you mean 'val'?)"),
    ("dataset/digits", {"val": "a fifth"}, "val: expected a valid number, found 'a fifth'"),
    ("dataset/digits", {"val": 0}, "val: expected a value above 0, found 0"),
    ("dataset/digits", {"val": 0.6, "test": 0.5}, "val + test must be below 1, so that training images remain"),
    ("dataset/digits", {"min_images": 2.5}, "min_images: expected a valid integer, found 2.5"),
    ("dataset/digits", {"min_images": True}, "min_images: expected a valid integer, found True"),
    ("dataset/digits", {"dedupe": "merge"}, "dedupe: expected 'keep', 'group' or 'drop', found 'merge'"),
    ("dataset/digits", {"test": None}, "expected the key 'test', found"),
    ("backbone/mobilenet_v2", {"network": "alexnet"}, "network: expected one of vgg16, vgg19, resnet50,"),
    ("backbone/mobilenet_v2", {"network": "mobilenet_v4"}, "found 'mobilenet_v4' (did you mean 'mobilenet_v"),
    ("backbone/resnet50", {"alpha": 0.5}, "alpha must be 1 for resnet50, and is 0.5; correct it"),
    ("backbone/mobilenet", {"alpha": 0.3}, "alpha must be 0.25 or 0.5 or 0.75 or 1 for mobilenet, and is 0.3"),
    ("backbone/xception", {"input_size": 64}, "input_size must be at least 71 for xception, and is 64"),
    ("backbone/custom", {"weights": "imagenet"}, "weights must be the path of a .keras file for a custom network"),
    ("backbone/custom", {"custom": {"scal": 1}}, "custom: expected the keys feature_layer, blocks, scale, offset, "),
    ("backbone/custom", {"custom": None}, "expected the key 'custom' with 'network: custom', and only with it"),
    ("backbone/custom", {"network": "vgg16"}, "expected the key 'custom' with 'network: custom', and only with it"),
    ("backbone/mobilenet_v2", {"engine": "onnx"}, "engine: expected 'auto', 'openvino' or 'tensorflow', found 'onnx'"),
    ("backbone/mobilenet_v2", {"keep_blocks": -1}, "keep_blocks: expected at least 0, found -1"),
    ("backbone/mobilenet_v2", {"input_size": 16}, "input_size: expected at least 32, found 16"),
    ("augment/light", {"flip": "sideways"}, "flip: expected 'none', 'horizontal', 'vertical' or 'both'"),
    ("augment/light", {"rotation": 190}, "rotation: expected at most 180, found 190"),
    ("train_head/lbfgs", {"inverse_l2": []}, "inverse_l2: "),
    ("train_head/lbfgs", {"inverse_l2": [0.1, -1]}, "inverse_l2.1: expected a value above 0, found -1"),
    ("train_head/lbfgs", {"solver": "sgd"}, "'adam'"),
    ("train_head/adam", {"learning_rat": 0.1}, "found 'learning_rat' (did you mean 'learning_rate'?)"),
    ("train_head/adam", {"dropout": 1}, "dropout: expected a value below 1, found 1"),
    ("train_head/adam", {"epochs": "ten"}, "epochs: expected a valid integer, found 'ten'"),
    (
        "finetune/last_20",
        {"unfreeze": {"layers": 2, "blocks": 1}},
        "expected one of 'layers: N', 'blocks: K' and 'all: true'",
    ),
    ("finetune/last_20", {"unfreeze": {"layer": 2}}, "found 'layer' (did you mean 'layers'?)"),
    ("finetune/last_20", {"unfreeze": {"layers": 0}}, "unfreeze.layers: expected at least 1, found 0"),
    ("finetune/last_20", {"unfreeze": "some"}, "unfreeze: expected 'layers: N', 'blocks: K' or 'all: true' below it, "),
    ("finetune/last_20", {"unfreeze": None}, "expected the key 'unfreeze', found"),
    ("finetune/last_20", {"learning_rat": 1}, "found 'learning_rat' (did you mean 'learning_rate'?)"),
    ("finetune/auto", {"effort": "some"}, "effort: expected 'quick', 'normal' or 'thorough', found 'some'"),
    ("finetune/auto", {"epochs": 3}, "expected the keys unfreeze, effort, class_weights, precision, devices, lora, "),
    ("finetune/none", {"learning_rate": 0.1}, "expected the keys unfreeze, found 'learning_rate'; correct or remove"),
    ("finetune/none", {"unfreeze": "nothing"}, "found 'nothing'; correct it, or choose 'finetune: none' to unfreeze"),
    ("finetune/last_20", {"learning_rate": 0}, "learning_rate: expected a value above 0, found 0"),
    ("evaluate/default", {"confidence": 95}, "confidence: expected a value below 1, found 95"),
]


@pytest.mark.parametrize(("option", "change", "message"), MISTAKES, ids=[f"{o} {c}" for o, c, _ in MISTAKES])
def test_a_wrong_option_names_its_file_the_key_and_what_was_expected(
    copy: Path, option: str, change: dict[str, Any], message: str
) -> None:
    rewrite(copy / "conf" / f"{option}.yaml", change)
    with pytest.raises(UserError) as error:
        compose([option.replace("/", "=")])
    said = str(error.value)
    assert said.startswith(f"conf/{option}.yaml: ")
    assert message in said
    assert "\n" not in said


def test_a_number_that_yaml_takes_for_text_is_one(copy: Path) -> None:
    path = copy / "conf" / "train_head" / "adam.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("0.001", "3e-06"), encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["learning_rate"] == "3e-06", "the trap (LESSONS 19)"
    assert compose(["train_head=adam"])["train_head"].learning_rate == 3e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbon": "mobilenet_v2"}, "found 'backbon' (did you mean 'backbone'?)"),
        ({"backbone": None}, "expected the key 'backbone', found none"),
        (
            {"backbone": "mobilenet_v3"},
            "backbone: expected one of clip_vit_base, convnext_base, convnext_small, convnext_tiny, custom,",
        ),
        ({"augment": 3}, "augment: expected one of light, none, standard, strong, found 3"),
        ({"seed": "lucky"}, "seed: expected a valid integer, found 'lucky'"),
        ({"seed": -1}, "seed: expected at least 0, found -1"),
    ],
    ids=str,
)
def test_a_wrong_choice_names_params_yaml_and_the_valid_ones(copy: Path, change: dict[str, Any], message: str) -> None:
    rewrite(copy / "params.yaml", change)
    with pytest.raises(UserError) as error:
        compose([])
    said = str(error.value)
    assert said.startswith("params.yaml: ")
    assert message in said
    assert "\n" not in said


def test_an_override_on_the_command_line_is_named_beside_the_file() -> None:
    with pytest.raises(
        UserError, match="^conf/train_head/adam.yaml with train_head.epochs=0: epochs: expected at least"
    ):
        compose(["train_head=adam", "train_head.epochs=0"])


def test_a_command_hands_run_the_typed_sections_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    def run(paths: Paths, evaluate: Evaluate, seed: int) -> None:
        given.update(paths=paths, evaluate=evaluate, seed=seed)

    monkeypatch.setattr(sys, "argv", ["stage", "evaluate.resamples=123", "seed=7"])
    command(run)
    assert given == {
        "paths": Paths(),
        "evaluate": Evaluate(
            confidence=0.95, resamples=123, keep_best_of=["head", "finetuned"], splits=10, sure_enough=0.98
        ),
        "seed": 7,
    }


def test_a_command_ends_with_one_sentence_and_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(paths: Paths, seed: int) -> None:
        raise AssertionError("it must not come to this")

    monkeypatch.setattr(sys, "argv", ["stage", "seed=-1"])
    with pytest.raises(SystemExit, match="^error: params.yaml with seed=-1: seed: expected at least 0, found -1"):
        command(run)


# The same through the real command line.


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return checkout(tmp_path / "project")


def complaint(project: Project, *overrides: str, stage: str = "prepare") -> str:
    """Run a stage that has to fail as a user's mistake does, and return the one sentence it says."""
    done = project.stage(stage, *overrides)
    assert done.returncode == 1, done.stdout + done.stderr
    assert not [*project.root.glob("artifacts/*")]
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: ")
    return said.removeprefix("error: ")


def test_a_stage_shows_the_configuration_it_would_run_with(project: Project) -> None:
    done = project.stage("train_head", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert {*shown} == {*CHOICES, "rank"}
    assert shown["dataset"]["min_images"] == 3, "the toy option of this copy's params.yaml"


def test_a_misspelt_key_is_one_sentence(project: Project) -> None:
    project.edit("conf/dataset/squares.yaml", "^val:", "vall:")
    assert complaint(project).startswith("conf/dataset/squares.yaml: expected the keys val, test, min_images, ")


def test_an_unknown_choice_is_one_sentence(project: Project) -> None:
    project.edit("params.yaml", "^dataset: squares", "dataset: sqares")
    assert "found 'sqares' (did you mean 'squares'?)" in complaint(project)


def test_a_broken_params_yaml_is_one_sentence(project: Project) -> None:
    project.edit("params.yaml", "^dataset: squares", "dataset: [squares")
    assert complaint(project).startswith("params.yaml: expected YAML")


def test_a_broken_option_is_one_sentence(project: Project) -> None:
    project.edit("conf/dataset/squares.yaml", "^val: 0.2", "val: [0.2")
    assert complaint(project).startswith("conf/dataset/squares.yaml: expected YAML")


def test_a_missing_params_yaml_is_one_sentence(project: Project) -> None:
    (project.root / "params.yaml").unlink()
    assert complaint(project).startswith("params.yaml: expected the project's choices")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.min_images=none", "min_images: expected a valid integer"),
        ("dataset.vall=0.1", "dataset.vall"),
        ("dataset=sqares", "squares"),
        ("dataset.val=[0.1", "'[0.1'"),
    ],
)
def test_a_wrong_override_is_one_sentence(project: Project, override: str, message: str) -> None:
    assert message in complaint(project, override)


def test_multirun_is_refused_because_the_stages_write_dvc_outputs(project: Project) -> None:
    assert complaint(project, "-m", "seed=1,2").startswith("expected a single run of a stage, found -m/--multirun")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_without_the_outputs_of_the_stages_before_says_so(project: Project, stage: str) -> None:
    assert "found no" in complaint(project, stage=stage)


def test_the_traceback_is_shown_on_request(project: Project) -> None:
    project.edit("conf/dataset/squares.yaml", "^val:", "vall:")
    done = project.stage("prepare", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "UserError: conf/dataset/squares.yaml: " in done.stderr


def test_a_key_that_only_other_options_have_is_said_so(copy: Path) -> None:
    with pytest.raises(UserError, match=r"'finetune.epochs', which the chosen option of finetune does not have"):
        compose(["finetune=auto", "finetune.epochs=3"])
