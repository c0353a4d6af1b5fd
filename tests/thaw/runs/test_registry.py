"""The published model: which one is champion, how it is found, and that it runs where the project is not."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from stages import evaluate
from tests.helpers import finished
from tests.helpers.project import closure
from thaw.artifacts import Paths, read_json
from thaw.errors import UserError
from thaw.models.portable import Model
from thaw.runs import registry, store


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, fresh: bytes, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mlflow.db").write_bytes(fresh)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return uri


def publish(folder: Path, gain: float, seed: int = finished.SEED, per_class: int = 60) -> Paths:
    """Finish and publish a pipeline whose fine-tuned model is as good as ``gain`` says."""
    paths = finished.pipeline(folder, gain=gain, per_class=per_class)
    finished.write_configs(paths, **{stage: {"seed": seed} for stage in finished.CONFIG})
    evaluate.run(paths, finished.EVALUATE, seed)
    return paths


def champion(paths: Paths) -> str:
    """The name of the run whose model is champion."""
    client = MlflowClient(store.address())
    return str(client.get_model_version_by_alias(registry.model_name(paths.manifest), "champion").tags["run"])


def test_only_a_better_model_becomes_champion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = publish(tmp_path / "first", gain=0.5, seed=1)
    assert champion(first).endswith("seed 1")
    assert "Champion: this model, with validation accuracy" in capsys.readouterr().out
    worse = publish(tmp_path / "worse", gain=-0.5, seed=2)
    assert champion(worse).endswith("seed 1")
    said = capsys.readouterr().out
    assert "Champion: still the model of run 'last 2 blocks · mobilenet_v2 0.35 at 64 px · lbfgs · seed 1'" in said
    better = publish(tmp_path / "better", gain=3.0, seed=4)
    assert champion(better).endswith("seed 4")
    assert "% before); registered as thaw-" in capsys.readouterr().out
    versions = MlflowClient(store.address()).search_model_versions(f"name = '{registry.model_name(first.manifest)}'")
    assert len(versions) == 2, "what is not better is not registered"


def test_a_champion_that_is_made_anew_stays_champion(tmp_path: Path) -> None:
    paths = publish(tmp_path, gain=2.0)
    history = paths.history("finetune")
    history.write_text(history.read_text(encoding="utf-8").replace("0.85", "0.86"), encoding="utf-8")
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    client = MlflowClient(store.address())
    (run,) = client.search_runs([client.get_experiment_by_name("thaw").experiment_id])
    made = client.get_model_version_by_alias(registry.model_name(paths.manifest), "champion")
    assert made.run_id == run.info.run_id


def test_models_of_other_data_are_not_compared(tmp_path: Path) -> None:
    one = publish(tmp_path / "one", gain=3.0, seed=1)
    other = publish(tmp_path / "other", gain=0.0, seed=2, per_class=40)
    assert champion(one).endswith("seed 1")
    assert champion(other).endswith("seed 2")
    assert registry.fetch("champion", other.manifest) != registry.fetch("champion", one.manifest)
    with pytest.raises(UserError, match=r"expected one data set with a champion, found thaw-.*, thaw-.*models:/NAME"):
        registry.fetch("champion", tmp_path / "nowhere")


def test_a_model_is_found_by_every_name(tmp_path: Path) -> None:
    paths = publish(tmp_path, gain=2.0)
    client = MlflowClient(store.address())
    (run,) = client.search_runs([client.get_experiment_by_name("thaw").experiment_id])
    name = registry.model_name(paths.manifest)
    names = ["champion", run.info.run_id, run.info.run_name, f"models:/{name}@champion", f"models:/{name}/1"]
    picture = paths.data / "class_0" / "003.png"
    expected = Model(paths.finished).answer([picture])
    for which in names:
        assert Model(registry.fetch(which, paths.manifest)).answer([picture]) == expected, which
    assert registry.chosen(str(paths.finished), paths) == paths.finished
    assert registry.chosen(None, paths) == paths.finished


@pytest.mark.parametrize(
    ("which", "sentence"),
    [
        ("champion", "expected one data set with a champion, found none; run 'dvc repro' first"),
        ("nobody's", 'expected a folder, champion, or the id or name of a finished run, found "nobody\'s"'),
        ("models:/nothing@champion", "expected a published model at models:/nothing@champion"),
    ],
)
def test_what_is_not_there_is_said(which: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        registry.fetch(which, tmp_path / "manifest.csv")


def test_a_store_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="expected MLflow to answer at http://127.0.0.1:9"):
        registry.fetch("champion", tmp_path / "manifest.csv")


def test_a_model_carries_exactly_the_modules_that_it_imports() -> None:
    imported = closure(registry.SERVING) - {registry.SERVING}
    packages = {f"{file.rpartition('/')[0]}/__init__.py" for file in imported}
    assert {*registry.MODULES} == imported | packages | {"thaw/chatter.py"}


def test_a_model_runs_without_the_project_and_unpickles_nothing(tmp_path: Path) -> None:
    paths = publish(tmp_path, gain=2.0)
    published = registry.fetch("champion", paths.manifest).parent.parent
    files = [file for file in published.rglob("*") if file.is_file()]
    assert not [file for file in files if file.suffix in (".pkl", ".pickle", ".joblib", ".pt")]
    assert (published / "input_example.json").exists()
    picture = tmp_path / "photo.png"
    Image.new("RGB", (30, 20), (250, 10, 20)).save(picture)
    (expected,) = Model(paths.finished).answer([picture])
    away = tmp_path / "away"
    shutil.copytree(published, away / "model")
    code = """
import base64, json, sys
import mlflow.pyfunc
model = mlflow.pyfunc.load_model("model")
import thaw
assert thaw.__file__.startswith(sys.argv[2]), thaw.__file__
print(json.dumps(model.predict([sys.argv[1]])[0]))
print(model.metadata.signature, file=sys.stderr)
"""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    encoded = base64.b64encode(picture.read_bytes()).decode()
    done = subprocess.run(
        [sys.executable, "-c", code, encoded, str(away)],
        cwd=away,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["label"] == expected.label
    assert answer["probability"] == pytest.approx(expected.probability, abs=1e-6)
    assert "probabilities: Map" in done.stderr
    assert "Warning" not in done.stderr


def test_the_example_is_no_picture_of_the_user_s(tmp_path: Path) -> None:
    paths = publish(tmp_path, gain=2.0)
    assert read_json(paths.finished / "model.json")["input_size"] == 64
    decoded = Image.open(io.BytesIO(base64.b64decode(registry.example(paths))))
    assert decoded.size == (64, 64)
    assert decoded.getcolors() == [(64 * 64, (128, 128, 128))]
