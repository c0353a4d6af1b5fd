"""The whole pipeline on shards, at hand or in a store: the same answers as on images in folders, to the byte."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.project import Project
from tests.helpers.servers import Bucket
from thaw.artifacts import STAGES
from thaw.data import manifest, packing, sources
from thaw.data.layouts import Options
from thaw.data.manifest import Record


def told(project: Project) -> list[Record]:
    return manifest.read(project.paths.manifest)


@pytest.fixture(scope="module")
def packed(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project after 'dvc repro' on the same images in shards, committed."""
    folder = tmp_path_factory.mktemp("packed")
    packed = finished.copy(folder / "project", MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db")
    shutil.rmtree(packed.root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "IMAGES", 50)
        sources.write_images(finished.root / "data", packed.root / "data", Options(), packed=True)
    packed.dvc("add", "--quiet", "data")
    assert packed.repro() == [*STAGES]
    packed.commit()
    return packed


@pytest.mark.slow
def test_the_pipeline_gives_the_same_answers_on_shards(finished: Project, packed: Project) -> None:
    shards = sorted(path.name for path in (packed.root / "data").iterdir())
    assert len(shards) > 1
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


@pytest.mark.slow
def test_the_pipeline_gives_the_same_answers_on_shards_in_a_store(
    packed: Project, bucket: Bucket, tmp_path: Path
) -> None:
    there = packed.copy(tmp_path / "project", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")
    shutil.rmtree(there.root / ".cache")
    done = there.stage("get_data", "folder", bucket.put(packed.root / "data", "shards"))
    assert done.returncode == 0, done.stderr
    assert "the former data are in DVC's cache" in done.stdout
    assert there.repro() == [stage for stage in STAGES if stage != "train_head"], "which sees the same bytes as before"
    for file in ("manifest", "features", "model", "metrics", "report"):
        assert getattr(there.paths, file).read_bytes() == getattr(packed.paths, file).read_bytes()
    for stage in ("train_head", "finetune"):
        assert there.paths.predictions(stage).read_bytes() == packed.paths.predictions(stage).read_bytes()
    done = there.stage("predict", f"data/{told(there)[0].path}", "--csv", "answers.csv")
    assert done.returncode == 0, done.stderr
