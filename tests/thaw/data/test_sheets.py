"""Contact sheets: what is drawn where."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers import pictures
from thaw.data import sheets, sources
from thaw.data.layouts import Options
from thaw.data.sheets import GAP, LABEL, TITLE


def test_a_row_for_each_name_and_a_cross_for_what_cannot_be_shown() -> None:
    red, wide = Image.new("RGB", (50, 50), "red"), Image.new("RGB", (100, 10), "blue")
    drawn = np.asarray(sheets.sheet([("a", [red, None]), ("b" * 200, [wide])], 50, "title"))
    assert drawn.shape == (TITLE + 2 * (50 + GAP), LABEL + 2 * (50 + GAP), 3)
    assert (drawn[TITLE : TITLE + 50, LABEL : LABEL + 50] == (255, 0, 0)).all()
    cross = drawn[TITLE : TITLE + 50, LABEL + 50 + GAP :]
    assert (cross[25, 25] == sheets.CROSSED).all()
    below = drawn[TITLE + 50 + GAP :, LABEL : LABEL + 50]
    assert (below[25] == (0, 0, 255)).all(), "in the middle of its place"
    assert (below[0] == 255).all()
    assert (drawn[TITLE:, LABEL - GAP : LABEL] == 255).all(), "a long name is broken, and stays in its column"


def test_a_data_set_is_drawn_class_by_class(tmp_path: Path) -> None:
    folder = pictures.fill(tmp_path / "source", {"a": 20, "b": 3})
    (folder / "b" / "broken.png").write_bytes(b"no picture")
    sheet = tmp_path / "artifacts" / "sheet.png"
    layout = sources.look(folder, Options(), sheet)
    assert layout.notes == ["11 looked at: 10 PNG; 8 x 6 pixels, 1 of them no usable images"]
    with Image.open(sheet) as drawn:
        assert drawn.size == (LABEL + 7 * (sheets.SIDE + GAP), TITLE + 2 * (sheets.SIDE + GAP))
    before = sheet.read_bytes()
    sources.look(folder, Options(), sheet)
    assert sheet.read_bytes() == before
