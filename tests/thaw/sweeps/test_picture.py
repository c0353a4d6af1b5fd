"""The pictures of a sweep: where lines and dots are, and that any text may stand in them."""

import re
from xml.etree import ElementTree

import pytest

from thaw.evidence.significance import Interval
from thaw.sweeps import picture
from thaw.sweeps.picture import Point

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


def backbones(*costs: float) -> list[Point]:
    """Three of them, the best one first; the second one is in front of nobody."""
    figures = ((0.9, True), (0.85, False), (0.8, True))
    named = zip(("large", "a<b", "small"), costs, figures, strict=True)
    return [
        Point(name, cost, share, Interval(share - 0.02, share + 0.01), front) for name, cost, (share, front) in named
    ]


def test_a_dot_is_as_high_as_its_accuracy_and_as_far_as_its_time_on_a_logarithmic_axis() -> None:
    root = ElementTree.fromstring(picture.cost(backbones(100, 10, 1), "cross-validated"))
    dots = {
        str(group.findtext(f"{SVG}title")): [float(circle.get(axis, "")) for axis in ("cx", "cy")]
        for group in root.findall(f"{SVG}g")
        for circle in group.findall(f"{SVG}circle")
    }
    assert [*dots] == [
        "small: 80.0% (78.0% to 81.0%), 1 ms",
        "a<b: 85.0% (83.0% to 86.0%), 10 ms",
        "large: 90.0% (88.0% to 91.0%), 100 ms",
    ]
    (first, low), (second, middle), (third, high) = dots.values()
    assert second - first == pytest.approx(third - second, abs=0.11)
    assert low - middle == pytest.approx(middle - high, abs=0.11)
    assert low > high


def test_the_front_stands_out_and_climbs_from_the_quickest_to_the_best() -> None:
    root = ElementTree.fromstring(picture.cost(backbones(50, 60, 5), "cross-validated"))
    assert [group.get("class") for group in root.findall(f"{SVG}g")] == ["worth", None, "worth"]
    (stairs,) = root.findall(f"{SVG}polyline")
    corners = [tuple(map(float, corner.split(","))) for corner in stairs.get("points", "").split()]
    assert corners[0] == corners[1]
    assert corners[2] == (corners[3][0], corners[1][1]), "level until another one is better"
    assert corners[3][1] < corners[2][1]
    listed = [str(text.text) for text in root.findall(f"{SVG}text") if text.get("class") == "worth"]
    assert listed == ["1. large", "90.0%, 50 ms", "3. small", "80.0%, 5 ms"]


@pytest.mark.parametrize("cost", [0.2, 1.0, 1234.0])
def test_one_backbone_is_within_its_axes(cost: float) -> None:
    root = ElementTree.fromstring(picture.cost([Point("n" * 99, cost, 1.0, None, True)], "cross-validated"))
    (dot,) = root.findall(f"{SVG}g/{SVG}circle")
    assert picture.LEFT < float(dot.get("cx", "")) < picture.PHONE - picture.RIGHT
    assert picture.TOP <= float(dot.get("cy", "")) <= picture.TOP + picture.HEIGHT
    assert max(len(str(text.text)) for text in root.findall(f"{SVG}text")) < 60
