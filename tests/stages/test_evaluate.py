"""evaluate: what it writes, what it refuses, and that it stays light."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import evaluate
from tests.helpers import finished, options
from thaw.artifacts import PROJECT, Paths, read_json, write_json, write_text
from thaw.data import manifest
from thaw.errors import UserError
from thaw.evidence import comparison
from thaw.evidence.significance import wilson
from thaw.learning import predictions
from thaw.runs import publishing


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> list[Paths]:
    """Keep runs away from the project's store, and remember them."""
    seen: list[Paths] = []
    monkeypatch.setattr(publishing, "publish", lambda paths, _: seen.append(paths))
    return seen


def run(paths: Paths) -> None:
    evaluate.run(paths, finished.EVALUATE, finished.SEED)


def test_outputs(tmp_path: Path, published: list[Paths], capsys: pytest.CaptureFixture[str]) -> None:
    paths = finished.pipeline(tmp_path)
    run(paths)
    metrics = read_json(paths.figures)
    for model in ("head", "finetuned", "delta"):
        assert {"accuracy", "accuracy_low", "accuracy_high", "macro_f1", "val_accuracy"} <= set(metrics[model])
    assert metrics["n_test"] == 60
    assert metrics["verdict"] == "fine-tuning helped"
    assert capsys.readouterr().out == paths.summary.read_text(encoding="utf-8")
    assert published == [paths]
    written = {file.relative_to(paths.figures.parent).as_posix() for file in paths.figures.parent.rglob("*.*")}
    assert written == {
        "config.json",
        "environment.json",
        "figures.json",
        "metrics.json",
        "report.html",
        "summary.txt",
        "model/README.md",
        "model/model.json",
        "model/model.xml",
        "model/model.bin",
        "plots/curve_head.csv",
        "plots/curve_finetuned.csv",
        "plots/confusion_head.csv",
        "plots/confusion_finetuned.csv",
        "plots/reliability_head.csv",
        "plots/reliability_finetuned.csv",
        "plots/risk_coverage.csv",
        "plots/learning_curve.csv",
        "plots/splits.csv",
    }


@pytest.mark.parametrize("candidates", [["finetuned"], ["head", "finetuned"]], ids=" and ".join)
def test_where_nothing_was_fine_tuned_the_head_is_kept_and_compared_with_nothing(
    tmp_path: Path, candidates: list[str]
) -> None:
    paths = finished.head_only(tmp_path)
    evaluate.run(paths, finished.EVALUATE.model_copy(update={"keep_best_of": candidates}), finished.SEED)
    metrics = read_json(paths.figures)
    assert metrics["kept"] == "head"
    assert metrics["verdict"] == "nothing was fine-tuned"
    assert set(metrics["delta"].values()) == {0}
    assert (paths.finished / "model.xml").exists()


def few(paths: Paths) -> dict[str, Any]:
    """Evaluate as if the 60 test images were few; return the figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "FEW", 61)
        evaluate.run(paths, finished.EVALUATE.model_copy(update={"splits": 5}), finished.SEED)
    figures: dict[str, Any] = read_json(paths.figures)
    return figures


@pytest.mark.parametrize("head", [options.LBFGS, options.ADAM], ids=["lbfgs", "adam"])
def test_where_test_images_are_few_the_head_is_asked_about_all_images(tmp_path: Path, head: dict[str, Any]) -> None:
    paths = finished.pipeline(tmp_path)
    finished.write_configs(paths, train_head={"train_head": head})
    figures = few(paths)
    found = figures["cross_validated"]
    assert (found["folds"], found["splits"]) == (5, 5)
    assert found["least"] < found["accuracy"] < found["most"]
    assert "here" not in found, "the data name some of its splits"
    assert found["images"] == 120
    assert 0.7 < found["accuracy_low"] < found["accuracy"] < found["accuracy_high"] < 1
    assert [found["accuracy_low"], found["accuracy_high"]] == pytest.approx(wilson(found["accuracy"], 120, 0.95))
    said = f"Every image as a test image once (5 folds, head only): {found['accuracy']:.1%} of 120 images ("
    for file in (paths.summary, paths.report, paths.finished / "README.md"):
        assert said in file.read_text(encoding="utf-8"), file.name


def test_a_threshold_goes_into_the_model_and_is_told(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path, classes=("cat", "cow", "dog"), per_class=200)
    run(paths)
    sure = read_json(paths.figures)["sure"]
    assert sure["wanted"] == finished.EVALUATE.sure_enough
    assert sure["accuracy_low"] < sure["accuracy"] < sure["accuracy_high"]
    assert read_json(paths.finished / "model.json")["threshold"] == sure["threshold"]
    said = f"{sure['coverage']:.1%} of the test images, {sure['accuracy']:.1%} of them rightly"
    for file in (paths.summary, paths.report, paths.finished / "README.md"):
        assert said in file.read_text(encoding="utf-8"), file.name


def test_where_nothing_is_sure_enough_that_is_said(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path, gain=0.0)
    run(paths)
    assert "sure" not in read_json(paths.figures)
    assert read_json(paths.finished / "model.json")["threshold"] is None
    assert "there is no probability above which" in paths.report.read_text(encoding="utf-8")


def test_more_images_are_forecast_from_validation_images_alone(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path, classes=("cat", "cow", "dog"), per_class=200)
    run(paths)
    forecast = read_json(paths.figures)["forecast"]
    assert forecast["images"] == 150
    assert forecast["gain_low"] <= forecast["gain"] <= forecast["gain_high"]
    for file in (paths.summary, paths.report):
        assert "wice as many to train on: about " in file.read_text(encoding="utf-8"), file.name
    rows = (paths.figures.parent / "plots" / "learning_curve.csv").read_text(encoding="utf-8").splitlines()
    assert [row.partition(",")[0] for row in rows] == ["images", "19", "38", "75", "150", "300"]
    records = manifest.read(paths.manifest)
    features = np.load(paths.features)
    features[[record.split == "test" for record in records]] = 0
    np.save(paths.features, features)
    run(paths)
    assert read_json(paths.figures)["forecast"] == forecast


def test_cross_validation_decides_nothing(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    run(paths)
    before = read_json(paths.figures)
    after = few(paths)
    assert "cross_validated" not in before
    for key in ("kept", "verdict", "temperature", "mcnemar_p", "n_test"):
        assert before[key] == after[key]
    assert before["head"]["accuracy"] == after["head"]["accuracy"]


def test_images_in_too_few_groups_are_not_cross_validated(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    records = [dataclasses.replace(one, group=one.label) for one in manifest.read(paths.manifest)]
    manifest.write(paths.manifest, records)
    assert "cross_validated" not in few(paths)
    assert "folds" not in paths.report.read_text(encoding="utf-8")
    assert (paths.figures.parent / "plots" / "splits.csv").read_text(encoding="utf-8") == "split,images,accuracy\n"


def drawn(folder: Path, unlucky: bool = False) -> Paths:
    """A pipeline that has drawn its splits; the pictures of the test images may look like those of the other class."""
    paths = finished.pipeline(folder)
    records = [
        dataclasses.replace(one, split="train" if n % 5 else "test")
        for n, one in enumerate(manifest.read(paths.manifest))
    ]
    ends = [n for n, one in enumerate(records) if one.split == "train"][::4]
    records = [dataclasses.replace(one, split="val") if n in ends else one for n, one in enumerate(records)]
    manifest.write(paths.manifest, records)
    judged = [one for one in records if one.split != "train"]
    for stage in ("train_head", "finetune"):
        random = np.random.default_rng(len(stage)).random((len(judged), 2)).astype(np.float32)
        predictions.write(paths.predictions(stage), ["cat", "dog"], judged, random / random.sum(1, keepdims=True))
    prepared = read_json(paths.manifest.with_name("summary.json"))
    write_json(
        paths.manifest.with_name("summary.json"), prepared | {"splits": dict.fromkeys(prepared["splits"], "drawn")}
    )
    features = np.load(paths.features)
    if unlucky:
        tested = [one.split == "test" for one in records]
        features[tested, :, 0] = 2 - features[tested, :, 0]
    np.save(paths.features, features)
    return paths


@pytest.mark.parametrize(("unlucky", "which"), [(False, "like others"), (True, "an unlucky one")])
def test_a_split_is_compared_with_others(tmp_path: Path, unlucky: bool, which: str) -> None:
    paths = drawn(tmp_path, unlucky)
    evaluate.run(paths, finished.EVALUATE.model_copy(update={"splits": 10}), finished.SEED)
    found = read_json(paths.figures)["cross_validated"]
    assert (found["folds"], found["splits"]) == (5, 10)
    said = f"This split is {which}: {found['here']:.1%} for a head here, {found['accuracy']:.1%} ± "
    for file in (paths.report, paths.finished / "README.md"):
        assert said in file.read_text(encoding="utf-8"), file.name
    assert (said in paths.summary.read_text(encoding="utf-8")) == unlucky, "in the summary only where it matters"
    rows = (paths.figures.parent / "plots" / "splits.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 12
    assert rows[-1] == f"this one,24,{found['here']:.6g}"
    shares = [float(row.rpartition(",")[2]) for row in rows[1:-1]]
    assert np.mean(shares) == pytest.approx(found["accuracy"], abs=1e-5)
    assert np.std(shares, ddof=1) == pytest.approx(found["deviation"], rel=1e-4)
    assert sum(share > found["here"] for share in shares) == found["better"]


def test_nobody_has_to_ask_about_other_splits(tmp_path: Path) -> None:
    paths = drawn(tmp_path)
    run(paths)
    assert "cross_validated" not in read_json(paths.figures)
    assert "This split" not in paths.report.read_text(encoding="utf-8")


def test_every_byte_is_the_same_twice(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    outputs = []
    for _ in range(2):
        few(paths)
        outputs.append({file: file.read_bytes() for file in paths.figures.parent.rglob("*.*")})
    assert outputs[0] == outputs[1]


def test_order_of_predictions_does_not_matter(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    run(paths)
    expected = paths.figures.read_bytes()
    judged = [record for record in manifest.read(paths.manifest) if record.split != "train"]
    probabilities = predictions.read(paths.predictions("finetune")).probabilities[::-1].copy()
    predictions.write(paths.predictions("finetune"), ["cat", "dog"], judged[::-1], probabilities)
    run(paths)
    assert paths.figures.read_bytes() == expected


def test_predictions_of_other_images_are_refused(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    judged = [record for record in manifest.read(paths.manifest) if record.split != "train"]
    kept = [row for row, record in enumerate(judged) if record.path != "class_0/002.png"]
    probabilities = predictions.read(paths.predictions("finetune")).probabilities[kept]
    predictions.write(paths.predictions("finetune"), ["cat", "dog"], [judged[row] for row in kept], probabilities)
    expected = r"finetune/predictions.csv: expected the 60 test images .* found 59 .* 'class_0/002.png'.*dvc repro"
    with pytest.raises(UserError, match=expected):
        run(paths)
    assert not paths.figures.parent.exists()


@pytest.mark.parametrize("classes", [["dog", "cat"], ["cat", "cow", "dog"]])
def test_predictions_of_other_classes_are_refused(tmp_path: Path, classes: list[str]) -> None:
    paths = finished.pipeline(tmp_path)
    write_json(paths.classes, classes)
    expected = f"train_head/predictions.csv: expected .* {len(classes)} classes .* found others, .*dvc repro"
    with pytest.raises(UserError, match=expected):
        run(paths)


def test_a_table_of_predictions_in_another_order_than_the_array_is_refused(tmp_path: Path) -> None:
    """As after sorting it with a spreadsheet, and saving that."""
    paths = finished.pipeline(tmp_path)
    header, *rows = paths.predictions("finetune").read_text(encoding="utf-8").splitlines()
    write_text(paths.predictions("finetune"), "\n".join([header, *reversed(rows)]) + "\n")
    with pytest.raises(UserError, match="finetune/predictions.csv: expected .* classes .* another order"):
        run(paths)


def test_diverged_training_is_said(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    judged = [record for record in manifest.read(paths.manifest) if record.split != "train"]
    broken = np.full((len(judged), 2), np.nan, np.float32)
    predictions.write(paths.predictions("finetune"), ["cat", "dog"], judged, broken)
    with pytest.raises(UserError, match="training has diverged; lower the learning_rate in conf/finetune/"):
        run(paths)


def test_stages_with_different_configurations_are_not_compared(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    finished.write_configs(paths, finetune={"seed": 4})
    with pytest.raises(UserError, match="finetune: expected to have run with seed 3"):
        run(paths)


def test_needs_no_tensorflow_and_no_plotting_library(tmp_path: Path) -> None:
    finished.pipeline(tmp_path)
    code = f"""
import sys
from pathlib import Path
from stages import evaluate
from tests.helpers import finished
from thaw.runs import publishing
from thaw.artifacts import Paths
publishing.publish = lambda *_: None
paths = Paths(Path({str(tmp_path)!r}) / "data", Path({str(tmp_path)!r}) / "artifacts")
heavy = {{"tensorflow", "keras", "sklearn", "pandas", "matplotlib", "mlflow"}}
evaluate.run(paths, finished.EVALUATE.model_copy(update={{"splits": 5}}), 3)
loaded = heavy & set(sys.modules)
assert loaded <= {{"sklearn", "pandas"}}, loaded  # scikit-learn loads pandas, where there is one
"""
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
