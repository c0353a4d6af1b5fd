"""The MLflow UI as a person uses it, in a real browser: find the run that gained most, compare, look at the curves."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from stages import evaluate
from tests.helpers import browser, finished, options, servers

pytestmark = pytest.mark.slow

GAINS = {2: 0.3, 3: 2.0, 6: 1.0}  # blocks that were unfrozen, and how much that helped


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What ``make ui`` shows of three runs; yields its address."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("THAW_CACHE", str(folder / "cache"))
        for blocks, gain in GAINS.items():
            paths = finished.pipeline(folder / str(blocks), gain=gain)
            finished.write_configs(paths, finetune={"finetune": options.FINETUNE | {"unfreeze": {"blocks": blocks}}})
            evaluate.run(paths, finished.EVALUATE, finished.SEED)
        address = f"http://127.0.0.1:{(port := servers.free_port())}"
        # Not 'thaw.runs ui', which first publishes what this checkout may have.
        command = [sys.executable, "-c", f"from thaw.runs import ui; ui.serve({port})"]
        with servers.served(command, f"{address}/health", folder / "log"):
            yield address


@pytest.fixture
def page() -> Iterator[Any]:
    with browser.chromium() as opened:
        page = opened.new_page(viewport={"width": 1500, "height": 850})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield page


def test_the_run_that_gained_most_is_found_and_compared(ui: str, page: Any, tmp_path: Path) -> None:
    page.goto(f"{ui}/#/experiments/1/runs")
    expect(page.get_by_text("3 matching runs")).to_be_visible()
    page.get_by_role("button", name="Sort: Created").click()
    page.get_by_placeholder("Search").last.fill("delta/accuracy")
    page.get_by_text("delta/accuracy", exact=True).last.click()
    page.keyboard.press("Escape")
    names = [link(page, place) for place in range(3)]
    for name, blocks in zip(names, (3, 6, 2), strict=True):
        expect(name).to_contain_text(f"last {blocks} blocks")
    order = [re.sub(r"\s+", " ", name.inner_text()).strip() for name in names]
    for place in (0, 1):
        page.locator(f'.ag-row[row-index="{place}"] input[type=checkbox]').first.click()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for name in order[:2]:
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    page.get_by_role("link", name="curve/val_accuracy").click()
    for name in order[:2]:
        expect(page.get_by_text(f"{name} (curve/val_accuracy)")).to_be_visible()
    assert page.locator("path.js-line").count() >= 2, "a curve for each"
    picture = tmp_path / "curves.png"
    page.screenshot(path=picture)
    assert picture.stat().st_size > 20_000


def link(page: Any, place: int) -> Any:
    """The name of the run in a row of the table."""
    return page.locator(f'.ag-row[row-index="{place}"] a[href*="/runs/"]').first
