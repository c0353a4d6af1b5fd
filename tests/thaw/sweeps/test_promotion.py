"""The winner in params.yaml and conf/: the values change, and nothing else."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from thaw.artifacts import PROJECT, plain, write_json
from thaw.config import composing
from thaw.config.composing import compose
from thaw.config.editing import edited
from thaw.errors import UserError
from thaw.sweeps import promotion
from thaw.sweeps.promotion import promote

TEXT = """\
# What it is.
rate: 0.001 # Adam's
unfreeze: # how deep
  blocks: 3 # whole units
then: # further steps
  - unfreeze: {blocks: 3} # deeper
    epochs: 3
mix: [] # shares
name: one
"""
OLD: dict[str, Any] = {
    "rate": 0.001,
    "unfreeze": {"blocks": 3},
    "then": [{"unfreeze": {"blocks": 3}, "epochs": 3}],
    "mix": [],
    "name": "one",
}


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, {}),
        ({"rate": 0.01}, {"rate: 0.001 # Adam's": "rate: 0.01 # Adam's"}),
        ({"rate": 1e-05}, {"rate: 0.001 # Adam's": "rate: 1.0e-05 # Adam's"}),
        ({"unfreeze": {"blocks": 6}}, {"  blocks: 3 # whole units": "  blocks: 6 # whole units"}),
        ({"unfreeze": {"layers": 20}}, {"  blocks: 3 # whole units": "  {layers: 20}"}),
        ({"mix": [0.5, 0.75]}, {"mix: [] # shares": "mix: [0.5, 0.75] # shares"}),
        ({"name": "yes"}, {"name: one": "name: 'yes'"}),
        ({"name": {"0": 1.0}}, {"name: one": "name: {'0': 1.0}"}),
        ({"then": []}, {"  - unfreeze: {blocks: 3} # deeper": "  []", "    epochs: 3": None}),
        ({"name": None}, {"name: one": None}),
        (
            {"then": None},
            dict.fromkeys(["then: # further steps", "  - unfreeze: {blocks: 3} # deeper", "    epochs: 3"]),
        ),
        ({"ema": 0.5}, {"name: one": "name: one\nema: 0.5"}),
    ],
    ids=str,
)
def test_only_the_value_changes(change: dict[str, Any], lines: dict[str, str | None]) -> None:
    new = {key: value for key, value in (OLD | change).items() if value is not None}
    text = edited(TEXT, OLD, new)
    changed = [lines.get(line, line) for line in TEXT.splitlines()]
    assert text == "".join(f"{line}\n" for line in changed if line is not None)
    assert yaml.safe_load(text) == new


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    monkeypatch.setattr(composing, "CONF", tmp_path / "conf")
    monkeypatch.setattr(composing, "PARAMS", tmp_path / "params.yaml")
    monkeypatch.setattr(promotion, "FOLDER", tmp_path / "multirun")
    return tmp_path


def finish(folder: Path, name: str, overrides: list[str], **chosen: str) -> dict[str, Any]:
    """Fabricate a finished job, and return its configuration."""
    made = plain(compose(overrides))
    choices = {key: value for key, value in composing.choices().items() if key != "seed"} | chosen
    write_json(folder / "multirun" / "jobs" / name / "result.json", {"config": made, "choices": choices})
    return made


def test_options_go_into_params_and_values_into_the_option_s_file(folder: Path) -> None:
    wanted = finish(
        folder,
        "abcdef",
        [
            "train_head=adam",
            "train_head.learning_rate=3e-5",
            "finetune=last_20",
            "finetune.unfreeze.layers=30",
            "seed=7",
        ],
        train_head="adam",
        finetune="last_20",
    )
    before = {file: file.read_text(encoding="utf-8") for file in folder.rglob("*.yaml")}
    difference = promote("abc")
    assert plain(compose([])) == wanted
    assert [line for line in difference.splitlines() if line.startswith(("+", "-"))] == [
        "--- a/params.yaml",
        "+++ b/params.yaml",
        "-train_head: lbfgs",
        "-finetune: auto",
        "+train_head: adam",
        "+finetune: last_20",
        "-seed: 0 # of the split, the shuffling and the dropout",
        "+seed: 7 # of the split, the shuffling and the dropout",
        "--- a/conf/train_head/adam.yaml",
        "+++ b/conf/train_head/adam.yaml",
        "-learning_rate: 0.001 # Adam's",
        "+learning_rate: 3.0e-05 # Adam's",
        "--- a/conf/finetune/last_20.yaml",
        "+++ b/conf/finetune/last_20.yaml",
        "-  layers: 20 # as Keras counts them, activations included",
        "+  layers: 30 # as Keras counts them, activations included",
    ]
    changed = [
        file.relative_to(folder).as_posix() for file in before if file.read_text(encoding="utf-8") != before[file]
    ]
    assert sorted(changed) == ["conf/finetune/last_20.yaml", "conf/train_head/adam.yaml", "params.yaml"]


def test_what_is_the_configuration_already_changes_nothing(folder: Path) -> None:
    finish(folder, "abcdef", [])
    assert promote("abcdef") == ""


def test_keys_that_appear_and_go_are_followed(folder: Path) -> None:
    changes = ["finetune=last_6_blocks", "~finetune.unfreeze.blocks", "+finetune.unfreeze.all=true"]
    wanted = finish(folder, "abcdef", changes, finetune="last_6_blocks")
    promote("abcdef")
    assert plain(compose([])) == wanted
    assert OmegaConf.load(folder / "conf" / "finetune" / "last_6_blocks.yaml").unfreeze == {"all": True}


def test_policies_of_either_kind_take_each_other_s_place(folder: Path) -> None:
    wanted = finish(folder, "abcdef", ["finetune=none"], finetune="none")
    promote("abcdef")
    assert plain(compose([])) == wanted
    wanted = finish(folder, "fedcba", ["finetune=last_20", "finetune.epochs=3"], finetune="last_20")
    promote("fedcba")
    assert plain(compose([])) == wanted


@pytest.mark.parametrize(("name", "found"), [("x", "none"), ("a", "2"), ("", "2")])
def test_a_job_must_be_named_clearly(folder: Path, name: str, found: str) -> None:
    finish(folder, "abc", [])
    finish(folder, "abd", [])
    with pytest.raises(UserError, match=f"expected the name of one of 2 finished jobs, found '{name}', which {found} "):
        promote(name)


def test_an_option_that_is_gone_is_said(folder: Path) -> None:
    finish(folder, "abc", [], finetune="mine")
    with pytest.raises(UserError, match="expected the option that the job chose in conf/finetune/mine.yaml, found no"):
        promote("abc")


def test_a_configuration_that_cannot_be_written_leaves_everything_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(folder, "abc", ["seed=7"])
    monkeypatch.setattr(promotion, "edited", lambda text, old, new: text)
    with pytest.raises(UserError, match="found another value of seed; everything is as it was"):
        promote("abc")
    assert yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))["seed"] == 0
