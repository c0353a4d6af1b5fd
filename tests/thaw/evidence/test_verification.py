"""What make verify says of a result, and how far other arithmetic on the sample really goes."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.project import Project, checkout
from thaw.artifacts import PROJECT, Paths
from thaw.data import manifest, sources
from thaw.evidence.verification import ENVIRONMENT, ROUNDING, Result, Verdict, compare
from thaw.learning import predictions

TRUTH = ["cat", "dog"] * 100
MADE = Result(
    data="1.dir",
    code={"thaw/heads.py": "1", "stages/finetune.py": "1"},
    configuration={"seed": 0, "backbone": "a", "backbone.engine": "auto", "finetune": "b", "finetune.epochs": 5},
    environment={"processor": "x86_64 with AMX", "threads": 2, "python": "3.11.7"},
    outputs={"artifacts/finetune": "1", "artifacts/evaluate/model": "1", ENVIRONMENT: "1"},
    answers={model: [[true, true] for true in TRUTH] for model in ROUNDING},
)


def changed(**how: Any) -> Verdict:
    """Compare a result, in which some things have changed, with ``MADE``."""
    now = {key: MADE.__getattribute__(key) | value if isinstance(value, dict) else value for key, value in how.items()}
    return compare(MADE, dataclasses.replace(MADE, **now))


def wrong(model: str, images: int) -> dict[str, list[list[str]]]:
    """Answers of a model that has the first ``images`` wrong."""
    return {model: [[true, "bird" if n < images else true] for n, true in enumerate(TRUTH)]}


OTHER = {"artifacts/evaluate/model": "2", ENVIRONMENT: "2"}


def test_the_same_bytes_are_said() -> None:
    assert compare(MADE, MADE) == Verdict("the same, to the byte", [])


def test_another_machine_alone_is_no_difference() -> None:
    found = changed(environment={"python": "3.12.1"}, outputs={ENVIRONMENT: "2"})
    assert found.sentence == "the same, to the byte"
    assert found.details == ["although it differs in environment: python 3.11.7 → 3.12.1"]


def test_rounding_is_told_by_how_many_predictions_differ_and_why() -> None:
    found = changed(outputs=OTHER, environment={"threads": 1}, answers=wrong("finetuned", 10))
    assert found.sentence == "the same within rounding"
    assert not found.failed
    assert found.details == [
        "before fine-tuning: accuracy 100.0%, committed 100.0%; 0 of 200 predictions differ (rounding explains 2)",
        "after it: accuracy 95.0%, committed 100.0%; 10 of 200 predictions differ (rounding explains 10)",
        "differs in environment: threads 2 → 1",
    ]


@pytest.mark.parametrize(("model", "images"), [("head", 3), ("finetuned", 11)])
def test_more_than_rounding_explains_is_a_failure(model: str, images: int) -> None:
    found = changed(outputs=OTHER, environment={"processor": "arm64"}, answers=wrong(model, images))
    assert found.sentence == "another one, by more than rounding explains"
    assert found.failed


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"data": "2.dir"}, "differs in data: data/"),
        ({"configuration": {"finetune.epochs": 6}}, "differs in configuration: finetune.epochs 5 → 6"),
        (
            {"configuration": {"finetune": "c", "finetune.epochs": 6, "finetune.mix": []}},
            "differs in configuration: finetune b → c",
        ),
        ({"configuration": {"seed": 1}}, "differs in configuration: seed 0 → 1"),
    ],
    ids=str,
)
def test_other_data_or_another_configuration_should_give_another_result(how: dict[str, Any], why: str) -> None:
    found = changed(outputs=OTHER, answers=wrong("head", 100), **how)
    assert found.sentence == "another one, as it should be"
    assert found.details[0] == why
    assert not found.failed


def test_other_code_and_another_engine_have_to_give_the_same_result() -> None:
    how: dict[str, Any] = {"code": {"thaw/heads.py": "2"}, "configuration": {"backbone.engine": "tensorflow"}}
    found = changed(outputs=OTHER, **how)
    assert found.sentence == "the same within rounding"
    assert found.details[2:] == [
        "differs in code: thaw/heads.py",
        "differs in environment: backbone.engine auto → tensorflow",
    ]
    assert changed(outputs=OTHER, answers=wrong("head", 100), **how).failed


def test_other_test_images_cannot_be_compared() -> None:
    answers = {model: rows[1:] for model, rows in MADE.answers.items()}
    found = changed(outputs=OTHER, answers=answers, data="2.dir")
    assert found.sentence == "another one, of other test images"
    assert not found.failed


# With real DVC and Git.


def verify(project: Project) -> str:
    done = project.run(sys.executable, "-m", "thaw.evidence.verification")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_result_is_compared_with_the_committed_one(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    project.shell("git", "reset", "--quiet", "HEAD~")
    assert verify(project).startswith("Compared with the committed result: there is none yet\n  'git add ")
    project.commit()
    assert verify(project) == "Compared with the committed result: the same, to the byte\n"
    picture = project.paths.root / "verification.svg"
    assert "the same, to the byte" in picture.read_text(encoding="utf-8")
    project.edit("conf/train_head/lbfgs.yaml", r"^inverse_l2: \[.*?\]", "inverse_l2: [0.002]")
    project.repro()
    said = verify(project)
    assert "another one, as it should be" in said
    assert "differs in configuration: train_head.inverse_l2 [" in said
    assert project.shell("git", "status", "--short", "artifacts").count("verification") == 0, "Git has no eyes for it"


def test_without_results_the_next_step_is_said(tmp_path: Path) -> None:
    project = checkout(tmp_path / "project")
    done = project.run(sys.executable, "-m", "thaw.evidence.verification")
    assert done.returncode == 1
    assert done.stderr.startswith("error: expected the results of 'dvc repro', found no ")


# How far other arithmetic goes: the sample, with everything that can be changed on one machine.

PIPELINE = """
import inspect, os, sys
from pathlib import Path
from stages import extract_features, finetune, prepare, train_head
from thaw.artifacts import Paths
from thaw.config.composing import compose
chosen = compose(sys.argv[3:])
for stage in (prepare, extract_features, train_head, finetune):
    names = [name for name in inspect.signature(stage.run).parameters if name in chosen]
    stage.run(Paths(Path(sys.argv[1]), Path(sys.argv[2])), **{name: chosen[name] for name in names})
"""
# Kernels as on a processor without AVX-512: of oneDNN (in TensorFlow), NumPy and OpenBLAS. OpenVINO has no such switch.
OLDER = {"ONEDNN_MAX_CPU_ISA": "AVX2", "NPY_DISABLE_CPU_FEATURES": "AVX512F", "OPENBLAS_CORETYPE": "Haswell"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="binds itself to one core, which is Linux' way")
def test_other_arithmetic_changes_the_sample_by_no_more_than_rounding(tmp_path: Path) -> None:
    sources.write_digits(tmp_path / "data")

    def run(name: str, *overrides: str, cores: int | None = None, **variables: str) -> Paths:
        paths = Paths(tmp_path / "data", tmp_path / name)
        bound = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if cores == 1 else []
        subprocess.run(
            [*bound, sys.executable, "-c", PIPELINE, paths.data, paths.root, *overrides],
            cwd=PROJECT,
            env=os.environ | {"THAW_CACHE": str(tmp_path / f"cache of {name}"), "THAW_LIVE": "0"} | variables,
            check=True,
        )
        return paths

    reference = run("reference")
    records = manifest.read(reference.manifest)
    labels = {record.path: record.label for record in records}
    for other in (run("older and one core", cores=1, **OLDER), run("tensorflow", "backbone.engine=tensorflow")):
        expected, found = np.load(reference.features), np.load(other.features)
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
        for stage, model in (("train_head", "head"), ("finetune", "finetuned")):
            before, now = predictions.read(reference.predictions(stage)), predictions.read(other.predictions(stage))
            assert now.paths == before.paths
            test = np.array([split == "test" for split in before.splits])
            answers = [one.probabilities[test].argmax(1) for one in (before, now)]
            assert np.mean(answers[0] != answers[1]) <= ROUNDING[model]
            true = np.array([labels[path] for path in before.paths])[test]
            rights = [np.mean(np.array(one.answers)[test] == true) for one in (before, now)]
            assert abs(rights[0] - rights[1]) <= 0.02
        before, now = (predictions.read(one.predictions("train_head")) for one in (reference, other))
        # The head is solved to its minimum: features that were rounded otherwise move it by 0.00002 in the mean.
        apart = np.abs(now.probabilities - before.probabilities)
        assert np.quantile(apart, 0.999) <= 0.02
        assert apart.mean() <= 2e-4
