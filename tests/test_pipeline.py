"""The whole pipeline with real DVC, on colour squares with a toy backbone: what comes out, and what reruns."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dvc.repo import Repo
from mlflow import MlflowClient

from stages import audit, evaluate, extract_features, finetune, prepare, train_head
from tests.helpers import options
from tests.helpers.project import CODE, Project, place, ran, squares, used_by
from thaw.artifacts import STAGES, Paths, read_json
from thaw.config.schema import Augment, Backbone, Dataset, Evaluate, Finetune, Lbfgs
from thaw.data import manifest
from thaw.learning import predictions

GATE = 0.9
MODELS = ("finetuned", "head")
NOTHING: list[str] = []
AUGMENT = Augment.model_validate(options.AUGMENT)
LBFGS = Lbfgs.model_validate(options.LBFGS)


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to change."""
    return finished.copy(tmp_path / "project")


@pytest.fixture(scope="module")
def status(finished: Project) -> Iterator[Any]:
    """'dvc status' of the finished project, as a function: the stages whose own dependencies have changed."""
    config = {"core": {"site_cache_dir": str(finished.root / ".site")}}

    def changed() -> set[str]:
        with Repo(str(finished.root), config=config) as repo:
            return {place.rpartition(":")[2] for place in repo.status()}  # dvc.yaml may stand before a stage's name

    return changed


# The answer.


def test_the_metrics_are_those_that_were_promised(finished: Project) -> None:
    metrics = read_json(finished.paths.figures)
    figures = {"accuracy", "accuracy_low", "accuracy_high", "macro_f1"}
    for model in ("head", "finetuned", "delta"):
        assert figures <= {*metrics[model]}
    assert {"mcnemar_p", "n_test", "verdict"} <= {*metrics}
    test = [record for record in manifest.read(finished.paths.manifest) if record.split == "test"]
    assert metrics["n_test"] == len(test)


def test_colour_squares_pass_the_gate(finished: Project) -> None:
    metrics = read_json(finished.paths.figures)
    assert metrics["head"]["accuracy"] >= GATE
    assert metrics["finetuned"]["accuracy"] >= GATE


@pytest.mark.slow
def test_squares_with_shuffled_labels_fail_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: Backbone
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    paths = Paths(squares(tmp_path / "data"), tmp_path / "artifacts")
    shuffle(paths.data)
    prepare.run(paths, Dataset(val=0.2, test=0.2, min_images=3, max_megapixels=1), seed=0)
    extract_features.run(paths, toy, AUGMENT, seed=0)
    audit.run(paths, seed=0)
    train_head.run(paths, LBFGS, seed=0)
    gentle = Finetune.model_validate(options.FINETUNE | {"label_smoothing": 0, "epochs": 2})
    finetune.run(paths, toy, AUGMENT, gentle, seed=0)
    evaluate.run(
        paths,
        Evaluate(confidence=0.95, resamples=500, keep_best_of=["head", "finetuned"], splits=10, sure_enough=0.98),
        seed=0,
    )
    metrics = read_json(paths.figures)
    assert metrics["head"]["accuracy"] < GATE - 0.2
    assert metrics["finetuned"]["accuracy"] < GATE - 0.2
    assert metrics["verdict"] != "fine-tuning helped"


def shuffle(data: Path) -> None:
    """Deal the files out to the class folders again, so that a class says nothing about the colour."""
    files = sorted(data.rglob("*.png"))
    folders = [file.parent for file in files]
    for number, file in enumerate(files):
        file.rename(data / f"{number}.png")
    for number, new in enumerate(np.random.default_rng(0).permutation(len(files))):
        (data / f"{number}.png").rename(folders[new] / f"{number}.png")


def test_dvc_shows_the_metrics(finished: Project) -> None:
    shown = json.loads(finished.dvc("metrics", "show", "--json"))
    assert shown[""]["data"]["artifacts/evaluate/metrics.json"]["data"] == read_json(finished.paths.metrics)


def test_the_metrics_that_dvc_shows_fit_a_terminal(finished: Project) -> None:
    lines = finished.dvc("metrics", "show").splitlines()
    assert max(map(len, lines)) <= 100
    assert len(read_json(finished.paths.metrics)) <= 12


def test_dvc_shows_the_plots(project: Project) -> None:
    page = Path(project.dvc("plots", "show").strip().removeprefix("file://")).read_text(encoding="utf-8")
    drawn = set(re.findall(r"vegaEmbed\('#(\w+)'", page))
    assert drawn == {name for plot in yaml.safe_load((project.root / "dvc.yaml").read_text())["plots"] for name in plot}


def test_the_pipeline_leaves_for_git_its_lock_and_what_people_compare(finished: Project) -> None:
    names = finished.shell("git", "show", "--name-only", "--format=", "HEAD").split()
    plots = [f"plots/{kind}_{model}.csv" for kind in ("confusion", "curve", "reliability") for model in MODELS]
    plots += ["plots/learning_curve.csv", "plots/risk_coverage.csv", "plots/splits.csv"]
    files = ["environment.json", "figures.json", "metrics.json", *sorted(plots)]
    assert names == [*(f"artifacts/evaluate/{file}" for file in files), "dvc.lock"]


# The same bytes again.


def test_a_forced_repetition_leaves_the_lock_byte_identical(project: Project) -> None:
    before = project.lock
    assert project.repro("--force") == list(STAGES)
    assert project.lock == before


@pytest.mark.slow
def test_a_second_repetition_without_any_cache_does_too(project: Project) -> None:
    before = project.lock
    for _ in range(2):
        shutil.rmtree(project.root / ".cache")
        assert project.repro("--force") == list(STAGES)
        assert project.lock == before


def test_another_seed_gives_another_lock_and_another_split(project: Project) -> None:
    lock, split = project.lock, project.paths.manifest.read_bytes()
    project.edit("params.yaml", "^seed: 0", "seed: 1")
    assert project.repro("train_head") == ["prepare", "extract_features", "train_head"]
    assert project.lock != lock
    assert project.paths.manifest.read_bytes() != split


# What an edit reruns.


def test_after_the_first_run_nothing_is_left_to_do(status: Any) -> None:
    assert status() == set()


@pytest.mark.slow
def test_editing_the_chosen_train_head_option_reruns_what_follows_it(project: Project) -> None:
    project.edit("conf/train_head/lbfgs.yaml", r"^inverse_l2: \[.*?\]", "inverse_l2: [0.002]")
    assert project.repro() == ["train_head", "finetune", "evaluate"]


@pytest.mark.slow
def test_editing_the_chosen_finetune_option_reruns_what_follows_it(project: Project) -> None:
    project.edit("conf/finetune/toy.yaml", "^learning_rate: .*", "learning_rate: 0.001")
    assert project.repro() == ["finetune", "evaluate"]


def test_editing_an_unchosen_option_reruns_nothing(project: Project) -> None:
    project.edit("conf/train_head/adam.yaml", "^learning_rate: 0.001", "learning_rate: 0.01")
    project.edit("conf/finetune/last_20.yaml", "^epochs: 10", "epochs: 20")
    assert project.repro() == NOTHING


def test_editing_a_comment_in_a_chosen_option_reruns_nothing(project: Project) -> None:
    with project.appended("conf/train_head/lbfgs.yaml", "# a remark\n"):
        assert project.repro() == NOTHING


def test_editing_what_publishes_reruns_evaluate_only(project: Project) -> None:
    with project.appended("thaw/runs/publishing.py", "# a remark\n"):
        assert project.repro() == ["evaluate"]


ONE_OF_EACH = {place(file): file for file in CODE if file.startswith("thaw/")}


@pytest.mark.parametrize("file", [*ONE_OF_EACH.values(), "thaw/evidence/report.html.j2"])
def test_editing_a_room_changes_exactly_the_stages_that_use_it(finished: Project, status: Any, file: str) -> None:
    with finished.appended(file, "\n# a remark\n"):
        assert status() == {stage for stage in STAGES if place(file) in used_by(stage)}


def test_what_an_edit_leaves_behind_reruns_nothing(finished: Project, status: Any) -> None:
    """Compiled modules, and an editor's copies."""
    names = ("__pycache__/x.cpython-311.pyc", "images.py~", ".images.py.swp")
    left = [finished.root / "thaw" / "data" / name for name in names]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    assert status() == set()
    for file in left:
        file.unlink()


# Experiments.


@pytest.mark.slow
def test_switching_the_backbone_there_and_back_extracts_nothing_twice(project: Project) -> None:
    there = project.dvc("exp", "run", "--set-param", "backbone=toy_48px")
    assert ran(there) == ["extract_features", "audit", "train_head", "finetune", "evaluate"]
    shutil.rmtree(project.root / ".cache" / "features")
    back = project.dvc("exp", "run", "--set-param", "backbone=toy")
    # DVC keeps no run of a stage that has outputs in Git; evaluate takes seconds.
    assert ran(back) == ["evaluate"]
    assert "Stage 'extract_features' is cached - skipping run" in back


@pytest.mark.slow
def test_a_rate_set_for_an_experiment_is_a_number(project: Project) -> None:
    done = project.dvc("exp", "run", "--set-param", "conf/finetune/toy.yaml:learning_rate=3e-6")
    assert ran(done) == ["finetune", "evaluate"]
    assert read_json(project.paths.config("finetune"))["finetune"]["learning_rate"] == 3e-6


@pytest.mark.slow
def test_an_experiment_in_a_temporary_folder_keeps_its_run_and_features_in_the_project(project: Project) -> None:

    here = Project(project.root)  # where runs and features lie when nothing says otherwise
    before = {path.name for path in (here.root / ".cache" / "features").iterdir()}
    done = here.dvc("exp", "run", "--temp", "--set-param", "backbone=toy_48px")
    assert ran(done) == ["extract_features", "audit", "train_head", "finetune", "evaluate"]
    assert {path.name for path in (here.root / ".cache" / "features").iterdir()} > before
    client = MlflowClient(f"sqlite:///{here.root}/mlflow.db")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.params["backbone.input_size"] == "48"
    assert run.info.artifact_uri.startswith((here.root / "mlartifacts").as_uri())
    assert "report.html" in {file.path for file in client.list_artifacts(run.info.run_id)}


@pytest.mark.slow
def test_queued_experiments_are_complete_runs_of_the_project(project: Project) -> None:
    here = Project(project.root, {"THAW_LIVE": "1"})
    here.dvc("exp", "run", "--queue", "--set-param", "seed=1,2")
    # Its worker inherits what it is given to write to, and may live on: a pipe would be read for as long.
    start = [sys.executable, "-m", "dvc", "queue", "start", "--jobs", "1"]
    nowhere = subprocess.DEVNULL
    subprocess.run(start, cwd=here.root, env=here.environment(), stdout=nowhere, stderr=nowhere, check=True)
    client = MlflowClient(f"sqlite:///{here.root}/mlflow.db")
    found: list[Any] = []
    for _ in range(240):
        time.sleep(1)
        if (here.root / "mlflow.db").exists() and (experiment := client.get_experiment_by_name("thaw")):
            found = client.search_runs([experiment.experiment_id])
        if len(found) == 2 and {run.info.status for run in found} == {"FINISHED"}:
            break
    assert sorted((run.info.status, run.data.params["seed"]) for run in found) == [("FINISHED", "1"), ("FINISHED", "2")]
    assert all("dvc_exp_name" in run.data.tags for run in found)


# Interruptions and failures.


def kill_finetune(project: Project, epoch: int) -> None:
    """Start fine-tuning and kill it when it has said how an epoch went."""
    with project.started(sys.executable, "-m", "stages.finetune") as process:
        assert process.stdout
        for line in process.stdout:
            if f"epoch {epoch}:" in line:
                process.kill()
                break
    assert process.returncode == (1 if os.name == "nt" else -9)


def test_a_killed_finetune_goes_on_to_the_very_same_weights(project: Project) -> None:
    expected = project.paths.model.read_bytes()
    folder = project.paths.model.parent
    shutil.rmtree(folder)
    kill_finetune(project, epoch=1)
    assert not folder.exists()

    resumed = project.stage("finetune")
    assert "going on after epoch" in resumed.stdout
    assert project.paths.model.read_bytes() == expected


@pytest.mark.slow
def test_a_killed_training_shows_as_killed_and_finishing_it_completes_the_same_run(
    project: Project, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    followed = Project(project.root, {"MLFLOW_TRACKING_URI": uri, "THAW_LIVE": "1"})
    client = MlflowClient(uri)

    def runs() -> list[Any]:
        found = client.get_experiment_by_name("thaw")
        return list(client.search_runs([found.experiment_id])) if found else []

    def wait_for(state: str) -> Any:
        for _ in range(300):
            if [run.info.status for run in runs()] == [state]:
                return runs()[0]
            time.sleep(0.2)
        raise AssertionError(f"{[run.info.status for run in runs()]}, expected one run that is {state}")

    followed.edit("params.yaml", "^seed: 0", "seed: 1")
    followed.repro("train_head")
    wait_for("SCHEDULED")
    kill_finetune(followed, epoch=2)
    killed = wait_for("KILLED")
    assert killed.data.metrics["curve/val_loss"] > 0, "its curve is there"
    assert followed.repro() == ["audit", "finetune", "evaluate"]
    done = wait_for("FINISHED")
    assert done.info.run_id == killed.info.run_id
    assert "delta/accuracy" in done.data.metrics
    steps = [point.step for point in client.get_metric_history(done.info.run_id, "curve/val_loss")]
    assert len(steps) == len({*steps}), "nothing is there twice"
    assert sorted(steps) == [*range(len(steps))], "and nothing is missing"


def test_a_stage_that_fails_leaves_no_half_written_folder(project: Project) -> None:
    folder = project.root / "artifacts"
    shutil.rmtree(folder / "extract_features")
    shutil.rmtree(project.root / ".cache" / "features")
    spoilt = project.root / "data" / manifest.read(project.paths.manifest)[-1].path
    spoilt.unlink()  # not written to: DVC may have linked it to its cache
    spoilt.write_bytes(b"spoilt")
    failed = project.stage("extract_features")
    assert failed.returncode == 1
    assert "error: " in failed.stderr
    assert {path.name for path in folder.iterdir()} == {*STAGES} - {"extract_features"}


# Light stages.


@pytest.fixture
def no_tensorflow(tmp_path: Path) -> str:
    """A PYTHONPATH on which importing TensorFlow or Keras ends the program."""
    for name in ("tensorflow", "keras"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n", encoding="utf-8")
    return str(tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        ["prepare"],
        ["extract_features"],
        ["train_head"],
        ["train_head", "train_head=adam"],
        ["finetune", "finetune=none"],
        ["evaluate"],
        ["get_data", "folder", "photos", "--force"],
    ],
    ids=" ".join,
)
def test_a_stage_that_needs_no_tensorflow_does_not_import_it(
    project: Project, no_tensorflow: str, command: list[str]
) -> None:
    if command[0] == "get_data":
        (project.root / "data").rename(project.root / "photos")
    done = project.stage(*command, PYTHONPATH=no_tensorflow)
    assert done.returncode == 0, done.stderr


def test_a_converted_network_runs_without_tensorflow(project: Project, no_tensorflow: str) -> None:
    before = project.paths.features.read_bytes()
    shutil.rmtree(project.root / ".cache" / "features")
    done = project.stage("extract_features", PYTHONPATH=no_tensorflow)
    assert done.returncode == 0, done.stderr
    assert "90 went through the network" in done.stdout
    assert project.paths.features.read_bytes() == before


@pytest.mark.slow
def test_two_extractions_at_once_share_one_cache(project: Project, tmp_path: Path) -> None:
    """Both convert the network, and both fill the same store: neither disturbs the other."""
    shutil.rmtree(project.root / ".cache")
    shared_cache = {"THAW_CACHE": str(tmp_path / "cache")}
    both = [project.copy(tmp_path / name) for name in ("one", "two")]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "stages.extract_features"], cwd=one.root, env=one.environment() | shared_cache
        )
        for one in both
    ]
    assert [process.wait() for process in running] == [0, 0]
    expected = project.paths.features.read_bytes()
    assert [one.paths.features.read_bytes() == expected for one in both] == [True, True]


# Real photos, real weights.


@pytest.mark.slow
def test_real_photos_in_predefined_folders_with_real_weights(shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / "data" / "hymenoptera_320.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    paths = Paths(tmp_path / "hymenoptera", tmp_path / "artifacts")
    weights = shared / "weights/keras_home/models/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
    # These weights learnt at 224 px; at 96 an independent probe gets no more than 0.8 either.
    backbone = Backbone.model_validate(options.BACKBONE | {"input_size": 160, "weights": str(weights)})
    prepare.run(paths, Dataset(val=0.2, test=0.2, min_images=10, max_megapixels=100), seed=0)
    extract_features.run(paths, backbone, AUGMENT, seed=0)
    train_head.run(paths, LBFGS, seed=0)

    records = manifest.read(paths.manifest)
    assert {record.path.split("/")[0] for record in records if record.split == "val"} == {"val"}
    assert {record.path.split("/")[0] for record in records if record.split == "test"} == {"train"}
    assert read_json(paths.root / "prepare" / "summary.json")["splits"]["test"] == "drawn from train"
    assert accuracy(paths, "train_head") > 0.8


def accuracy(paths: Paths, stage: str) -> float:
    """The share of the test images that a stage's predictions get right."""
    predicted = predictions.read(paths.predictions(stage))
    labels = {record.path: record.label for record in manifest.read(paths.manifest)}
    right = [
        answer == labels[path]
        for path, split, answer in zip(predicted.paths, predicted.splits, predicted.answers, strict=True)
        if split == "test"
    ]
    return sum(right) / len(right)
