"""Slices: their figures, when one is said to be worse than the rest, and where all of it is told."""

import csv
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from stages import evaluate
from tests.helpers import finished
from tests.helpers.browser import chromium
from tests.thaw.evidence.test_groups import alike, pair_of
from thaw.artifacts import Paths, read_json
from thaw.data import manifest
from thaw.data.manifest import Record
from thaw.evidence import comparison, significance, slices
from thaw.learning import predictions
from thaw.runs import description, publishing

KEPT = {"kept": "head", "verdict": "no difference shown"}


@pytest.fixture(autouse=True)
def _without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "publish", lambda *_: None)


def records_of(**columns: list[str]) -> list[Record]:
    """A test image for each value, after one to learn from that is of no interest."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    learnt = Record("learnt.png", "a", "train", "0", 1, 1, "", dict.fromkeys(columns, "never"))
    return [learnt, *(Record(f"{n}.png", "a", "test", f"{n}", 1, 1, "", one) for n, one in enumerate(rows))]


# The test.


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.integers(1, 400), st.data())
def test_it_is_fishers_exact_test(images: int, others: int, data: Any) -> None:
    wrong, wrong_there = data.draw(st.integers(0, images)), data.draw(st.integers(0, others))
    own = np.arange(images + others) < images
    right = np.ones(images + others, bool)
    right[:wrong] = False
    right[images : images + wrong_there] = False
    table = [[wrong, images - wrong], [wrong_there, others - wrong_there]]
    expected = fisher_exact(table, alternative="greater").pvalue
    assert slices.worse(right, own, None) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_of_many_images_as_well() -> None:
    right = np.arange(50_000) % 10 != 0
    right[:400:7] = False
    own = np.arange(50_000) < 400
    table = [[int((~right[one]).sum()), int(right[one].sum())] for one in (own, ~own)]
    expected = fisher_exact(table, alternative="greater").pvalue
    assert slices.worse(right, own, None) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_it_is_a_probability_whatever_the_groups(said: list[tuple[bool, bool, int]]) -> None:
    right, own, groups = (np.array(part) for part in zip(*said, strict=True))
    if own.all() or not own.any():
        own[0] = not own[0]
    assert 0 < slices.worse(right, own, groups) <= 1
    assert slices.worse(np.ones(len(own), bool), own, groups) == 1


@pytest.mark.parametrize(("is_grouped", "most", "least"), [(True, 0.06, 0.0), (False, 1.0, 0.15)])
def test_where_all_slices_are_alike_one_is_seldom_said_to_be_worse(is_grouped: bool, most: float, least: float) -> None:
    """Of images in groups of 5, with errors that are correlated by 0.5; each group is of one slice."""
    random = np.random.default_rng(0)
    groups, named = np.repeat(np.arange(80), 5), 0
    for _ in range(150):
        right = alike(random, 80, 5, (0.9, 0.1), 0.5) == 0
        values = random.integers(0, 5, 80)[groups]
        p = [slices.worse(right, values == one, groups if is_grouped else None) for one in np.unique(values)]
        named += min(significance.holm(p)) < 0.05
    assert least <= named / 150 <= most


# The figures.


def test_a_row_for_each_value_of_each_column_that_differs() -> None:
    before = np.array([True] * 6 + [False] * 2 + [True] * 4)
    after = np.array([True] * 8 + [False] * 2 + [True] * 2)
    cameras, nights, sites = ["B", "10", "9", ""] * 3, ["yes"] * 8 + ["no"] * 4, ["1", "01", "001"] * 4
    records = records_of(camera=cameras, always=["x"] * 12, night=nights, site=sites)
    rows = slices.measured(pair_of(before, after), records, KEPT, 0.95)["slices"]
    assert [(row["column"], row["value"], row["images"]) for row in rows] == [
        ("camera", "9", 3),
        ("camera", "10", 3),
        ("camera", "B", 3),
        ("camera", "not given", 3),
        ("night", "no", 4),
        ("night", "yes", 8),
        *(("site", name, 4) for name in ("001", "01", "1")),  # numbers that are the same, in one order in every process
    ]
    night = rows[5]
    assert (night["before"], night["after"], night["difference"]) == (0.75, 1, 0.25)
    assert (night["before_low"], night["before_high"]) == pytest.approx(significance.wilson(0.75, 8, 0.95), rel=1e-5)
    low, high = significance.paired(2, 0, 8, 0.95)
    assert (night["difference_low"], night["difference_high"]) == pytest.approx((low, high), rel=1e-5)
    assert all(row["p"] <= 1 for row in rows)


def test_p_values_are_those_of_the_kept_model_after_looking_at_all() -> None:
    good, poor = np.ones(200, bool), np.arange(200) % 20 != 0
    poor[:40:2] = False
    records = records_of(camera=["A"] * 40 + ["B"] * 160, site=["x", "y"] * 100)
    test = pair_of(poor, good)
    first = slices.measured(test, records, KEPT, 0.95)["slices"][0]
    assert first["p"] == pytest.approx(4 * slices.worse(poor, np.arange(200) < 40, None), rel=1e-5)
    assert first["p"] < 0.001
    kept = slices.measured(test, records, KEPT | {"kept": "finetuned"}, 0.95)["slices"]
    assert {row["p"] for row in kept} == {1}


def test_groups_widen_what_is_said_of_slices() -> None:
    right = np.repeat(np.arange(20) % 4 != 0, 5)
    records = records_of(camera=[*np.repeat(["A", "B"], 50).tolist()])
    plain, grouped = (
        slices.measured(pair_of(right, right, groups), records, KEPT, 0.95)["slices"][0]
        for groups in (None, np.repeat(np.arange(20), 5))
    )
    assert plain["before"] == grouped["before"]
    assert grouped["before_high"] - grouped["before_low"] > 1.8 * (plain["before_high"] - plain["before_low"])


def test_without_columns_and_with_one_value_there_is_nothing() -> None:
    test = pair_of([True, False], [True, True])
    assert slices.measured(test, records_of(camera=["A", "A"]), KEPT, 0.95) == {}
    plain = [dataclasses.replace(one, metadata={}) for one in records_of(camera=["A", "B"])]
    assert slices.measured(test, plain, KEPT, 0.95) == {}


# Where it is told.


def pipeline(folder: Path, bad: str = "old <b>phone</b>", head_only: bool = False) -> Paths:
    """A finished pipeline whose test images are of three cameras, with one of which both models are mostly wrong."""
    make = finished.head_only if head_only else finished.pipeline
    paths = make(folder, classes=("cat", "cow", "dog"), per_class=200)
    records = manifest.read(paths.manifest)
    predicted = {stage: predictions.read(paths.predictions(stage)) for stage in ("train_head", "finetune")}
    test = comparison.pair(predicted, records, ["cat", "cow", "dog"], "test")
    wrong = iter(test.after.argmax(1) != test.labels)
    for number, record in enumerate(records):
        is_wrong = record.split == "test" and next(wrong)
        camera = bad if is_wrong or number % 29 == 0 else ("Canon", "")[number % 2]
        records[number] = dataclasses.replace(record, metadata={"camera": camera, "site": f"s{number % 3}"})
    manifest.write(paths.manifest, records)
    return paths


def test_it_is_told_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = pipeline(tmp_path)
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    figures = read_json(paths.figures)
    rows = figures["slices"]
    assert [row["value"] for row in rows] == ["Canon", "old <b>phone</b>", "not given", "s0", "s1", "s2"]
    assert [row["p"] < 0.05 for row in rows] == [False, True, False, False, False, False]
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Worse")]
    worst = rows[1]
    figure = f"{worst['after']:.1%} of {worst['images']} test images right ("
    assert said.startswith(f"Worse than the rest by camera: old <b>phone</b>, {figure}")
    assert "with 6 slices looked at" in said
    others = [row for row in rows if row["column"] == "camera" and row is not worst]
    right = sum(row["after"] * row["images"] for row in others) / sum(row["images"] for row in others)
    assert f"of the others {right:.1%} " in said
    page = paths.report.read_text(encoding="utf-8")
    assert 'href="#slices"' in page
    assert said.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<b>phone</b>" not in page
    assert said in (paths.finished / "README.md").read_text(encoding="utf-8")
    with (paths.figures.parent / "plots" / "slices.csv").open(newline="", encoding="utf-8") as file:
        drawn = list(csv.DictReader(file))
    assert [row["slice"] for row in drawn][:3] == ["camera: Canon", "camera: old <b>phone</b>", "camera: not given"]
    assert float(drawn[1]["after"]) == worst["after"]
    assert not [key for key, *_ in description.points(paths, figures) if key.startswith("slices")]


def test_where_no_slice_stands_out_the_summary_says_nothing(tmp_path: Path) -> None:
    paths = pipeline(tmp_path)
    records = [
        dataclasses.replace(one, metadata={"site": one.metadata["site"]}) for one in manifest.read(paths.manifest)
    ]
    manifest.write(paths.manifest, records)
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    assert "Worse" not in paths.summary.read_text(encoding="utf-8")
    page = paths.report.read_text(encoding="utf-8")
    assert "No slice is worse than the rest by more than chance, where one looks at 3 of them." in page


def test_without_columns_it_is_nowhere(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    assert "slices" not in read_json(paths.figures)
    assert not (paths.figures.parent / "plots" / "slices.csv").exists()
    for file in (paths.report, paths.summary, paths.finished / "README.md"):
        assert "slice" not in file.read_text(encoding="utf-8").lower(), file.name


def test_a_head_alone_has_slices_without_a_difference(tmp_path: Path) -> None:
    paths = pipeline(tmp_path, head_only=True)
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    rows = read_json(paths.figures)["slices"]
    assert not any("difference" in row for row in rows)
    page = paths.report.read_text(encoding="utf-8")
    assert "Slice by slice" in page
    assert "Bonett" not in page.partition('id="slices"')[2].partition("</details>")[0]


def test_groups_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = pipeline(tmp_path)
    records = manifest.read(paths.manifest)
    numbers = {path: n for n, path in enumerate(one.path for one in records if one.split == "test")}
    grouped = [
        dataclasses.replace(one, group=f"patient {numbers[one.path] // 5}") if one.path in numbers else one
        for one in records
    ]
    manifest.write(paths.manifest, grouped)
    for limit in (0, 61):
        monkeypatch.setattr(comparison, "FEW", limit)
        evaluate.run(paths, finished.EVALUATE, finished.SEED)
        figures = read_json(paths.figures)
        assert (figures["n_test"], figures["n_groups"]) == (300, 60)
        lines = capsys.readouterr().out.splitlines()
        assert "300 test images in 60 groups" in lines
        assert any("(exact p over groups = " in line for line in lines)
        few = "300 test images in 60 groups are few: the true accuracy may lie anywhere in its 95% range."
        assert (few in lines) == bool(limit)
        for file in (paths.report, paths.finished / "README.md"):
            text = file.read_text(encoding="utf-8")
            assert "300 test images in 60 groups" in text
            assert "exact p over groups" in text
            assert "McNemar" not in text.partition("Slice by slice")[0]
    assert description.headline(figures).endswith(" on 300 test images in 60 groups.")


def test_copies_that_the_audit_found_are_groups(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    first, second = [one.path for one in manifest.read(paths.manifest) if one.split == "test"][:2]
    paths.copies.write_text(f"path,action,value\n{first},same,{second}\n", encoding="utf-8")
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    assert read_json(paths.figures)["n_groups"] == 59


def test_it_looks_well_on_a_phone(tmp_path: Path) -> None:
    paths = pipeline(tmp_path, bad="a camera with a long name, Mk. II")
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(paths.report.as_uri())
        table = page.locator("#slices .wide")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert table.evaluate("one => one.scrollWidth <= one.clientWidth")
        assert page.locator("#slices").get_by_text("worse than the rest", exact=True).is_visible()


@pytest.mark.slow
def test_dvc_draws_them(tmp_path: Path) -> None:
    paths = pipeline(tmp_path, bad="old phone")
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    file = paths.figures.parent / "plots" / "slices.csv"
    (tmp_path / "dvc").mkdir()
    (tmp_path / "dvc" / "slices.csv").write_bytes(file.read_bytes())
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=tmp_path / "dvc", check=True)
    how = ["plots", "show", "slices.csv", "--template", "bar_horizontal", "-x", "after", "-y", "slice"]
    subprocess.run([sys.executable, "-m", "dvc", *how], cwd=tmp_path / "dvc", check=True, stdout=subprocess.DEVNULL)
    page = (tmp_path / "dvc" / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    assert "camera: old phone" in page
