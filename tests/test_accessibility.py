"""Every page that thaw writes, asked by axe-core in a real browser: nothing that keeps somebody from using it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import evaluate
from tests.helpers import finished, reviewing
from tests.helpers.browser import chromium
from thaw.artifacts import write_json
from thaw.audit.review import Neighbour, Suspect
from thaw.evidence import comparison
from thaw.runs import publishing

pytestmark = pytest.mark.slow
VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
CONFLICT = Suspect("conflict", "cats/x.png", "cats", None, "Why.", "dogs", (Neighbour("dogs/x.png", "dogs", None),))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def violations(page: Any) -> list[str]:
    """What axe-core finds on a page as it is: what is wrong, and where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['failureSummary']} {node['html'][:300]}" for one in found for node in one["nodes"]]


def look(browser: Any, address: str, *steps: str) -> dict[str, list[str]]:
    """Look at a page in every view, as it opens and after each step (a key, or a script)."""
    wrong = {}
    for width, scheme in VIEWS:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.goto(address)
        for step in ("", *steps):
            if len(step) > 10:
                page.evaluate(step)
            elif step:
                page.keyboard.press(step)
            if found := violations(page):
                wrong[f"{width}, {scheme}, {step or 'as it opens'}"] = found
        context.close()
    return wrong


@pytest.mark.parametrize("what", ["tuned", "head only", "few test images, many classes"])
def test_the_report(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(publishing, "publish", lambda *_: None)
    how: dict[str, Any] = {}
    if what.startswith("few"):
        how = {"classes": tuple(f"class number {number}" for number in range(24)), "per_class": 8}
        monkeypatch.setattr(comparison, "FEW", 200)
    paths = (finished.head_only if what == "head only" else finished.pipeline)(tmp_path, **how)
    pair = {
        "kind": "copy",
        "path": "class_0/000.png",
        "label": "cat",
        "split": "train",
        "why": "Why.",
        "suggestion": "",
    }
    pair["resembles"] = [{"path": "class_1/002.png", "label": "dog", "split": "test", "note": ""}]
    write_json(paths.findings, finished.FINDINGS | {"conflicts": 1, "suspects": [pair, pair | {"kind": "odd"}]})
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    opened = "document.querySelectorAll('details').forEach(one => one.open = true)"
    assert look(browser, paths.report.as_uri(), opened) == {}


def test_the_review_page(browser: Any, tmp_path: Path) -> None:
    address = reviewing.written(tmp_path, [CONFLICT, *reviewing.SUSPECTS])
    decided = ("k", "r", "Enter", "k", "s", "k", "k", "x")  # one kind of suspect after the other, to the end
    assert look(browser, address, "?", "Escape", *decided, "ArrowLeft", "find('apply').open = true") == {}


def test_the_review_page_without_suspects(browser: Any, tmp_path: Path) -> None:
    assert look(browser, reviewing.written(tmp_path, [])) == {}
