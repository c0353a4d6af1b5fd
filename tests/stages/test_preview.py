"""preview: a contact sheet of what the network is given."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import preview
from tests.helpers import finished, options
from thaw.artifacts import Paths, read_json
from thaw.config.composing import compose
from thaw.config.schema import Augment, Backbone
from thaw.data import images, manifest, sheets
from thaw.errors import UserError

BACKBONE = Backbone.model_validate(options.BACKBONE | {"input_size": 48})


def test_a_row_shows_an_image_and_its_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths: Paths = finished.pipeline(tmp_path)
    augment = compose(["augment=strong"], ["augment"])["augment"]
    preview.run(paths, BACKBONE, augment, seed=0)
    sheet = np.array(Image.open(paths.root / "preview.png"))
    step, rows = 48 + sheets.GAP, preview.ROWS * len(read_json(paths.classes))
    assert sheet.shape == (sheets.TITLE + rows * step, sheets.LABEL + 9 * step, 3)
    first = next(one for one in manifest.read(paths.manifest) if one.split == "train" and one.label == "cat")
    shown = [
        sheet[sheets.TITLE : sheets.TITLE + 48, sheets.LABEL + n * step : sheets.LABEL + n * step + 48]
        for n in range(9)
    ]
    np.testing.assert_array_equal(shown[0], images.load(paths.data / first.path, 48, "crop"))
    assert len({view.tobytes() for view in shown}) > 5, "some views of a plain picture are alike"
    assert str(paths.root / "preview.png") in capsys.readouterr().out


def test_the_same_sheet_has_the_same_bytes(tmp_path: Path) -> None:
    paths = finished.pipeline(tmp_path)
    augment = compose(["augment=light"], ["augment"])["augment"]
    drawn = []
    for _ in range(2):
        preview.run(paths, BACKBONE, augment, seed=0)
        drawn.append((paths.root / "preview.png").read_bytes())
    assert drawn[0] == drawn[1]


def test_without_views_there_is_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found 'views: 0'; try 'python -m stages.preview augment=standard'"):
        preview.run(Paths(tmp_path, tmp_path), BACKBONE, Augment.model_validate(options.AUGMENT), seed=0)
