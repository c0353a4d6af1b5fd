"""What is saved and loaded as corrections.csv, in a real browser: whatever files are called, and nothing is lost."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.helpers.reviewing import SUSPECTS, load, press, saved, written
from thaw.audit import review
from thaw.audit.review import Suspect

HOSTILE = [
    'cats/"quoted", and a comma.png',
    "cats/</script><script>document.title='broken in'<",
    "cats/<img src=x onerror=\"document.title='broken in'\">.png",
    "cats/two\nlines.png",
    "cats/🐈 \u202eerised.png",
    "cats/\u2028\u2029.png",
    "cats/\uffee.png",
    "cats/חתול, قطة.png",
    "cats/__proto__",
    "=cats/{{ 7 * 7 }} &amp;.png",
]


def test_hostile_names_are_text_and_come_back_whole(page: Any, tmp_path: Path) -> None:
    suspects = [Suspect("label", path, "<b>", "train", "<i>why</i>", path) for path in HOSTILE]
    review.write(tmp_path / "review.html", suspects, ["<b>", *HOSTILE], tmp_path, total=10)
    page.goto((tmp_path / "review.html").as_uri())
    for path in HOSTILE:
        assert page.locator("#picture .path").text_content() == path
        expect(page.locator("#why")).to_have_text("<i>why</i>")
        press(page, "r", "Enter")
    rows = saved(page)
    assert rows == sorted([path, "relabel", path] for path in HOSTILE)
    assert page.title() == "Review: 10 suspects among 10 pictures"
    assert page.locator("#suspect img, #decided img").count() == 0
    page.evaluate("localStorage.clear()")
    page.reload()
    load(page, tmp_path / "corrections.csv", rows, ends="\r\n", start="\ufeff")
    expect(page.locator("#decided li")).to_have_count(10)
    assert saved(page) == rows


def test_a_loaded_file_goes_on_and_keeps_what_is_not_on_this_page(page: Any, tmp_path: Path) -> None:
    rows = [
        ["cats/1.png", "relabel", "cows"],
        ["cats/3.png", "same", "dogs/3.png"],
        ["elsewhere.png", "remove", ""],
    ]
    page.goto(written(tmp_path))
    press(page, "k", "k")
    load(page, tmp_path / "corrections.csv", rows)
    expect(page.locator("#said")).to_have_text("Loaded 3 rows of corrections.csv.")
    expect(page.locator("#at")).to_have_text("4 of 6")
    assert saved(page) == sorted([*rows, ["cats/2.png", "keep", ""]])
    press(page, "u")
    assert saved(page) == [["cats/1.png", "keep", ""], ["cats/2.png", "keep", ""]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("file,label\n1.png,cats\n", "file,label"),
        ("path,action,value\n1.png,eat,\n", "the line 1.png,eat,"),
        ("path,action,value\n1.png,keep\n", "the line 1.png,keep"),
        ("path,action,value\n1.png,relabel,\n", "the line 1.png,relabel,"),
        ("path,action,value\n1.png,toString,\n", "the line 1.png,toString,"),
        ('path,action,value\n"1.png,keep,\n', "nothing that is CSV"),
        ("", "nothing that is CSV"),
    ],
)
def test_a_file_of_another_kind_is_refused(page: Any, tmp_path: Path, text: str, found: str) -> None:
    page.goto(written(tmp_path))
    press(page, "k")
    (tmp_path / "other.csv").write_text(text, encoding="utf-8", newline="\n")
    page.locator("#file").set_input_files(tmp_path / "other.csv")
    expect(page.locator("#said")).to_have_text(
        f"other.csv is no corrections.csv: expected the columns path,action,value, found {found}."
    )
    assert saved(page) == [["cats/1.png", "keep", ""]]


def test_a_picture_that_is_suspected_twice_has_one_verdict(page: Any, tmp_path: Path) -> None:
    twice = [*SUSPECTS[:3], dataclasses.replace(SUSPECTS[3], path="cats/1.png")]
    twice += [dataclasses.replace(SUSPECTS[2], path="cats/1.png"), dataclasses.replace(SUSPECTS[4], path="cats/3.png")]
    page.goto(written(tmp_path, twice))
    press(page, "r", "Enter", "k", "s")
    expect(page.locator("#chosen")).to_have_text("This picture has been suspected before, and was relabelled as dogs.")
    press(page, "s", "k", "x")  # kind by kind: the copies, the outlier, the odd one
    assert saved(page) == [
        ["cats/1.png", "relabel", "dogs"],
        ["cats/1.png", "same", "dogs/2.png"],
        ["cats/2.png", "keep", ""],
        ["cats/3.png", "remove", ""],
    ]


def test_two_pictures_that_only_look_alike_are_told_apart(page: Any, tmp_path: Path) -> None:
    """Which says nothing of the label of either, and can be loaded again, whichever is named first."""
    page.goto(written(tmp_path))
    press(page, "ArrowRight", "ArrowRight", "k")
    told = [["cats/3.png", "different", "dogs/2.png"]]
    assert saved(page) == told
    press(page, "u")
    load(page, tmp_path / "apart.csv", [["dogs/2.png", "different", "cats/3.png"]])
    expect(page.locator("#decided li")).to_have_count(1)
    assert saved(page) == told
