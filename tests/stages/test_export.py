"""export: every format gives the finished model's answers, or is not written."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from stages import audit, evaluate, export, extract_features, finetune, predict, prepare, train_head
from tests.helpers import finished, hub, options
from tests.helpers.families import family
from tests.helpers.project import squares
from thaw.artifacts import Paths, read_json
from thaw.config.schema import Augment, Backbone, Dataset, Finetune, HeadOnly, Lbfgs
from thaw.errors import UserError
from thaw.models import exporting
from thaw.models.exporting import FORMATS, Format
from thaw.runs import publishing

# Whose layers KerasHub does not read from its own files, and what LiteRT does not translate.
LACKING = {"vit": ["keras"], "deit": ["keras"], "swin": ["keras", "tflite"], "hgnetv2": ["keras"]}
EXPECTED = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32)


def test_the_same_answers_are_accepted() -> None:
    assert exporting.compare("onnx", EXPECTED + np.float32(5e-5), EXPECTED) == pytest.approx(5e-5, rel=0.01)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (EXPECTED[:, ::-1], "onnx: expected the finished model's answers for 2 test images, found 2 other classes"),
        (EXPECTED + np.float32(2e-4), "found 0 other classes and probabilities that differ by up to 2.0e-04"),
    ],
)
def test_other_answers_are_an_error(found: np.ndarray, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        exporting.compare("onnx", found, EXPECTED)


def test_a_missing_package_is_said() -> None:
    wanted = Format("model.nowhere", lambda *_: None, lambda _: lambda images: images, {"no_such_module": "nowhere"})
    with pytest.raises(UserError, match="expected the package nowhere for model.nowhere, found none; 'pip install"):
        exporting.require(wanted)


def test_without_a_finished_model_the_next_step_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a finished model .*run 'dvc repro'"):
        export.run(Paths(tmp_path / "data", tmp_path / "artifacts"), ["openvino"])


def _pipeline(folder: Path, backbone: Backbone) -> Paths:
    """A pipeline on colour squares, everything but evaluated and published."""
    found = Paths(squares(folder / "data"), folder / "artifacts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_CACHE", str(folder / "cache"))
        patch.setattr(publishing, "publish", lambda *_: None)
        augment = Augment.model_validate(options.AUGMENT)
        prepare.run(found, Dataset(val=0.2, test=0.2, min_images=3, max_megapixels=1), seed=0)
        extract_features.run(found, backbone, augment, seed=0)
        audit.run(found, seed=0)
        train_head.run(found, Lbfgs.model_validate(options.LBFGS), seed=0)
        finetune.run(found, backbone, augment, Finetune.model_validate(options.FINETUNE), seed=0)
    return found


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A pipeline with the toy backbone."""
    return _pipeline(tmp_path_factory.mktemp("pipeline"), Backbone.model_validate(options.BACKBONE))


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["head", "finetuned"])
def test_every_format_gives_the_same_answers(
    paths: Paths, kept: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(publishing, "publish", lambda *_: None)
    evaluate.run(paths, finished.EVALUATE.model_copy(update={"keep_best_of": [kept]}), 0)
    assert read_json(paths.figures)["kept"] == kept
    capfd.readouterr()
    export.run(paths, [*FORMATS])
    assert capfd.readouterr().err == "", "the product's own lines only"
    folder = paths.root / "export"
    assert {file.name for file in folder.iterdir()} == {"report.md", *(one.name for one in FORMATS.values())}
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert [line.split(" | ")[0] for line in report.splitlines() if line.startswith("| ")][1:] == [
        f"| {name}" for name in FORMATS
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", hub.PRESETS)
def test_a_network_of_keras_hub_is_exported_too(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In all formats that know its layers, and used as any other: by predict, from its folder."""
    monkeypatch.setattr(publishing, "publish", lambda *_: None)
    paths = _pipeline(tmp_path, family(Backbone.model_validate(options.BACKBONE), f"hub {name}"))
    evaluate.run(paths, finished.EVALUATE.model_copy(update={"keep_best_of": ["finetuned"]}), 0)
    formats = [one for one in FORMATS if one not in LACKING.get(name, ())]
    export.run(paths, formats)
    report = (paths.root / "export" / "report.md").read_text(encoding="utf-8")
    assert ("Whoever loads `model.keras` has to `import keras_hub` first." in report) == ("keras" in formats)
    photo = next(paths.data.rglob("*.png"))
    capsys.readouterr()
    predict.main([str(photo), "--model", str(paths.finished)])
    assert photo.parent.name in capsys.readouterr().out


def test_what_a_format_does_not_know_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: object, path: Path) -> None:
        raise TypeError("get_config() is missing")

    monkeypatch.setitem(exporting.FORMATS, "keras", Format("model.keras", fails, lambda _: lambda images: images, {}))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"keras: expected to write the .* get_config\(\) is missing; take another"):
        exporting.written("keras", None, tmp_path / "model.keras")


@pytest.mark.slow
def test_where_nothing_was_fine_tuned_the_head_is_exported(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "publish", lambda *_: None)
    made = Paths(paths.data, paths.root.parent / "head_only")
    shutil.copytree(paths.root, made.root)
    augment, nothing = Augment.model_validate(options.AUGMENT), HeadOnly.model_validate(options.HEAD_ONLY)
    finetune.run(made, Backbone.model_validate(options.BACKBONE), augment, nothing, seed=0)
    evaluate.run(made, finished.EVALUATE.model_copy(update={"keep_best_of": ["finetuned"]}), 0)
    export.run(made, ["keras"])
    assert (made.root / "export" / "model.keras").exists()


@pytest.mark.slow
def test_a_format_with_other_answers_is_not_written(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "publish", lambda *_: None)
    evaluate.run(paths, finished.EVALUATE.model_copy(update={"keep_best_of": ["finetuned"]}), 0)
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    before = set(paths.root.rglob("*"))
    with pytest.raises(UserError, match="openvino: expected the finished model's answers"):
        export.run(paths, ["openvino"])
    assert {file for file in paths.root.rglob("*") if file.name != "export"} <= before
