"""From suspects to data that are put right: the audit, its page in a real browser, corrections, and the next run."""

import csv
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import chromium
from tests.helpers.project import Project, squares
from tests.helpers.reviewing import press
from thaw.data import manifest

FLIPPED = [3, 11, 17, 22]  # of red, which are put among the blue ones
BOTH = {
    "blue/again.png": "red",
    "red/05.png": "red",
}  # one and the same file, which is refused until it is said what it is
DECISIONS = 5


@pytest.mark.slow
def test_five_are_marked_saved_applied_and_gone(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    photos = squares(tmp_path / "photos")
    for number in FLIPPED:
        (photos / "red" / f"{number:02}.png").rename(photos / "blue" / f"red_{number:02}.png")
    shutil.copy(photos / "red/05.png", photos / "blue/again.png")
    get_data = (sys.executable, "-m", "stages.get_data")
    project.shell(*get_data, "folder", str(photos), "--force")
    project.repro()
    before = project.paths.manifest.read_bytes()

    with chromium() as browser:
        page = browser.new_context(accept_downloads=True).new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(_page(project))
        suspects = _suspects(page)
        assert [one for one in suspects if "red_" in one["path"]], "a wrong label is among them"
        assert [one["path"] for one in suspects if one["kind"] == "conflict"] == ["blue/again.png"]
        for number, one in enumerate(suspects[:DECISIONS]):
            press(page, *(("r", "Enter") if one["kind"] in ("label", "conflict") else ("x",)))
            if number == 2:
                page.reload()  # in the middle, which loses nothing
        with page.expect_download() as download:
            page.get_by_role("button", name="Save corrections.csv").first.click()
        download.value.save_as(tmp_path / "corrections.csv")
        assert said == []
    with (tmp_path / "corrections.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert {*rows} == {one["path"] for one in suspects[:DECISIONS]} | {*BOTH}

    told = project.shell(*get_data, "correct", str(tmp_path / "corrections.csv"))
    assert f"{len(rows)} corrections:" in told
    assert "corrections" in project.dvc("repro"), "and it is said what they changed"
    labels = {record.path: record.label for record in manifest.read(project.paths.manifest)}
    assert {path: labels.get(path) for path in BOTH} == BOTH
    for path, row in rows.items():
        assert labels.get(path) == {"relabel": row["value"], "remove": None, "keep": "red"}[row["action"]]
        assert (project.paths.data / path).exists(), "the pictures stay where and as they are"
    with chromium() as browser:
        page = browser.new_page()
        page.goto(_page(project))
        assert not {*rows} & {one["path"] for one in _suspects(page)}

    project.shell(*get_data, "correct", "--undo")
    project.repro("prepare")
    assert project.paths.manifest.read_bytes() == before


def _page(project: Project) -> str:
    return (project.paths.root / "audit" / "review.html").as_uri()


def _suspects(page: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate("suspects")
    return found
