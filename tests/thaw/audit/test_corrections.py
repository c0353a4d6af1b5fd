"""What is saved and loaded as corrections.csv, in a real browser: whatever files are called, and nothing is lost."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import expect

from tests.helpers.reviewing import SUSPECTS, load, press, saved, written
from thaw.audit import review
from thaw.audit.review import Suspect
from thaw.data import corrections
from thaw.errors import UserError

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
    labels = [path.replace("\n", " ") for path in HOSTILE]  # the name of a class has no lines
    named = list(zip(HOSTILE, labels, strict=True))
    suspects = [Suspect("label", path, "<b>", "train", "<i>why</i>", label) for path, label in named]
    review.write(tmp_path / "review.html", suspects, ["<b>", *labels], tmp_path, total=10)
    page.goto((tmp_path / "review.html").as_uri())
    for path in HOSTILE:
        assert page.locator("#picture .path").text_content() == path
        expect(page.locator("#why")).to_have_text("<i>why</i>")
        press(page, "r", "Enter")
    rows = saved(page)
    assert rows == sorted([path, "relabel", label] for path, label in named)
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
        ("", "none"),
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


# What a file may hold, as people and spreadsheets leave it, and what it must not.
FILES = {
    "as the page saves it": "path,action,value\ncats/1.png,keep,\ncats/2.png,same,a.png\n",
    "a spreadsheet's": '\ufeff"path";"action";"value"\r\n"cats/1.png";"relabel";"dogs; or not"\r\n;;\r\n',
    "tabs, other columns first, blank rows": "\n\t\t\naction\tpath\tvalue\r\r \rkeep\tcats/1.png\t\r",
    "spaces": " path , action , value \n cats/1.png , relabel , dogs \nb.png, same, a.png",
    "short lines, quotes inside": 'path,action,value\ncats/1 "x".png,keep\n"a ""b"" c",remove\n',
    "no row": "path,action,value\n",
    "twice the same": "path,action,value\na,same,b\nb,same,a\na,keep,\na,keep,\n",
    "nothing": "",
    "blank": " \n,,\n",
    "other columns": "file,label\n1.png,cats\n",
    "other columns, no row": "path,what,value\n",
    "a column twice": "path,path,action,value\na,a,keep,\n",
    "no such action": "path,action,value\n1.png,eat,\n",
    "no action of ours": "path,action,value\n1.png,toString,\n",
    "no class": "path,action,value\n1.png,relabel, \n",
    "a class for nothing": "path,action,value\n1.png,keep,dogs\n",
    "no path": "path,action,value\n ,keep,\n",
    "the same as itself": "path,action,value\n1.png,same,1.png\n",
    "too many cells": "path,action,value\n1.png,keep,,x\n",
    "a quote that is not closed": 'path,action,value\n"1.png,keep,\n',
    "text behind a quote": 'path,action,value\n"1.png"x,keep,\n',
    "a class of two lines": 'path,action,value\n1.png,relabel,"two\nlines"\n',
    "two verdicts": "path,action,value\n1.png,keep,\n1.png,remove,\n",
    "two verdicts on a pair": "path,action,value\na,same,b\nb,different,a\n",
}


def in_python(file: Path) -> list[list[str]] | None:
    """What get_data reads; None where it refuses."""
    try:
        return [[one.path, one.action, one.value] for one in corrections.read(file)]
    except UserError:
        return None


UNDERSTOOD = """bytes => { try { return understood(new Uint8Array(bytes)) } catch (error) {
    if (!error.message.startsWith("expected")) throw error;
    return null } }"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_the_page_and_get_data_take_and_refuse_the_same_files(page: Any, tmp_path: Path, encoding: str) -> None:
    """And what the page has taken, it saves as get_data has read it."""
    page.goto(written(tmp_path, SUSPECTS[-1:]))
    for name, text in FILES.items():
        file = tmp_path / "some.csv"
        start = "\ufeff" if "16" in encoding and not text.startswith("\ufeff") else ""
        file.write_bytes((start + text).encode(encoding))
        read = in_python(file)
        page.evaluate("localStorage.clear()")
        page.reload()
        page.locator("#file").set_input_files(file)
        expect(page.locator("#said")).to_contain_text("is no corrections.csv: expected" if read is None else "Loaded ")
        assert saved(page) == (read or []), name


@given(
    text=st.one_of(
        st.lists(
            st.sampled_from([*',;\t|"\n\r \xa0\x85\x1c\ufeff\x00', "path", "action", "value", "keep", "same", "a", "b"])
        ).map("".join),
        st.lists(
            st.tuples(
                st.sampled_from(["a", " b", "é ", '"a"', '"a', "", " "]),
                st.sampled_from(["keep", " remove ", "relabel", "same", "different", "", "eat", '"keep"']),
                st.sampled_from(["", "a", " b", "c ", '"', '"x, y"', "\x01", "\u2003"]),
            ).map(",".join)
        ).map(lambda rows: "\r\n".join(["path,action,value", *rows])),
    )
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_page_and_get_data_agree_on_any_file(page: Any, tmp_path: Path, text: str) -> None:
    if page.url == "about:blank":
        page.goto(written(tmp_path, SUSPECTS[-1:]))
    file = tmp_path / "any.csv"
    file.write_bytes(text.encode())
    found = page.evaluate(UNDERSTOOD, list(text.encode()))
    assert (found if found is None else sorted(found)) == in_python(file)


def test_what_is_no_text_is_refused_by_both(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path, SUSPECTS[-1:]))
    for content in (b"\xff", b"path,action,value\n\xe9,keep,\n", b"\xff\xfea", b"PK\x03\x04\x14\x00"):
        (tmp_path / "any.csv").write_bytes(content)
        assert page.evaluate(UNDERSTOOD, list(content)) is None
        assert in_python(tmp_path / "any.csv") is None


def test_spaces_around_a_path_are_no_part_of_it_where_a_suspect_is_meant(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path))
    rows = [[" cats/1.png ", "keep", ""], ["cats/3.png", "same", " dogs/3.png"], [" else.png", "remove", ""]]
    load(page, tmp_path / "corrections.csv", rows)
    expect(page.locator("#decided li")).to_have_count(2)
    expected = [[" else.png", "remove", ""], ["cats/1.png", "keep", ""], ["cats/3.png", "same", "dogs/3.png"]]
    assert saved(page) == expected


def test_a_new_class_in_a_file_is_said(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path))
    load(page, tmp_path / "corrections.csv", [["cats/1.png", "relabel", "dgos"], ["cats/2.png", "relabel", "dogs"]])
    expect(page.locator("#said")).to_have_text("Loaded 2 rows of corrections.csv. New: the class dgos.")


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
