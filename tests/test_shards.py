"""The whole pipeline on shards: the same answers as on the same images in folders, to the byte."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.project import Project
from thaw.artifacts import STAGES
from thaw.data import manifest, packing, sources
from thaw.data.layouts import Options
from thaw.data.manifest import Record


def told(project: Project) -> list[Record]:
    return manifest.read(project.paths.manifest)


@pytest.mark.slow
def test_the_pipeline_gives_the_same_answers_on_shards(
    finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = finished.copy(tmp_path / "project", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(packing, "IMAGES", 50)
    shutil.rmtree(packed.root / "data")
    sources.write_images(finished.root / "data", packed.root / "data", Options(), packed=True)
    shards = sorted(path.name for path in (packed.root / "data").iterdir())
    assert len(shards) > 1
    packed.dvc("add", "--quiet", "data")
    assert packed.repro() == [*STAGES]
    assert {one.path.partition("/")[0] for one in told(packed)} == {*shards}
    for stage in ("train_head", "finetune"):
        predicted = [project.paths.predictions(stage).read_text(encoding="utf-8") for project in (finished, packed)]
        for shard in shards:
            predicted[1] = predicted[1].replace(f"{shard}/", "")
        assert predicted[0] == predicted[1]
    assert finished.paths.features.read_bytes() == packed.paths.features.read_bytes()
    assert finished.paths.metrics.read_bytes() == packed.paths.metrics.read_bytes()
    done = packed.stage("predict", f"data/{told(packed)[0].path}", "--csv", "answers.csv")
    assert done.returncode == 0, done.stderr
    for command in (["export", "onnx"], ["preview", "augment=light"]):
        done = packed.stage(*command)
        assert done.returncode == 0, done.stderr
