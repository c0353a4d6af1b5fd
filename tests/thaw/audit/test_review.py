"""The review page as a person uses it, in a real browser from disk: nothing decided is lost, and all of it is saved."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.helpers.reviewing import CLASSES, SUSPECTS, draw, load, press, saved, written
from thaw.audit import review
from thaw.audit.review import Neighbour, Suspect

# Of what is focused, or the page itself; and the buttons that a finger would miss.
OUTLINE = "document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle"
SMALL = """[...document.querySelectorAll("button")].filter(e => e.checkVisibility())
    .map(e => [e.id || e.textContent, e.offsetWidth, e.offsetHeight])
    .filter(([, width, height]) => Math.min(width, height) < 44)"""
# Names of actions that are cut off, or broken within a word; and neighbours in a row that overlap.
BROKEN = """[...document.querySelectorAll(".actions b")].filter(e => e.checkVisibility())
    .filter(e => e.scrollWidth > e.clientWidth || (e.offsetHeight > 26 && !e.textContent.includes(" ")))
    .map(e => e.textContent)"""
OVERLAPPING = """[...document.querySelectorAll(".top > *, .moves > *, .actions > *")].filter(e => e.checkVisibility())
    .filter(e => { const [a, b] = [e, e.nextElementSibling ?? document.head].map(e => e.getBoundingClientRect());
        const beside = a.right <= b.left + 1 || b.right <= a.left + 1;
        return b.width && !beside && a.bottom > b.top + 1 && b.bottom > a.top + 1 })
    .map(e => e.id || e.className)"""


def test_each_action_is_saved_and_one_is_undone(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path))
    expect(page.get_by_role("heading", level=1)).to_have_text("6 suspects among 1,234 pictures")
    expect(page.locator("#at")).to_have_text("1 of 6")
    expect(page.locator("#why")).to_have_text("It looks like a dog.")
    press(page, "r", "Enter", "k", "s", "x", "k")
    expect(page.locator("#at")).to_have_text("6 of 6")
    press(page, "x", "u")
    expect(page.locator("#said")).to_have_text("Undone.")
    assert saved(page) == [
        ["cats/1.png", "relabel", "dogs"],
        ["cats/2.png", "keep", ""],
        ["cats/3.png", "same", "dogs/2.png"],
        ["cats/4.png", "remove", ""],
        ["cats/5.png", "keep", ""],
    ]
    expect(page.locator("#command")).to_have_text("python -m stages.get_data correct corrections.csv")
    expect(page.locator("#command")).to_be_visible()


def test_buttons_do_what_keys_do(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path))
    page.get_by_role("button", name="Relabel").click()
    page.get_by_role("option", name="cows").click()
    page.get_by_role("button", name="Keep").click()
    page.locator("#neighbours button").nth(1).click()
    page.get_by_role("button", name="Same object").click()
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Forward").click()
    expect(page.locator("#at")).to_have_text("5 of 6")
    page.get_by_role("button", name="Back").click()
    expect(page.locator("#at")).to_have_text("4 of 6")
    assert saved(page) == [
        ["cats/1.png", "relabel", "cows"],
        ["cats/2.png", "keep", ""],
        ["cats/3.png", "same", "dogs/3.png"],
    ]


def test_a_reload_in_the_middle_loses_nothing(page: Any, tmp_path: Path) -> None:
    address = written(tmp_path)
    page.goto(address)
    press(page, "k", "x")
    page.reload()
    expect(page.locator("#at")).to_have_text("3 of 6")
    expect(page.locator("#decided li")).to_have_count(2)
    press(page, "Control+z", "Control+z", "Control+z", "x")
    expect(page.locator("#said")).to_have_text("cats/1.png: removed.")
    again = page.context.new_page()
    again.goto(address)
    expect(again.locator("#decided li")).to_have_count(1)
    press(again, "k")
    press(page, "ArrowRight")
    page.reload()
    expect(page.locator("#decided li")).to_have_count(2)
    assert len(saved(page)) == 2, "what another tab has decided counts"


def test_whoever_has_only_looked_comes_back_to_the_same_place(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path))
    press(page, "ArrowRight", "ArrowRight")
    page.reload()
    expect(page.locator("#at")).to_have_text("3 of 6")


def test_another_audit_begins_anew(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path))
    press(page, "k", "k")
    page.goto(written(tmp_path, [dataclasses.replace(SUSPECTS[0], why="It looks like a wolf."), *SUSPECTS[1:]]))
    expect(page.locator("#at")).to_have_text("1 of 6")
    expect(page.locator("#decided li")).to_have_count(0)
    page.goto(written(tmp_path))
    expect(page.locator("#decided li")).to_have_count(2)


def test_a_decision_is_gone_back_to_and_changed(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path))
    press(page, "k", "k")
    page.locator("#decided button").last.click()
    expect(page.locator("#chosen")).to_have_text("You have decided: kept.")
    expect(page.locator("#keep")).to_have_attribute("aria-pressed", "true")
    press(page, "x")
    expect(page.locator("#at")).to_have_text("3 of 6")
    assert saved(page) == [["cats/1.png", "remove", ""], ["cats/2.png", "keep", ""]]


def test_classes_are_searched(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path))
    press(page, "r")
    options = page.get_by_role("option")
    expect(options).to_have_text(["1dogssuggested", "2cows", "3élans"])
    page.keyboard.type("ELA")
    expect(options).to_have_text(["1élans"])
    press(page, "Enter", "r", "2")
    press(page, "r", "ArrowDown", "ArrowUp", "ArrowDown", "Enter")
    press(page, "r")
    page.keyboard.type("zebra")
    expect(page.get_by_text("No class has such a name.")).to_be_visible()
    press(page, "Escape")
    assert [row[2] for row in saved(page)] == ["élans", "dogs", "cows"]


def test_a_new_class_has_to_be_confirmed(page: Any, tmp_path: Path) -> None:
    asked: list[str] = []
    answers = iter([False, True, True])
    page.on("dialog", lambda one: (asked.append(one.message), one.accept() if next(answers) else one.dismiss()))
    page.goto(written(tmp_path))
    new = page.locator("#new-class")
    press(page, "r")
    expect(new).to_be_hidden()
    for typed, is_new in (("DOGS", False), ("elans", False), ("cats", False), ("dog", True), (" ", False)):
        page.locator("#search").fill(typed)
        expect(new).to_be_visible() if is_new else expect(new).to_be_hidden()
    page.locator("#search").fill("dgos")
    press(page, "Enter")
    expect(new).to_be_focused()
    press(page, "Enter")
    assert asked == ["“dgos” is no class yet. Did you mean “dogs”? Make it a new class?"]
    expect(page.locator("#decided li")).to_have_count(0)
    page.locator("#search").fill("zebra ")
    new.click()
    assert asked[1:] == ["“zebra” is no class yet. Make it a new class?"]
    press(page, "r")
    expect(page.get_by_role("option")).to_have_text(["1cowssuggested", "2dogs", "3élans", "4zebra"])
    press(page, "4")
    assert saved(page) == [["cats/1.png", "relabel", "zebra"], ["cats/2.png", "relabel", "zebra"]]


@pytest.mark.parametrize(
    ("keys", "rows"),
    [
        (["k"], ["cats/x.png,keep,", "cows/x.png,relabel,cats", "dogs/x.png,relabel,cats"]),
        (["r", "Enter"], ["cats/x.png,relabel,cows", "cows/x.png,keep,", "dogs/x.png,relabel,cows"]),
        (["x"], ["cats/x.png,remove,", "cows/x.png,remove,", "dogs/x.png,remove,"]),
    ],
    ids=["the first is right", "another is", "none is"],
)
def test_of_identical_files_in_several_classes_one_label_is_right(
    page: Any, tmp_path: Path, keys: list[str], rows: list[str]
) -> None:
    others = (Neighbour("cows/x.png", "cows", None), Neighbour("dogs/x.png", "dogs", None))
    conflict = Suspect("conflict", "cats/x.png", "cats", None, "Identical files.", "cows", others)
    page.goto(written(tmp_path, [conflict, SUSPECTS[3]]))
    expect(page.locator("#question")).to_have_text("Which label is right?")
    expect(page.locator("#keep")).to_contain_text("cats is right")
    expect(page.locator("#same")).to_be_hidden()
    expect(page.get_by_text("not used")).to_have_count(3)
    press(page, *keys)
    found = saved(page)
    assert [",".join(row) for row in found] == rows
    page.evaluate("localStorage.clear()")
    page.reload()
    load(page, tmp_path / "corrections.csv", found[::-1])
    expect(page.locator("#decided li")).to_have_count(1)
    assert saved(page) == found
    press(page, "u")
    assert saved(page) == [], "nothing of it is left over"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("dogs/x.png,keep,", ["cats/x.png,relabel,dogs", "dogs/x.png,keep,"]),
        ("dogs/x.png,relabel,cats", ["cats/x.png,keep,", "dogs/x.png,relabel,cats"]),
        ("cats/x.png,remove,", ["cats/x.png,remove,"]),
        ("dogs/x.png,remove,", ["dogs/x.png,remove,"]),
    ],
)
def test_what_a_file_says_of_one_of_identical_files(page: Any, tmp_path: Path, row: str, found: list[str]) -> None:
    """As get_data would take it: a label is that of all, and to remove one is not to remove the other."""
    others = (Neighbour("dogs/x.png", "dogs", None),)
    page.goto(written(tmp_path, [Suspect("conflict", "cats/x.png", "cats", None, "Identical.", "dogs", others)]))
    load(page, tmp_path / "corrections.csv", [row.split(",")])
    expect(page.locator("#said")).to_contain_text("Loaded 1 row")
    assert [",".join(one) for one in saved(page)] == found


def test_where_classes_are_numbers_digits_search(page: Any, tmp_path: Path) -> None:
    digits = [Suspect("label", "a.png", "3", "train", "It looks like a 5.", "5")] * 2
    page.goto(written(tmp_path, digits, [*"0123456789", "17"]))
    press(page, "r", "7")
    expect(page.get_by_role("option")).to_have_text(["7", "17"])
    press(page, "Enter")
    assert saved(page) == [["a.png", "relabel", "7"]]


def test_one_kind_at_a_time(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path))
    page.get_by_role("button", name="Odd pictures").click()
    expect(page.locator("#at")).to_have_text("1 of 2")
    press(page, "k", "x")
    expect(page.get_by_role("heading", name="All of this kind are decided")).to_be_visible()
    page.get_by_role("button", name="Go on with the other 4").click()
    expect(page.locator("#at")).to_have_text("1 of 6")
    press(page, "f")
    expect(page.locator("#at")).to_have_text("1 of 2")
    press(page, "k", "k", "k", "f", "k", "f", "x")
    expect(page.get_by_role("heading", name="All decided")).to_be_visible()
    expect(page.locator("#end-counts")).to_have_text("4 kept, 2 removed.")


def test_where_the_browser_keeps_nothing_it_says_so_and_warns_before_leaving(page: Any, tmp_path: Path) -> None:
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('none') } })")
    page.goto(written(tmp_path))
    expect(page.get_by_text("This browser keeps nothing")).to_be_visible()
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.locator("#keep").click()
    page.reload()
    assert asked == ["beforeunload"]
    page.locator("#keep").click()
    assert saved(page) == [["cats/1.png", "keep", ""]]
    page.reload()
    assert asked == ["beforeunload"], "what is saved needs no warning"


def test_keys_are_left_alone_where_they_mean_something_else(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path))
    press(page, "?")
    expect(page.get_by_role("dialog")).to_be_visible()
    press(page, "k", "Escape", "Control+k", "s")
    expect(page.get_by_role("dialog")).to_have_count(0)
    press(page, "r")
    page.keyboard.type("kx")
    press(page, "Escape")
    expect(page.locator("#at")).to_have_text("1 of 6")
    expect(page.locator("#decided li")).to_have_count(0)


def test_everything_is_reached_with_the_keyboard_and_has_a_name(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path))
    press(page, "k", "ArrowRight")
    reached = []
    for _ in range(40):
        press(page, "Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert page.evaluate(OUTLINE) != "none", reached[-1]
    assert {"save", "load", "show-help", "back", "forward", "undo", "keep", "relabel", "remove", "same"} <= {*reached}
    assert page.locator("#neighbours button").count() == 2
    nameless = "e => e.checkVisibility() && !(e.textContent.trim() || e.ariaLabel)"
    assert page.evaluate(f"[...document.querySelectorAll('button, input')].filter({nameless}).length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_all_fits_and_can_be_touched(chromium: Any, tmp_path: Path, scheme: str) -> None:
    context = chromium.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme=scheme
    )
    page = context.new_page()
    page.goto(written(tmp_path))
    for act in ("keep", "remove", "same"):
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate(SMALL) == []
        assert page.locator("#relabel").bounding_box()["y"] < 844, "within reach without scrolling"
        page.locator(f"#{act}").tap()
    page.locator("#relabel").tap()
    page.get_by_role("option", name="dogs").tap()
    expect(page.locator("#decided li")).to_have_count(4)
    context.close()


@pytest.mark.parametrize("width", [320, 360, 390, 420, 481, 600, 768, 1000, 1400])
def test_in_a_window_of_any_width_no_word_is_broken_and_nothing_overlaps(
    chromium: Any, tmp_path: Path, width: int
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(written(tmp_path))
    for key in "kkk":
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(BROKEN) == []
        assert page.evaluate(OVERLAPPING) == []
        press(page, key)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read(scheme: str) -> None:
    """By WCAG's contrast of 4.5 on what is behind them."""
    template = Path(review.__file__).with_name("review.html.j2").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{.*?\}", template, re.DOTALL)
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", block)) for block in blocks)
    colours = light if scheme == "light" else light | dark
    pairs = [(text, on) for text in ("ink", "soft", "blue", "green", "red", "violet") for on in ("card", "page")]
    pairs += [("soft", "well"), ("ink", "well"), ("ink", "warm")]
    pairs += [("on", tone) for tone in ("blue", "green", "red", "violet")]
    assert [(a, b) for a, b in pairs if contrast(colours[a], colours[b]) < 4.5] == []


def contrast(one: str, other: str) -> float:
    """How much two colours differ in brightness, from 1 to 21 (WCAG 2)."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        channels = (int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_page_is_the_same_twice_wherever_it_is_made(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / name)
    page = (tmp_path / "a" / "review.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "b" / "review.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in page
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b|https?:", page)


def test_a_picture_is_in_it_once(tmp_path: Path) -> None:
    written(tmp_path, SUSPECTS * 3)
    assert (tmp_path / "review.html").read_text(encoding="utf-8").count("data:image/") == 9


def test_a_lost_picture_does_not_lose_the_page(page: Any, tmp_path: Path) -> None:
    draw(tmp_path / "data", SUSPECTS)
    (tmp_path / "data/cats/1.png").unlink()
    (tmp_path / "data/dogs/1.png").write_bytes(b"no picture")
    review.write(tmp_path / "review.html", SUSPECTS, CLASSES, tmp_path / "data", total=6)
    page.goto((tmp_path / "review.html").as_uri())
    expect(page.get_by_text("This picture is missing")).to_have_count(2)
    press(page, "k")
    expect(page.locator("#picture img")).to_be_visible()


def test_of_many_suspects_the_first_are_shown_and_all_are_counted(page: Any, tmp_path: Path) -> None:
    many = [dataclasses.replace(SUSPECTS[1], why=f"number {number}") for number in range(review.MOST + 31)]
    page.goto(written(tmp_path, many))
    expect(page.get_by_role("heading", level=1)).to_have_text("91 suspects among 1,234 pictures")
    expect(page.get_by_text("The most suspicious of each kind are here, 60 of 91.")).to_be_visible()
    expect(page.locator("#at")).to_have_text("1 of 60")


def test_without_suspects_it_says_what_was_looked_for(page: Any, tmp_path: Path) -> None:
    page.goto(written(tmp_path, []))
    expect(page.get_by_role("heading", name="Nothing to review")).to_be_visible()
    for wording in review.KINDS.values():
        expect(page.get_by_text(wording.meaning)).to_be_visible()
