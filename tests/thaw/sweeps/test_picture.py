"""The picture of a sweep: where lines run, and that any text may stand in it."""

import re
from xml.etree import ElementTree

from thaw.sweeps import picture

SVG = "{http://www.w3.org/2000/svg}"
JOBS = [(["1e-2", "b"], 0.9), (["0.1", "a<b"], 0.5), (["1e-3", "b"], 0.7)]


def test_values_are_ordered_and_the_best_line_is_on_top() -> None:
    root = ElementTree.fromstring(picture.picture(["rate", "head"], JOBS, "validation"))
    lines = root.findall(f"{SVG}polyline")
    assert [line.get("class") for line in lines] == [None, None, "best"]
    heights = {
        str(line.findtext(f"{SVG}title")): [float(y) for y in re.findall(r",(\S+)", line.get("points", ""))]
        for line in lines
    }
    best, worst = heights["rate=1e-2, head=b: 90.0%"], heights["rate=0.1, head=a<b: 50.0%"]
    middle, top, bottom = (
        picture.TOP + picture.HEIGHT / 2,
        picture.TOP,
        picture.TOP + picture.HEIGHT,
    )
    assert best == [middle, top, top]
    assert worst == [top, bottom, bottom]
    assert [text.text for text in root.findall(f"{SVG}text")] == [
        *("rate", "1e-3", "1e-2", "0.1", "head", "a<b", "b", "validation", "50.0%", "90.0%")
    ]


def test_one_job_and_one_value_lie_in_the_middle() -> None:
    root = ElementTree.fromstring(picture.picture(["seed"], [(["0"], 0.5)], "validation"))
    (line,) = root.findall(f"{SVG}polyline")
    assert len({*re.findall(r",(\S+)", line.get("points", ""))}) == 1


def test_an_axis_of_many_values_names_as_many_as_there_is_room_for() -> None:
    jobs = [([str(number)], number / 100) for number in reversed(range(100))]
    root = ElementTree.fromstring(picture.picture(["rate"], jobs, "validation"))
    named = [str(text.text) for text in root.findall(f"{SVG}text")]
    assert named[:4] == ["rate", "0", "7", "14"]
    assert len(named) <= picture.LABELS + 4  # both axes' names, and both ends of the second one
