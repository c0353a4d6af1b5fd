"""Zero-shot: what the class names alone are worth stands beside what training makes of the same images, and is told."""

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import evaluate
from tests.helpers import finished
from tests.helpers.browser import chromium
from tests.thaw.evidence.test_report import CHECKS, Tags
from thaw.artifacts import Paths, read_json, write_json
from thaw.data import manifest
from thaw.evidence import comparison
from thaw.learning import predictions
from thaw.networks import texts
from thaw.runs import publishing
from thaw.runs.description import points

PROMPTS = ["a photo of a {class}.", "the {class} <b>"]
NAMES = np.array([[-5, 0, 0], [5, 0, 0]], np.float32)  # cat and dog: the first feature tells them apart, more or less


@pytest.fixture(autouse=True)
def _without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "publish", lambda *_: None)


def pipeline(folder: Path, names: Any = NAMES, head_only: bool = False, sharp: bool = False) -> Paths:
    """A finished pipeline whose backbone reads as well; ``sharp`` features are told apart without fail."""
    paths = finished.head_only(folder) if head_only else finished.pipeline(folder)
    for stage in ("extract_features", "finetune"):
        config = read_json(paths.config(stage))
        config["backbone"]["prompts"] = PROMPTS
        write_json(paths.config(stage), config)
    if sharp:
        features = np.load(paths.features)
        features[:, 0, 0] = [4 if one.label == "dog" else -4 for one in manifest.read(paths.manifest)]
        np.save(paths.features, features)
    np.save(paths.texts, names)
    return paths


def run(paths: Paths) -> dict[str, Any]:
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    figures: dict[str, Any] = read_json(paths.figures)
    return figures


def said(paths: Paths) -> dict[str, str]:
    """What a person reads."""
    page = re.sub(r"<style>.*?</style>|<[^>]*>", "", paths.report.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {
        "report": html.unescape(page),
        "card": (paths.finished / "README.md").read_text(encoding="utf-8"),
        "summary": paths.summary.read_text(encoding="utf-8"),
    }


def test_its_figures_are_of_the_same_test_images(tmp_path: Path) -> None:
    paths = pipeline(tmp_path)
    figures = run(paths)
    found = figures["zero_shot"]
    assert {*figures["head"]} <= {*found}
    records = manifest.read(paths.manifest)
    for split, key in (("test", "accuracy"), ("val", "val_accuracy")):
        rows = [row for row, one in enumerate(records) if one.split == split]
        right = (np.load(paths.features)[rows, 0, 0] > 0) == [records[row].label == "dog" for row in rows]
        assert found[key] == pytest.approx(right.mean(), rel=1e-5)
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert found["gain"] == pytest.approx(figures["head"]["accuracy"] - found["accuracy"], abs=1e-5)
    assert found["gain_low"] < found["gain"] < found["gain_high"]
    assert read_json(paths.metrics)["zero_shot"] == round(found["accuracy"], 4)
    assert ("zero_shot/accuracy", found["accuracy"], 0) in points(paths, figures)


def test_it_changes_nothing_else(tmp_path: Path) -> None:
    with_names, without = pipeline(tmp_path / "with"), finished.pipeline(tmp_path / "without")
    figures, others = run(with_names), run(without)
    del figures["zero_shot"]
    assert figures == others


@pytest.mark.parametrize(("head_only", "rows"), [(False, 4), (True, 2)])
def test_it_is_the_first_row_of_the_summary(tmp_path: Path, head_only: bool, rows: int) -> None:
    paths = pipeline(tmp_path, head_only=head_only)
    found = run(paths)["zero_shot"]
    table = paths.summary.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    assert len(table) == 1 + rows
    share, low, high = (f"{found[key]:.1%}" for key in ("accuracy", "accuracy_low", "accuracy_high"))
    assert table[1] == f"{'zero-shot (names)':<20}{share:>9}   {low} to {high}"
    assert table[2].startswith("head only" if head_only else "before (head only)")


def test_of_few_test_images_its_range_holds_for_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = pipeline(tmp_path, sharp=True)
    assert run(paths)["zero_shot"]["accuracy_low"] == 1
    monkeypatch.setattr(comparison, "FEW", 61)
    assert 0.9 < run(paths)["zero_shot"]["accuracy_low"] < 1
    assert "94.0% to 100.0%     100.0%" in paths.summary.read_text(encoding="utf-8").splitlines()[4]


@pytest.mark.parametrize(
    ("how", "which"),
    [
        ({"names": -NAMES}, "the head is right more often, by +"),
        ({"names": NAMES}, "no difference to the head is shown: "),
        ({"names": NAMES, "sharp": True}, "the head is right less often, by more than noise: −"),
    ],
    ids=["better", "like it", "worse"],
)
def test_what_the_head_adds_is_said_everywhere(tmp_path: Path, how: dict[str, Any], which: str) -> None:
    paths = pipeline(tmp_path, **how)
    run(paths)
    for name, text in said(paths).items():
        assert f"Zero-shot: the class names alone, without any training; {which}" in text, name


@pytest.mark.parametrize("head_only", [False, True])
def test_the_report_shows_it_and_what_was_asked(tmp_path: Path, head_only: bool) -> None:
    paths = pipeline(tmp_path, head_only=head_only)
    share = f"{run(paths)['zero_shot']['accuracy']:.1%}"
    tags, page = Tags(), paths.report.read_text(encoding="utf-8")
    tags.feed(page)
    assert tags.open == []
    assert page.count(f"<b>{share}</b>") == 1
    assert "Accuracy zero-shot" in page
    assert "<th>zero-shot</th>" in page
    text = said(paths)["report"]
    assert "“a photo of a {class}.”, “the {class} <b>”, the mean of these." in text
    assert "cat: “a photo of a cat.”dog: “a photo of a dog.”" in text
    table = said(paths)["card"].partition("test images that decided nothing")[2].split("\n\n")[1].splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert share in table[2]


def test_without_class_names_it_is_nowhere(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    assert "zero_shot" not in run(paths)
    assert "zero_shot" not in read_json(paths.metrics)
    written = [
        file.read_text(encoding="utf-8") for file in paths.report.parent.rglob("*.[hjmtc][tsdx]*") if file.is_file()
    ]
    assert written
    assert not [text for text in written if re.search("zero.shot", text, re.IGNORECASE)]


def test_of_equal_names_the_first_is_answered() -> None:
    found = texts.probabilities(np.ones((2, 3), np.float32), np.ones((4, 3), np.float32))
    assert found == pytest.approx(0.25)
    assert found.argmax(1).tolist() == [0, 0]


def test_the_length_of_an_embedding_says_nothing() -> None:
    random = np.random.default_rng(0)
    features, weights = (random.normal(size=(rows, 8)).astype(np.float32) for rows in (5, 3))
    lengths = np.array([[1e-3], [0.1], [1], [10], [1e3]], np.float32)
    found = texts.probabilities(features, weights)
    np.testing.assert_allclose(texts.probabilities(features * lengths, weights), found, rtol=1e-4)


def test_groups_of_test_images_are_what_counts(tmp_path: Path) -> None:
    paths = pipeline(tmp_path)
    alone = run(paths)["zero_shot"]
    records = manifest.read(paths.manifest)
    manifest.write(paths.manifest, [dataclasses.replace(one, group=one.sha256[:3]) for one in records])
    grouped = run(paths)["zero_shot"]
    assert grouped["accuracy"] == alone["accuracy"]
    assert grouped["p"] != alone["p"]


def test_test_images_decide_nothing_of_it(tmp_path: Path) -> None:
    """Other answers of the models are no other zero-shot."""
    paths = pipeline(tmp_path)
    before = run(paths)["zero_shot"]
    records = [one for one in manifest.read(paths.manifest) if one.split != "train"]
    others = predictions.read(paths.predictions("train_head")).probabilities[:, ::-1].copy()
    predictions.write(paths.predictions("train_head"), read_json(paths.classes), records, others)
    after = run(paths)["zero_shot"]
    of_names = [
        key for key in before if not key.startswith("gain") and key != "p" and not key.endswith(("_low", "_high"))
    ]
    assert {key: after[key] for key in of_names} == {key: before[key] for key in of_names}


@pytest.mark.slow
@pytest.mark.parametrize("head_only", [False, True])
def test_it_can_be_read_by_everybody_everywhere(tmp_path: Path, head_only: bool) -> None:
    paths = pipeline(tmp_path, head_only=head_only)
    run(paths)
    with chromium() as browser:
        for width in (390, 1280):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(paths.report.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert page.evaluate(CHECKS) == []
            page.close()
