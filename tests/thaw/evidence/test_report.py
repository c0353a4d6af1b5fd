"""The report: self-contained, escaped, the same bytes for the same input, and telling what it should."""

import csv
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import evaluate
from tests.helpers import finished
from tests.helpers.browser import chromium
from thaw.artifacts import Paths, read_json, write_json, write_text
from thaw.data import manifest
from thaw.evidence import comparison, plots, wording
from thaw.learning import predictions
from thaw.runs import publishing


@pytest.fixture(autouse=True)
def _without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "publish", lambda *_: None)


def evaluated(folder: Path, **options: Any) -> tuple[Paths, str]:
    paths = finished.pipeline(folder, **options)
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    return paths, paths.report.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects what is opened and not closed, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_is_well_formed_and_needs_nothing_beside_it(tmp_path: Path) -> None:
    tags = Tags()
    tags.feed(evaluated(tmp_path)[1])
    assert tags.open == []
    assert tags.addresses
    beside = [address for address in tags.addresses if not address.startswith(("data:image/", "#"))]
    assert beside == ["../verification.svg", "../audit/review.html"], "and that is only shown if it is there"
    assert not {"script", "link", "iframe"} & tags.names


def test_report_is_the_same_twice_wherever_it_is_made(tmp_path: Path) -> None:
    _, page = evaluated(tmp_path / "a")
    assert page == evaluated(tmp_path / "b")[1]
    assert str(tmp_path) not in page
    assert "/home/" not in page, "an absolute path of the configuration has to be shortened"
    assert "weights.h5" in page
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", page)


def test_names_are_escaped(tmp_path: Path) -> None:
    _, page = evaluated(tmp_path, classes=('<b>&"', "plain"))
    assert "&lt;b&gt;&amp;" in page
    assert '<b>&"' not in page


@pytest.mark.parametrize("gain", [3.0, 0.0, -2.5])
def test_headline_says_the_verdict(tmp_path: Path, gain: float) -> None:
    paths, page = evaluated(tmp_path, gain=gain)
    verdict = read_json(paths.figures)["verdict"]
    assert verdict == {3.0: "fine-tuning helped", 0.0: "no difference shown", -2.5: "fine-tuning hurt"}[gain]
    assert f">{verdict.capitalize()}</h1>" in page


def test_where_nothing_was_fine_tuned_nothing_is_compared(tmp_path: Path) -> None:
    paths = finished.head_only(tmp_path)
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    page = paths.report.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert ">Nothing was fine-tuned</h1>" in page
    assert "before and after are the same model" in page
    texts = {
        "report": re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL),
        "card": (paths.finished / "README.md").read_text(encoding="utf-8"),
        "summary": paths.summary.read_text(encoding="utf-8"),
    }
    accuracy = f"{read_json(paths.figures)['head']['accuracy']:.1%}"
    for name, text in texts.items():
        assert accuracy in text, name
        assert "finetune: none" in text, name
        assert "othing was fine-tuned" in text, name
        compared = re.sub("[bB]efore and after are the same model", "", text)
        for word in ("before", "after", "difference, ", "McNemar", "Broken", "fine-tuned model", "helped", "None"):
            assert word not in compared, f"{name}: {word}"


def _tried(kept: float) -> list[dict[str, Any]]:
    figures = [(0.0, 0.4, 0.0, 0.9), (0.5, 0.3, 0.02, 0.92), (1.0, 0.35, 0.05, 0.91)]
    keys = ("share", "brier", "error", "accuracy")
    found = [dict(zip(keys, one, strict=True)) | {"change": one[1] - 0.4} for one in figures]
    return [{"done": "the last 9 blocks, 250 steps at up to 0.0005", "images": 8000, "share": kept, "found": found}]


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (0.5, "50% of the change is kept: Brier score on validation 0.400 → 0.300, accuracy 90.0% → 92.0%."),
        (0.0, "Nothing is kept: it is worse than before."),
    ],
)
def test_what_was_tried_is_shown_with_what_was_kept_of_it(tmp_path: Path, kept: float, expected: str) -> None:
    paths = finished.pipeline(tmp_path)
    write_json(paths.stored("finetune"), read_json(paths.stored("finetune")) | {"tried": _tried(kept)})
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    page = paths.report.read_text(encoding="utf-8")
    assert "<h3>The last 9 blocks, 250 steps at up to 0.0005</h3>" in page
    assert f"{expected} The cost: 8,000 images seen." in page
    assert page.count('class="error"') == 3


def test_where_fine_tuning_was_set_by_hand_nothing_was_tried(tmp_path: Path) -> None:
    assert "How much of it is kept" not in evaluated(tmp_path)[1]


def test_the_bars_of_what_was_tried_are_its_errors_and_the_line_is_at_what_is_kept() -> None:
    (panel,) = plots.rungs(_tried(0.5))
    heights = dict(zip(["low", "high"], panel["bars"][1][1:], strict=True))
    scale = (panel["y"][0][0] - panel["y"][-1][0]) / (float(panel["y"][-1][1]) - float(panel["y"][0][1]))
    assert (heights["low"] - heights["high"]) / scale == pytest.approx(2 * 0.02, rel=0.05), "but for a tenth of a pixel"
    assert panel["kept"] == panel["dots"]["val"][1][0]


def test_galleries_show_what_changed(tmp_path: Path) -> None:
    paths, page = evaluated(tmp_path)
    metrics = read_json(paths.figures)
    assert f"<h3>Fixed: {metrics['fixed']}</h3>" in page
    assert f"<h3>Broken: {metrics['broken']}</h3>" in page
    assert "data:image/png;base64" in page, "small images stay lossless"
    assert "data:image/jpeg;base64" in evaluated(tmp_path / "large", side=400)[1]


def test_a_lost_image_does_not_lose_the_report(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    for file in paths.data.rglob("*.png"):
        file.unlink()
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    assert "<figure>" in paths.report.read_text(encoding="utf-8")


def test_many_classes_and_long_lists_of_refused_files(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path, classes=tuple(f"a rather long class name {i}" for i in range(50)), per_class=8)
    paths.refused.write_text(
        "path,reason\n" + "".join(f"{i:03}.jpg,empty file\n" for i in range(150)), encoding="utf-8"
    )
    summary = paths.manifest.with_name("summary.json")
    write_json(summary, read_json(summary) | {"refused": {"empty file": 150}})
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    page = paths.report.read_text(encoding="utf-8")
    assert "Refused files: 150" in page
    assert "099.jpg" in page
    assert "100.jpg" not in page


def test_split_is_explained(tmp_path: Path) -> None:
    page = evaluated(tmp_path)[1]
    assert "The data predefine their training and validation images." in page
    assert "The test (20%) images are drawn from the training images of each class" in page


def test_data_that_were_split_and_used_whole(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    summary = paths.manifest.with_name("summary.json")
    drawn = {"train": "drawn", "val": "drawn", "test": "drawn"}
    write_json(summary, read_json(summary) | {"splits": drawn, "refused": {}, "duplicates": 0})
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    page = paths.report.read_text(encoding="utf-8")
    assert "The validation (20%) and test (20%) images are drawn from the images of each class" in page
    assert "Every file that was found is a usable image." in page


def test_plots_hold_every_test_image(tmp_path: Path) -> None:
    paths, _ = evaluated(tmp_path)
    metrics, folder = read_json(paths.figures), paths.report.parent / "plots"
    for model in ("head", "finetuned"):
        with (folder / f"confusion_{model}.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == metrics["n_test"]
        accuracy = np.mean([row["actual"] == row["predicted"] for row in rows])
        assert accuracy == pytest.approx(metrics[model]["accuracy"], rel=1e-5)
        with (folder / f"reliability_{model}.csv").open(encoding="utf-8") as file:
            assert sum(int(row["images"]) for row in csv.DictReader(file)) == metrics["n_test"]


def test_summary_says_it_all(tmp_path: Path) -> None:
    paths, _ = evaluated(tmp_path)
    metrics, text = read_json(paths.figures), paths.summary.read_text(encoding="utf-8")
    for model in ("head", "finetuned"):
        assert f"{metrics[model]['accuracy']:.1%}" in text
        assert f"{metrics[model]['accuracy_low']:.1%} to {metrics[model]['accuracy_high']:.1%}" in text
    for wanted in ("60 test images", metrics["verdict"], "McNemar", "report.html", "make ui", "make data FROM=FOLDER"):
        assert wanted in text
    assert json.dumps(metrics)


def few(paths: Paths, limit: int = 61) -> dict[str, str]:
    """Evaluate as if the 60 test images were few, and return what a person reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "FEW", limit)
        evaluate.run(paths, finished.EVALUATE, finished.SEED)
    page = paths.report.read_text(encoding="utf-8")
    return {
        "report": re.sub(r"<style>.*?</style>|<[^>]*>", "", page, flags=re.DOTALL),
        "card": (paths.finished / "README.md").read_text(encoding="utf-8"),
        "summary": paths.summary.read_text(encoding="utf-8"),
    }


def test_of_few_test_images_it_is_said_first_what_they_cannot_show(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    texts = few(paths)
    for name, text in texts.items():
        assert "60 test images are few: the true accuracy may lie anywhere in its 95% range." in text, name
        assert "A difference below 10 percentage points (6 images) cannot be shown by them" in text, name
    head = read_json(paths.figures)["head"]
    interval = f"{head['accuracy_low']:.1%} to {head['accuracy_high']:.1%}"
    for name in ("report", "summary"):
        before = texts[name].index("cannot be shown by them")
        assert before < texts[name].index(interval) < texts[name].index(f"{head['accuracy']:.1%}"), name
    assert "are few" not in evaluated(tmp_path / "many")[1]


def test_of_few_test_images_and_one_model_nothing_is_said_of_differences(tmp_path: Path) -> None:
    for name, text in few(finished.head_only(tmp_path)).items():
        assert "60 test images are few" in text, name
        assert "difference below" not in text, name


def test_fewer_images_than_any_difference_takes(tmp_path: Path) -> None:
    texts = few(finished.pipeline(tmp_path, per_class=4))
    assert "They cannot show any difference: it takes 6 images that only one of two models" in texts["summary"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_classes_that_a_split_lacks_are_said(tmp_path: Path, split: str) -> None:
    """As the data's own split has it: then no figure is about them."""
    paths = finished.pipeline(tmp_path, classes=("cat", "cow", "dog"))
    records = [one for one in manifest.read(paths.manifest) if (one.label, one.split) != ("cow", split)]
    features = np.zeros((len(records), 1, 3), np.float32)
    np.save(paths.features, features)
    manifest.write(paths.manifest, records)
    for stage in ("train_head", "finetune"):
        found = predictions.read(paths.predictions(stage))
        kept = [row for row, path in enumerate(found.paths) if path in {one.path for one in records}]
        judged = [one for one in records if one.split != "train"]
        predictions.write(paths.predictions(stage), ("cat", "cow", "dog"), judged, found.probabilities[kept])
    counted = paths.manifest.with_name("summary.json")
    prepared = read_json(counted)
    prepared["images"][split]["cow"] = 0
    write_json(counted, prepared)
    said = {
        "test": "1 of 3 classes (cow) has no test images: macro F1 is the mean of the other 2 classes",
        "val": "1 of 3 classes (cow) has no validation images",
    }
    texts = few(paths, limit=0)
    assert f"mean F1 of the {2 if split == 'test' else 3} classes with test images" in texts["report"]
    for name, text in texts.items():
        assert said[split] in text, name
        assert said["val" if split == "test" else "test"] not in text, name


@pytest.mark.parametrize(
    ("here", "which"),
    [
        (0.95, "like others"),
        (0.96, "like others"),
        (0.963, "among the luckier"),
        (0.937, "among the unluckier"),
        (0.981, "a lucky one"),
        (0.919, "an unlucky one"),
    ],
)
def test_a_split_is_as_lucky_as_it_is_far_from_others(here: float, which: str) -> None:
    found = {
        "accuracy": 0.95,
        "deviation": 0.012,
        "splits": 10,
        "better": 2,
        "expected_low": 0.92,
        "expected_high": 0.98,
    }
    metrics = {"cross_validated": found | {"here": here}}
    expected = f"This split is {which}: {here:.1%} for a head here, 95.0% ± 1.2 on 10 other splits (2 of them better)"
    assert wording.luck(metrics) == expected
    assert wording.is_odd(metrics) == which.endswith(" one")
    assert not wording.luck({"cross_validated": found})
    assert not wording.luck({})


def test_other_splits_are_drawn_and_are_none_of_the_data_s_own(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    evaluate.run(paths, finished.EVALUATE.model_copy(update={"splits": 10}), finished.SEED)
    page = paths.report.read_text(encoding="utf-8")
    assert '<h3 id="splits" style="margin-top:18px">Other splits</h3>' in page
    assert page.count('class="dot before each"') == 10
    assert "This run’s own split is of another kind" in page
    assert "Every image as a test image twice (5 folds, head only)" in page
    assert "Every image" not in paths.summary.read_text(encoding="utf-8")


def test_many_classes_without_images_are_counted() -> None:
    images = {split: {f"class {number}": int(number > 6) for number in range(20)} for split in ("train", "val", "test")}
    tested, validated = wording.coverage(images)
    assert tested.startswith("7 of 20 classes have no test images: macro F1 is the mean of the other 13 classes")
    assert validated.startswith("7 of 20 classes have no validation images")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.86, 0.97], [0.85, 0.9, 0.95, 1.0]),
        ([0.0, 1.0], [0, 0.5, 1.0]),
        ([1.0, 1.0], None),
        ([0.0, 0.0], None),
        ([-0.013, 0.021], [-0.02, -0.01, 0, 0.01, 0.02, 0.03]),
    ],
)
def test_axes_enclose_their_values(values: list[float], expected: list[float] | None) -> None:
    ticks = plots.ticks(values, 4)
    assert len(ticks) >= 2
    assert ticks[0] <= min(values) <= max(values) <= ticks[-1]
    assert expected is None or ticks == pytest.approx(expected)


def test_numbers_as_people_write_them() -> None:
    assert [wording.points(value) for value in (0.0123, -0.0123, 0.0001, -0.0001)] == ["+1.2", "−1.2", "0.0", "0.0"]
    assert [wording.p_value(value) for value in (1.0, 0.0412, 3.2e-7)] == ["1.000", "0.041", "3e-7"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module", params=["many classes", "one model"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    many = tuple(f"class {number:02}" for number in range(30))
    made = finished.pipeline(folder, many, per_class=16) if "many" in request.param else finished.head_only(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "publish", lambda *_: None)
        evaluate.run(made, finished.EVALUATE, finished.SEED)
    write_text(made.root / "verification.svg", '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    return made.report


# What axe-core found no fault with, written out, since a test has no network: contrast (WCAG 2 AA), names, headings,
# places that scroll and can be reached by keyboard.
CHECKS = """() => {
  const faults = [];
  const level = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  for (const node of document.querySelectorAll("body *:not(svg *)")) {
    const says = [...node.childNodes].some(one => one.nodeType === 3 && one.textContent.trim());
    if (!says || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const [low, high] = [level(style.color), level(behind(node))].sort((a, b) => a - b);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < (large ? 3 : 4.5)) faults.push(`contrast ${contrast.toFixed(2)}: ${node.textContent.slice(0, 40)}`);
  }
  for (const node of document.querySelectorAll("img:not([alt]), svg[role=img]:not([aria-label])"))
    faults.push(`no name: ${node.outerHTML.slice(0, 60)}`);
  let last = 0;
  for (const node of document.querySelectorAll("h1, h2, h3, h4")) {
    if (+node.tagName[1] > last + 1) faults.push(`heading: ${node.textContent}`);
    last = +node.tagName[1];
  }
  for (const node of document.querySelectorAll("*")) {
    const reached = node.tabIndex >= 0 && node.getAttribute("aria-label");
    if (/auto|scroll/.test(getComputedStyle(node).overflowX) && !reached) faults.push(`scrolls, ${node.className}`);
  }
  for (const link of document.querySelectorAll("nav a"))
    if (!document.querySelector(link.getAttribute("href"))) faults.push(`leads nowhere: ${link.textContent}`);
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) faults.push(`too wide: ${wide}`);
  return faults;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_can_be_read_by_everybody_everywhere(browser: Any, written: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(written.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate(CHECKS) == []
    assert said == []
    page.close()


def test_faults_would_be_found(browser: Any) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.set_content(
        "<h1>one</h1><h3>three</h3><p style='color:#aaa;background:#fff'>pale</p><img src='data:,'>"
        "<div style='overflow-x:auto'>wide</div><nav><a href='#no'>no</a></nav><div style='width:900px'>wider</div>"
    )
    found = [fault.split(":")[0].split(" ")[0] for fault in page.evaluate(CHECKS)]
    assert found == ["contrast", "no", "heading", "scrolls,", "leads", "too"]
    page.close()


def test_parts_fold_links_open_them_and_print_shows_all(browser: Any, written: Path) -> None:
    page = browser.new_page()
    page.goto(written.as_uri())
    key = page.locator("#configuration").get_by_text("confidence", exact=True)
    assert page.locator("#next").get_by_text("How sure must it be?").is_visible()
    assert not key.is_visible()
    page.get_by_role("link", name="The configuration").click()
    key.wait_for(state="visible")
    page.get_by_text("The configuration").last.click()
    key.wait_for(state="hidden")
    page.emulate_media(media="print")
    assert key.is_visible()
    page.close()


def test_every_figure_says_what_it_means_and_names_its_file(written: Path) -> None:
    page = written.read_text(encoding="utf-8")
    files = {
        name for text in re.findall(r'<p class="meaning">.*? <code>(.*?)</code>', page) for name in text.split(", ")
    }
    assert "plots/risk_coverage.csv" in files
    assert [name for name in files if not (written.parent / name).exists()] == []


def test_of_many_classes_the_worst_are_shown_and_the_rest_is_on_demand(tmp_path: Path) -> None:
    page = evaluated(tmp_path, classes=tuple(f"class {number:03}" for number in range(199)), per_class=8)[1]
    assert "The 20 of 199 classes that are confused most" in page
    assert page.count('class="name" text-anchor="end"') == 2 * 20
    assert "<summary>The other 179 classes</summary>" in page
    assert re.search(r"<summary>The next \d+</summary>", page)


def test_the_worst_classes_are_those_with_most_confusions() -> None:
    counts = np.diag(np.full(30, 5))
    counts[7, 3] = counts[3, 9] = 4
    counts[20, 21] = 2
    shown = plots.worst(counts, counts.copy())
    assert shown[:5] == [3, 7, 9, 20, 21]
    assert len(shown) == plots.MATRIX
    assert counts[7, 7] == 5, "and they are left as they are"
    assert plots.worst(counts[:5, :5], counts[:5, :5]) == [0, 1, 2, 3, 4]
    matrix = plots.confusion_matrix(counts, [f"{number}" for number in range(30)], shown)
    (cell,) = [one for one in matrix["cells"] if one["text"] == "4 of 9 7: 3"]
    assert (cell["x"], cell["y"]) == (matrix["margin"], matrix["margin"] + matrix["cell"])


def test_a_change_of_a_class_that_holds_is_marked(tmp_path: Path) -> None:
    page = evaluated(tmp_path, per_class=120)[1]
    assert re.search(r'<td class="better"><b>\+[\d.]+ ✓</b><small>\+[\d.]+ to \+[\d.]+</small>', page)
    assert "(McNemar’s test in each, Holm’s correction for all of them)" in page
    assert "No change of a class holds" in evaluated(tmp_path / "none", gain=0.0)[1]


RIGHT = {"accuracy": 0.99, "accuracy_low": 0.9, "accuracy_high": 0.999}


@pytest.mark.parametrize(
    ("sure", "expected"),
    [
        ({}, ""),
        ({"threshold": 0.9, "coverage": 0.0}, "Sure of at least 90.0%, it answers none of the test images"),
        (
            {"threshold": 0.0, "coverage": 1.0, **RIGHT},
            "Sure enough of every image, it answers all test images, 99.0% of them rightly (90.0% to 99.9%)",
        ),
        (
            {"threshold": 0.9, "coverage": 0.5, **RIGHT},
            "Sure of at least 90.0%, it answers 50.0% of the test images, 99.0% of them rightly (90.0% to 99.9%)",
        ),
    ],
)
def test_what_is_said_of_being_sure(sure: dict[str, float], expected: str) -> None:
    assert wording.answered({"sure": sure} if sure else {}) == expected


def test_numbers_of_images_are_said_as_roughly_as_they_are_known() -> None:
    assert [wording._about(count) for count in (7, 41, 1528, 23456)] == ["7", "41", "1,500", "23,000"]
    assert wording.needed({"n_needed": 1528}) == "some 1,500 test images would show such a difference"
    assert wording.needed({}) == ""


@pytest.mark.parametrize("everyone", [False, True])
def test_test_images_with_copies_are_said_first_and_left_out(tmp_path: Path, everyone: bool) -> None:
    paths = finished.pipeline(tmp_path)
    asked = [record.path for record in manifest.read(paths.manifest) if record.split == "test"]
    write_json(paths.findings, finished.FINDINGS | {"leaked": asked if everyone else asked[:7]})
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    figures = read_json(paths.figures)["without_copies"]
    said = f"{len(asked) if everyone else 7} of {len(asked)} test images have a copy among the training or validation"
    if everyone:
        assert figures == {"images": 0}
        said += " images: how right the models are on others is not known"
    else:
        assert figures["images"] == len(asked) - 7
        assert figures["before_low"] < figures["before"] < figures["before_high"]
    for file in (paths.summary, paths.report, paths.finished / "README.md"):
        assert said in file.read_text(encoding="utf-8")
    page = paths.report.read_text(encoding="utf-8")
    assert page.index(said) < page.index("Accuracy before"), "before any figure"


def test_the_picture_of_another_result_is_not_shown_beside_this_one(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    write_text(paths.verification, "of the sample, say")
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    assert not paths.verification.exists()


def test_without_copies_nothing_is_said_of_them(tmp_path: Path) -> None:
    paths, page = evaluated(tmp_path)
    assert "without_copies" not in read_json(paths.figures)
    assert "have a copy" not in page
    assert "In doubt: 2 of 120 labels (1 to 7)" in page


def suspect(kind: str, one: int, other: int | None, split: str | None = "train", beside: str | None = "test") -> Any:
    """A suspect among the pictures of ``finished.pipeline``, as findings.json has it."""
    path = "class_{}/{:03}.png".format
    found = {"kind": kind, "path": path(0, one), "label": "cat", "split": split, "why": f"{kind} <{one}>"}
    near = {"path": path(1, other or 0), "label": "dog", "split": beside, "note": ""}
    return found | {"suggestion": "", "resembles": [] if other is None else [near, near]}


def test_the_first_suspects_are_shown_beside_what_they_resemble(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    suspects = [suspect("conflict", 50, 51, None, None)]
    suspects += [suspect("label", number, number) for number in range(9)]
    suspects += [suspect("copy", number, 1, beside="train" if number < 14 else "val") for number in range(10, 19)]
    suspects += [suspect("outlier", 20, 2), *(suspect("odd", number, None) for number in range(21, 26))]
    write_json(paths.findings, finished.FINDINGS | {"conflicts": 1, "suspects": suspects})
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    page = paths.report.read_text(encoding="utf-8")
    said = re.findall(r"<figcaption>(\w+) &lt;(\d+)&gt;</figcaption>", page)
    kinds = ["conflict"] + 6 * ["copy"] + 6 * ["label"] + ["outlier"] + 3 * ["odd"]
    assert [kind for kind, _ in said] == kinds
    assert [int(number) for _, number in said[1:7]] == [14, 15, 16, 17, 18, 10], "those across splits come first"
    parts = page.partition('<div class="pairs">')[2].partition("Look at all of them")[0]
    assert parts.count('src="data:image/png') == 2 * (1 + 6 + 6 + 1) + 3
    assert parts.count("<small>not used</small>") == 2
    assert "1 picture is in two classes: identical files with different labels" in page
    before = page
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    assert paths.report.read_text(encoding="utf-8") == before


def test_without_suspects_no_pictures_of_them_are_shown(tmp_path: Path) -> None:
    assert '<div class="pairs">' not in evaluated(tmp_path)[1]
