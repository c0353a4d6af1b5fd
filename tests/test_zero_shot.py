"""Zero-shot in the pipeline, of networks that see and read: tiny and random, so that all they do is guess."""

import shutil
from pathlib import Path

import pytest

from stages import audit, evaluate, extract_features, finetune, prepare, train_head
from tests.helpers import finished, options
from tests.helpers.families import family
from tests.helpers.project import squares
from thaw.architectures import HUB
from thaw.artifacts import Paths, cache, read_json
from thaw.config.schema import Augment, Backbone, Dataset, HeadOnly, Lbfgs
from thaw.runs import publishing

AUGMENT = Augment.model_validate(options.AUGMENT)


def pipeline(paths: Paths, backbone: Backbone) -> Paths:
    squares(paths.data, per_class=12)
    prepare.run(paths, Dataset(val=0.2, test=0.2, min_images=3, max_megapixels=1), seed=0)
    extract_features.run(paths, backbone, AUGMENT, seed=0)
    audit.run(paths, seed=0)
    train_head.run(paths, Lbfgs.model_validate(options.LBFGS), seed=0)
    finetune.run(paths, backbone, AUGMENT, HeadOnly.model_validate(options.HEAD_ONLY), seed=0)
    evaluate.run(paths, finished.EVALUATE, seed=0)
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_class_names_alone_are_a_row_and_twice_the_same_bytes(
    toy: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(publishing, "publish", lambda *_: None)
    backbone = family(toy, f"{HUB} {name}", pooling="embedding", prompts=["a photo of a {class}."])
    once = pipeline(Paths(tmp_path / "once" / "data", tmp_path / "once" / "artifacts"), backbone)
    shutil.rmtree(cache())
    twice = pipeline(Paths(tmp_path / "twice" / "data", tmp_path / "twice" / "artifacts"), backbone)
    found = read_json(once.figures)["zero_shot"]
    assert f"zero-shot (names)   {found['accuracy']:>9.1%}" in once.summary.read_text(encoding="utf-8")
    report = once.report.read_text(encoding="utf-8")
    assert [one for one in ("blue", "green", "red") if f"{one}: “a photo of a {one}.”" not in report] == []
    written = [file for file in once.root.rglob("*") if file.is_file()]
    assert once.texts in written
    for file in written:
        assert file.read_bytes() == (twice.root / file.relative_to(once.root)).read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"prompts": []}, {"pooling": "token"}])
def test_without_prompts_or_an_embedding_no_names_are_asked(
    toy: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    monkeypatch.setattr(publishing, "publish", lambda *_: None)
    reads = {"pooling": "embedding", "prompts": ["a photo of a {class}."]} | changes
    paths = pipeline(Paths(tmp_path / "data", tmp_path / "artifacts"), family(toy, f"{HUB} clip", **reads))
    assert not paths.texts.exists()
    assert "zero_shot" not in read_json(paths.figures)
    assert "zero-shot" not in paths.summary.read_text(encoding="utf-8")
