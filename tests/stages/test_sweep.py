"""Sweeps: what jobs have in common is computed once, what is done is not done again, and a failure stops nothing."""

import csv
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from mlflow import MlflowClient

from hydra_plugins.thaw_sweeper import Searcher
from stages import sweep
from tests.helpers import finished
from tests.helpers.killing import alive
from tests.helpers.project import SWEEP, Project, checkout
from thaw.artifacts import STAGES, Paths, read_json, write_json
from thaw.config.schema import Adam, Augment, Backbone, Dataset, Evaluate, Finetune, Lbfgs
from thaw.data import manifest
from thaw.errors import UserError
from thaw.learning import predictions
from thaw.sweeps import jobs, publication, running, speed
from thaw.sweeps.process import WorkerError

# Everything but the stages, in this process: stages that bring fabricated outputs, and count.


class Stages:
    """Stages that copy what ``finished.pipeline`` has fabricated.

    Attributes:
        ran: the names of those that ran.
        tuned: what fine-tunings were asked for.
        broken: one that fails at these learning rates, with these errors.
        found: what evaluate finds beside accuracies.
    """

    def __init__(self, source: Paths) -> None:
        self.ran: list[str] = []
        self.tuned: list[Any] = []
        self.broken: dict[float, Exception] = {}
        self.found: dict[str, Any] = {}
        self._source = source

    def _copy(self, paths: Paths, name: str) -> None:
        self.ran.append(name)
        with paths.stage(name) as out:
            shutil.copytree(self._source.root / name, out, dirs_exist_ok=True)
            (out / "config.json").unlink(missing_ok=True)

    def prepare(self, paths: Paths, dataset: Dataset, seed: int) -> None:
        self._copy(paths, "prepare")

    def extract_features(self, paths: Paths, backbone: Backbone, augment: Augment, seed: int) -> None:
        assert paths.manifest.exists()
        self._copy(paths, "extract_features")

    def probe(self, paths: Paths, train_head: Adam | Lbfgs, seed: int) -> None:
        assert paths.backbone.exists()
        self.ran.append("probe")
        found = predictions.read(self._source.predictions("train_head"))
        records = [one for one in manifest.read(paths.manifest) if one.split != "train"]
        with paths.stage("probe") as out:
            predictions.write(out / "predictions.csv", read_json(paths.classes), records, found.probabilities)

    def audit(self, paths: Paths, seed: int) -> None:
        assert paths.features.exists()
        self._copy(paths, "audit")

    def train_head(self, paths: Paths, train_head: Adam | Lbfgs, seed: int) -> None:
        assert paths.backbone.exists()
        self._copy(paths, "train_head")

    def finetune(self, paths: Paths, backbone: Backbone, augment: Augment, finetune: Finetune, seed: int) -> None:
        assert paths.head.exists()
        self.tuned.append(finetune)
        if error := self.broken.get(getattr(finetune, "learning_rate", 0.0)):
            raise error
        self._copy(paths, "finetune")

    def evaluate(self, paths: Paths, evaluate: Evaluate, seed: int) -> None:
        assert paths.predictions("finetune").exists()
        self.ran.append("evaluate")
        with paths.stage("evaluate") as out:
            tuned = {"val_accuracy": 0.8, "accuracy": 0.75, "accuracy_low": 0.6, "accuracy_high": 0.9}
            said = {"verdict": "no difference shown", "kept": "finetuned", "n_test": 60}
            head = {"accuracy": 0.7 + 0.01 * seed}
            write_json(out / "figures.json", said | {"head": head, "finetuned": tuned} | self.found)


class Inline:
    """Does a worker's work in this process."""

    def __call__(self, job: jobs.Job, wears: bool) -> tuple[str, str]:
        return jobs.attempt(job)

    def stop(self) -> None:
        """There is no process to end."""


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stages:
    source = finished.pipeline(tmp_path)
    found = Stages(source)
    monkeypatch.setattr(sweep, "STAGES", {name: getattr(found, name) for name in (*STAGES, "probe")})
    monkeypatch.setattr(jobs, "FOLDER", tmp_path / "multirun")
    monkeypatch.setattr(jobs, "DATA", source.data)
    monkeypatch.setattr(running, "worker", Inline)
    monkeypatch.setattr(publication, "publish_sweep", lambda *_: None)
    monkeypatch.setenv("THAW_SWEEP", "")
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture
def run(stages: Stages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def command(*arguments: str, status: int = 0) -> str:
        stages.ran.clear()
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["sweep", "-m", *arguments])
        if status:
            with pytest.raises(SystemExit) as left:
                sweep.main()
            assert left.value.code == status
        else:
            sweep.main()
        first, _, rest = capsys.readouterr().out.partition("\n")
        assert re.fullmatch(r"Sweep \w{10}: \d+ jobs?", first)
        return rest

    return command


def test_what_jobs_have_in_common_is_computed_once(stages: Stages, run: Callable[..., str]) -> None:
    run("train_head=adam,mlp", "train_head.learning_rate=0.01,0.001")
    assert stages.ran == [*STAGES, *3 * ["train_head", "finetune", "evaluate"]]
    run(
        "train_head=adam",
        "train_head.learning_rate=0.01",
        "finetune=last_20,last_3_blocks",
        "evaluate.resamples=100,200",
    )
    assert stages.ran == ["finetune", "evaluate", "evaluate", "finetune", "evaluate", "evaluate"]


def test_a_job_s_folder_holds_all_its_stages(run: Callable[..., str], tmp_path: Path) -> None:
    run("finetune=last_3_blocks", "finetune.learning_rate=0.01,0.001")
    jobs = sorted((tmp_path / "multirun" / "jobs").iterdir())
    assert len(jobs) == 2
    for job in jobs:
        assert {path.name for path in job.iterdir()} == {*STAGES, "result.json"}
        assert Paths(root=job).predictions("finetune").exists()
        assert all(not (job / stage).readlink().is_absolute() for stage in STAGES), "the project may move"
        assert read_json(job / "result.json")["choices"]["finetune"] == "last_3_blocks"
    assert not [*(tmp_path / "multirun").glob(".running/*")]


def test_the_same_command_again_does_nothing_again(stages: Stages, run: Callable[..., str]) -> None:
    first = run("finetune=last_3_blocks", "finetune.learning_rate=0.01,0.001")
    second = run("finetune=last_3_blocks", "finetune.learning_rate=0.01,0.001")
    assert stages.ran == []
    assert second.count("finished before") == 2
    assert first.split("\n\n")[1:] == second.split("\n\n")[1:], "the same table"


def test_another_sweep_finds_the_jobs_of_the_first(stages: Stages, run: Callable[..., str]) -> None:
    run("finetune=last_3_blocks", "finetune.learning_rate=0.01,0.001")
    assert run("finetune=last_3_blocks", "finetune.learning_rate=1e-2,1e-4").count("finished before") == 1
    assert stages.ran == ["finetune", "evaluate"]


def test_fixed_keys_of_options_that_vary_are_the_jobs_alone(stages: Stages, run: Callable[..., str]) -> None:
    """The default option, auto, has no number of epochs."""
    run("finetune=last_3_blocks,last_6_blocks", "finetune.epochs=2")
    assert [(one.unfreeze.blocks, one.epochs) for one in stages.tuned] == [(3, 2), (6, 2)]


def test_data_that_were_touched_are_looked_at_and_no_more(
    stages: Stages, run: Callable[..., str], tmp_path: Path
) -> None:
    run("seed=0,1")
    picture = next((tmp_path / "data").rglob("*.png"))
    os.utime(picture, (1, 1))
    out = run("seed=0,1")
    assert stages.ran == ["prepare", "prepare"], "what it found is the same, and so are the jobs"
    assert "finished before" not in out


def test_a_failure_is_told_and_stops_nothing(stages: Stages, run: Callable[..., str], tmp_path: Path) -> None:
    stages.broken = {0.2: UserError("expected a finite loss, found nan"), 0.3: ZeroDivisionError("division by\nzero")}
    command = ["finetune=last_3_blocks", "finetune.learning_rate=0.1,0.2,0.3,-1,0.4"]
    out = run(*command, status=1)
    lines = out.splitlines()
    assert "failed: expected a finite loss, found nan" in lines[1]
    assert re.search(r"failed: ZeroDivisionError: division by zero \(see multirun/sweeps/\w+/2.log\)$", lines[2])
    assert "finetune.learning_rate=-1: learning_rate: expected a value above 0, found -1" in lines[3]
    assert "the best of 2 configurations" in out
    assert "3 of 5 jobs failed; the same command tries them again:\n  finetune.learning_rate=0.2: expected a fin" in out
    stages.broken = {}
    run(*command, status=1)
    assert stages.ran == 2 * ["finetune", "evaluate"]


def test_heads_are_compared_alone_and_the_best_one_is_finished(
    stages: Stages, run: Callable[..., str], tmp_path: Path
) -> None:
    out = run("rank=head", "train_head=adam,mlp", "train_head.learning_rate=0.01,0.001")
    assert stages.ran == [*STAGES[:3], *4 * ["train_head"], "finetune", "evaluate"]
    assert out.count("75.0%") == 1, "of the winner only"
    assert len([job for job in (tmp_path / "multirun" / "jobs").iterdir() if (job / "evaluate").exists()]) == 1
    best = out.split("\n\n")[2].splitlines()[1].split()[-1]
    assert f"Winner: job {best}," in out
    assert out.endswith(f"--promote {best}\n"), "a job that the table names"
    assert out.split("\n\n")[2].splitlines()[0].split()[-2:] == ["loss", "job"]
    again = run("rank=head", "train_head=adam,mlp", "train_head.learning_rate=0.01,0.001")
    assert stages.ran == []
    assert again.count("finished before") == 4
    run("train_head=adam,mlp", "train_head.learning_rate=0.01,0.001")
    assert stages.ran == 3 * ["finetune", "evaluate"], "the heads are there, and so is the winner"


def test_a_winner_that_cannot_be_finished_is_told(stages: Stages, run: Callable[..., str]) -> None:
    stages.broken = {0.001: UserError("expected a finite loss, found nan")}
    out = run("rank=head", "train_head=adam,mlp", "finetune=last_3_blocks", "finetune.learning_rate=0.001", status=1)
    assert out.endswith("\nThe best of them could not be finished: expected a finite loss, found nan\n")
    assert "Winner" not in out


def test_seeds_are_repetitions_and_their_mean_is_ranked(run: Callable[..., str], tmp_path: Path) -> None:
    out = run("seed=0,1,2", "finetune=last_3_blocks", "finetune.learning_rate=0.1,0.2")
    header, *rows = out.split("\n\n")[1].splitlines()
    assert header.split() == ["rank", "finetune.learning_rate", "validation", "loss", "kept", "job"]
    assert len(rows) == 2
    assert all("% ± 0.0" in row for row in rows)
    assert "Figures are means of 3 seeds, which differ in their split, ± their standard deviation." in out
    assert "On 60 test images, which chose nothing: 75.0% on average, 75.0% to 75.0%." in out
    assert "different images" not in out
    said, _, row, _ = out.split("\n\n")[3].splitlines()[:4]
    assert said == "What fine-tuning adds to the best configuration, on the test images of its 3 seeds:"
    assert row == "71.0% ± 1.0  75.0% ± 0.0  +4.0 ± 1.0  +1.5 to +6.5  3 of 3"
    (folder,) = (tmp_path / "multirun" / "sweeps").iterdir()
    assert (folder / "summary.txt").read_text(encoding="utf-8") == out.partition("\n\n")[2]
    written = (folder / "seeds.csv").read_text(encoding="utf-8").splitlines()
    assert written[0] == "seed,before,after"
    assert len(written) == 4
    assert (folder / "seeds.svg").exists()
    assert (
        run("finetune=last_3_blocks", "finetune.learning_rate=0.1,0.2", "hydra.sweeper.seeds=3").count(
            "finished before"
        )
        == 6
    )


def test_copies_that_the_audit_has_found_are_told(run: Callable[..., str], stages: Stages) -> None:
    rest = {"images": 57, "before": 0.7, "before_low": 0.6, "before_high": 0.8}
    stages.found = {"without_copies": rest | {"after": 0.74, "after_low": 0.61, "after_high": 0.85}}
    out = run("finetune=last_3_blocks", "finetune.learning_rate=0.1,0.2")
    said = "3 of 60 test images have a copy among the training or validation images; on the 57 others, accuracy is "
    assert f"{said}70.0% before (60.0% to 80.0%) and 74.0% after (61.0% to 85.0%).\n" in out
    out = run("seed=0,1,2", "finetune=last_3_blocks", "finetune.learning_rate=0.3")
    assert "9 of 180 test images of all seeds have a copy among the training or validation images" in out


def test_a_configuration_that_lacks_a_seed_is_not_ranked(
    run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlucky(_: Inline, job: jobs.Job, wears: bool) -> tuple[str, str]:
        if job.sections["seed"] == 1 and job.sections["finetune"].learning_rate == 0.2:
            return "", "bad luck"
        return jobs.attempt(job)

    monkeypatch.setattr(Inline, "__call__", unlucky)
    out = run("finetune=last_3_blocks", "finetune.learning_rate=0.1,0.2", "seed=0,1", status=1)
    assert "1 more configuration was given up early or cut short by a failure." in out
    assert "one configuration by validation" in out


def test_what_cannot_be_composed_fails_at_once_and_stops_nothing(stages: Stages, run: Callable[..., str]) -> None:
    out = run("train_head=lbfgs,adam", "train_head.learning_rate=0.1,0.2", status=1)
    first, second, *rest = out.splitlines()
    for line in (first, second):
        assert "train_head=lbfgs train_head.learning_rate=0." in line
        assert "failed: expected overrides like" in line
    assert rest[0].startswith("3/4  train_head=adam train_head.learning_rate=0.1  validation")
    assert "the best of 2 configurations" in out
    assert "2 of 4 jobs failed" in out


def test_a_job_whose_machine_is_lost_is_a_failure_and_a_mistake_in_the_code_is_none(
    stages: Stages, capsys: pytest.CaptureFixture[str]
) -> None:
    returns = [JobReturn(status=JobStatus.COMPLETED, _return_value=0.5)]
    returns += [
        JobReturn(status=JobStatus.FAILED, _return_value=error) for error in (UserError("no power"), KeyError())
    ]
    searcher = Searcher(None)
    searcher.launcher = SimpleNamespace(launch=lambda *_: returns)
    begun = running.Sweep(sweep.STAGES)
    begun.begin(["seed=0,1,2"], "model", ["seed"], 3)
    answers = searcher._answers(begun, [["seed=0"], ["seed=1"], ["seed=2"]], 0)
    assert [next(answers), next(answers)] == [0.5, None]
    assert "seed=1  failed: no power" in capsys.readouterr().out
    with pytest.raises(KeyError):
        next(answers)


def test_optuna_proposes_and_the_same_command_finds_it_all_done(stages: Stages, run: Callable[..., str]) -> None:
    command = ["train_head=adam", "train_head.dropout=interval(0.0,0.9)", "finetune=last_20,last_3_blocks"]
    search = ["hydra.sweeper.sampler=tpe", "hydra.sweeper.trials=4"]
    out = run(*command, *search)
    assert out.count("head alone") == 4
    assert {stages.ran.count(stage) for stage in ("train_head", "finetune")} == {4}
    again = run(*command, *search)
    assert stages.ran == []
    assert again.count("finished before") == 8
    assert again.split("\n\n")[1:] == out.split("\n\n")[1:]


def test_backbones_are_ranked_by_heads_with_intervals(
    stages: Stages, run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "milliseconds", lambda backbones: [12.34 for _ in backbones])
    out = run("rank=backbone", "backbone=mobilenet_v2_bundled,custom", "backbone.weights=random", status=1)
    assert stages.ran == ["prepare", "extract_features", "probe"]
    assert "custom network" in out
    header, row = out.split("\n\n")[1].splitlines()
    assert header.split() == ["rank", "backbone", "cross-validated", "interval", "p", "loss", "ms", "job"]
    assert row.split()[-2] == "12.3"
    assert "\nquicker and more accurate than mobilenet_v2_bundled.\n" in out
    (folder,) = (tmp_path / "multirun" / "sweeps").iterdir()
    assert "mobilenet_v2_bundled: " in (folder / "cost.svg").read_text(encoding="utf-8")
    assert re.search(r"\d\d\.\d% +\d\d\.\d% to \d\d\.\d%", row)
    assert "the test images have no part in it" in out
    assert "75.0%" not in out


def test_backbones_are_ranked_all_the_same_where_they_cannot_be_timed(
    run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: Any) -> list[float]:
        raise UserError("weights: expected a file, found none; restore it")

    monkeypatch.setattr(speed, "milliseconds", gone)
    out = run("rank=backbone", "backbone=mobilenet_v2_bundled", "backbone.weights=random")
    assert "The networks' speed cannot be measured: weights: expected a file, found none; restore it\n" in out
    assert out.split("\n\n")[2].splitlines()[0].split()[-2:] == ["loss", "job"]
    (folder,) = (tmp_path / "multirun" / "sweeps").iterdir()
    assert not (folder / "cost.svg").exists()


def test_backbones_at_hand_are_those_whose_weights_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert running.at_hand() == ["mobilenet_v2_bundled"]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnetb0_notop.h5").touch()
    assert running.at_hand() == ["efficientnet_b0", "mobilenet_v2_bundled"]


def test_a_process_that_dies_is_a_failure(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(_: Inline, job: jobs.Job, wears: bool) -> tuple[str, str]:
        if job.sections["seed"] == 1:
            raise WorkerError("its process ended with signal SIGKILL")
        return jobs.attempt(job)

    monkeypatch.setattr(Inline, "__call__", dies)
    out = run("seed=0,1,2", status=1)
    assert out.splitlines()[1].startswith("2/3  seed=1  failed: its process ended with signal SIGKILL; perhaps memory")
    assert "1 of 3 jobs failed" in out


def test_a_kill_in_the_middle_loses_the_job_at_hand_at_most(
    stages: Stages, run: Callable[..., str], tmp_path: Path
) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL."""

    stages.broken = {0.2: Killed()}  # type: ignore[dict-item]
    with pytest.raises(Killed):
        run("finetune=last_3_blocks", "finetune.learning_rate=0.1,0.2,0.3")
    stages.broken = {}
    (tmp_path / "multirun" / ".running").mkdir(exist_ok=True)
    out = run("finetune=last_3_blocks", "finetune.learning_rate=0.1,0.2,0.3")
    assert stages.ran == 2 * ["finetune", "evaluate"]
    assert out.count("finished before") == 1


def test_what_a_killed_stage_has_left_is_swept_away(run: Callable[..., str], stages: Stages, tmp_path: Path) -> None:
    run("seed=0")
    kept = (tmp_path / "multirun" / "stages" / "evaluate").iterdir()
    (place,) = (one for one in kept if one.suffix != ".lock")
    shutil.rmtree(tmp_path / "multirun" / "jobs")
    shutil.rmtree(place)
    left = tmp_path / "multirun" / ".running" / place.name / "prepare"
    left.mkdir(parents=True)
    run("seed=0")
    assert stages.ran == ["evaluate"]
    assert not left.exists()


def test_the_status_says_how_far_it_is_and_how_long_it_takes(run: Callable[..., str]) -> None:
    first, *_, last = run("seed=range(0,12)").splitlines()[:12]
    assert re.fullmatch(r" 1/12  seed=0  validation \d+\.\d%  \d\.\d s  about \d+ s left", first)
    assert re.fullmatch(r"12/12  seed=11  validation \d+\.\d%  \d\.\d s", last)


def test_the_table_names_what_varies_and_the_test_figure_of_the_winner_only(
    run: Callable[..., str], tmp_path: Path
) -> None:
    out = run("train_head=adam,mlp", "finetune=last_3_blocks", "finetune.learning_rate=0.1,0.2")
    header, *rows = out.split("\n\n")[1].splitlines()
    assert header.split() == ["rank", "train_head", "finetune.learning_rate", "validation", "loss", "kept", "job"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3", "4"]
    assert out.count("75.0%") == 1
    assert "On 60 test images, which chose nothing: 75.0% (60.0% to 90.0%)." in out
    (folder,) = (tmp_path / "multirun" / "sweeps").iterdir()
    assert (folder / "summary.txt").read_text(encoding="utf-8") == out.partition("\n\n")[2]
    assert (folder / "table.csv").read_text(encoding="utf-8").startswith("rank,train_head,finetune.learning_rate,val")


def test_the_same_configuration_written_in_two_ways_counts_once(run: Callable[..., str]) -> None:
    assert "one configuration" in run("finetune=last_3_blocks", "finetune.learning_rate=0.1,1e-1")


# Through the real command line.


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return checkout(tmp_path_factory.mktemp("bare") / "project")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seed=1"], "expected -m and the keys to vary"),
        (["-m", "train_head=lbfgz"], "'train_head/lbfgz' Available options in 'train_head': adam lbfgs mlp"),
        (["-m", "rank=heads"], "rank: expected model, head, backbone, found 'heads'; correct it"),
        (["-m", "seed=interval(0,3)"], "seed: expected values to choose among, found an interval"),
        (["-m", "experiment=nothing"], "'experiment/nothing'"),
        (["-m", "seed=[0"], "at input '[0'"),
        (["--promote", "abc"], "expected the name of one of 0 finished jobs, found 'abc', which none of them begin"),
        (["--promote"], "expected the name of one job, found none; name one"),
    ],
)
def test_a_mistake_is_one_sentence(bare: Project, arguments: list[str], said: str) -> None:
    done = bare.stage("sweep", *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: ")
    assert said in sentence
    assert not (bare.root / "multirun" / "sweeps").exists()


def test_a_wrong_address_of_mlflow_is_said_before_the_work(bare: Project) -> None:
    done = bare.stage("sweep", "-m", "seed=1,2", MLFLOW_TRACKING_URI="mlruns")
    assert done.returncode == 1
    assert done.stderr.startswith("error: MLFLOW_TRACKING_URI: expected a database or a server")
    assert done.stdout == ""


def test_the_configuration_is_shown(bare: Project) -> None:
    done = bare.stage("sweep", "--cfg", "job")
    assert {*yaml.safe_load(done.stdout)} >= {"backbone", "seed"}


# Everything for real.


@pytest.mark.slow
def test_a_sweep_leaves_the_project_as_it_is(swept: Project) -> None:
    assert "up to date" in swept.dvc("status")
    assert swept.shell("git", "status", "--short") == ""


@pytest.mark.slow
def test_every_job_is_a_complete_run_of_the_sweep_and_one_sums_it_up(swept: Project) -> None:
    client = MlflowClient(swept.variables["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("thaw").experiment_id
    (folder,) = (swept.root / "multirun" / "sweeps").iterdir()
    runs = client.search_runs([experiment], f"tags.`thaw.sweep` = '{folder.name}'")
    summaries = [run for run in runs if "thaw.sweep.summary" in run.data.tags]
    assert len(summaries) == 1
    assert {artifact.path for artifact in client.list_artifacts(summaries[0].info.run_id)} >= {
        "summary.txt",
        "table.csv",
    }
    jobs = [run for run in runs if run not in summaries]
    assert len(jobs) == 4
    for run in runs:
        assert run.info.status == "FINISHED"
    for run in jobs:
        assert {"head/accuracy", "finetuned/accuracy", "curve/val_loss"} <= {*run.data.metrics}
    assert {run.data.params["train_head.solver"] for run in jobs} == {"lbfgs", "adam"}


@pytest.mark.slow
def test_heads_alone_and_fine_tuned_compete_and_either_may_be_promoted(swept: Project, tmp_path: Path) -> None:
    project = swept.copy(tmp_path / "project")
    done = project.stage("sweep", "-m", "finetune=none,toy")
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if re.match(r"\d +none ", line))
    assert row.split()[4] == "head"
    done = project.stage("sweep", "--promote", row.split()[5])
    assert "+finetune: none" in done.stdout
    assert project.repro() == ["finetune", "evaluate"]
    assert read_json(project.paths.figures)["verdict"] == "nothing was fine-tuned"
    lock = project.lock
    assert project.repro("--force") == list(STAGES)
    assert project.lock == lock
    assert project.dvc("plots", "show").startswith("file://")
    project.dvc("plots", "diff", "HEAD")


@pytest.mark.slow
def test_seeds_end_in_what_fine_tuning_adds_over_them(swept: Project, tmp_path: Path) -> None:
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    project = swept.copy(tmp_path / "project", **variables)
    done = project.stage("sweep", "-m", "seed=0,1,2", "finetune=toy", "finetune.learning_rate=0.001,0.01")
    assert done.returncode == 0, done.stdout + done.stderr
    name = done.stdout.split()[1].rstrip(":")
    folder = project.root / "multirun" / "sweeps" / name
    with (folder / "seeds.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["seed"] for row in rows) == [*"012"]
    records = [read_json(file) for file in folder.glob("*.json")]
    heads = {}
    for record in records:
        found = read_json(Paths(root=project.root / "multirun" / "jobs" / record["job"]).figures)
        heads[record["values"]["seed"]] = found["head"]["accuracy"]  # whether it is fine-tuned or not
    assert {row["seed"]: float(row["before"]) for row in rows} == pytest.approx(heads)
    mean = 100 * sum(float(row["after"]) - float(row["before"]) for row in rows) / 3
    said = done.stdout.partition("What fine-tuning adds to the best configuration, on the test images of its 3 seeds")[
        2
    ]
    assert f"{mean:+.1f} ±".replace("-", "−").replace("+0.0", "0.0") in said
    client = MlflowClient(variables["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("thaw").experiment_id
    (run,) = client.search_runs([experiment], f"tags.`thaw.sweep` = '{name}' AND tags.`thaw.sweep.summary` LIKE '%'")
    assert {"seeds.csv", "seeds.svg"} <= {one.path for one in client.list_artifacts(run.info.run_id)}
    assert "sweep/before" in run.data.metrics


@pytest.mark.slow
def test_a_promoted_job_is_what_the_project_then_computes(swept: Project, tmp_path: Path) -> None:
    project = swept.copy(tmp_path / "project")
    (folder,) = (project.root / "multirun" / "sweeps").iterdir()
    records = [read_json(file) for file in sorted(folder.glob("*.json"))]
    job = records[3]["job"]  # the last one: trained in a process that had trained others before
    done = project.stage("sweep", "--promote", job[:8])
    assert done.returncode == 0, done.stderr
    assert "+train_head: adam" in done.stdout
    project.repro()
    swept_paths = Paths(root=project.root / "multirun" / "jobs" / job)
    for name in ("train_head", "finetune", "evaluate"):
        for file in sorted((project.paths.root / name).rglob("*")):
            if file.is_file():
                same = (swept_paths.root / file.relative_to(project.paths.root)).read_bytes() == file.read_bytes()
                assert same, file.relative_to(project.root)
    assert read_json(project.paths.figures) == read_json(swept_paths.figures)


@pytest.mark.parametrize("names", [True, False])
def test_where_no_links_can_be_made_a_job_has_its_stages_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: bool
) -> None:
    """As second names of the files, or as copies."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    if not names:
        monkeypatch.setattr(os, "link", refuse)
    stage, job = tmp_path / "stages" / "key", tmp_path / "job"
    (stage / "plots").mkdir(parents=True)
    (stage / "plots" / "a.csv").write_bytes(b"x,y\n")
    job.mkdir()
    jobs._link({"evaluate": stage}, job)
    made = job / "evaluate" / "plots" / "a.csv"
    assert made.read_bytes() == b"x,y\n"
    assert made.samefile(stage / "plots" / "a.csv") == names
    shutil.rmtree(job)
    assert (stage / "plots" / "a.csv").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send to a group of processes")
def test_ctrl_c_ends_everything_and_the_same_command_goes_on(swept: Project, tmp_path: Path) -> None:
    project = swept.copy(tmp_path / "project")
    command = [sys.executable, "-m", "stages.sweep", *SWEEP, "seed=1"]
    with subprocess.Popen(
        command,
        cwd=project.root,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        process_group=0,
        # Whoever runs the tests in the background has SIGINT ignored, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as stopped:
        assert stopped.stdout is not None
        assert stopped.stderr is not None
        assert stopped.stdout.readline().startswith("Sweep ")
        assert stopped.stdout.readline().startswith("1/4")
        children = [child.pid for child in psutil.Process(stopped.pid).children()]
        time.sleep(0.5)
        os.killpg(stopped.pid, signal.SIGINT)
        assert stopped.wait(30) == 130
        assert stopped.stderr.read() == "\nstopped; the same command goes on where it was\n"
    for _ in range(50):
        if not any(map(alive, children)):
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process is left")
    assert len([*(project.root / "multirun" / "jobs").iterdir()]) == 5


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher"), reason="needs hydra-joblib-launcher"
)
def test_jobs_side_by_side_give_what_jobs_in_turn_give(swept: Project, tmp_path: Path) -> None:
    project = swept.copy(tmp_path / "project")
    shutil.rmtree(project.root / "multirun")
    done = project.stage("sweep", *SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("To make it the project's configuration")
    one, two = (sorted((root / "multirun" / "jobs").iterdir()) for root in (swept.root, project.root))
    assert [job.name for job in one] == [job.name for job in two]
    for same in zip(one, two, strict=True):
        first, second = (Paths(root=job).metrics.read_bytes() for job in same)
        assert first == second
