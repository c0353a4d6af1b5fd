"""Heat maps in the report: that they find what is planted, where in the picture it is, and when there are none."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw

from stages import evaluate, extract_features, prepare, train_head
from tests.helpers import finished
from thaw.artifacts import Paths
from thaw.config.composing import compose
from thaw.data import images, manifest
from thaw.evidence import heatmaps, report
from thaw.evidence.story import Story
from thaw.learning.heads import Head
from thaw.models import portable
from thaw.networks.activation import Mapped
from thaw.runs import publishing

CORNERS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def textured(random: np.random.Generator, side: int = 160) -> Image.Image:
    """A picture of blurred spots, coarse ones and fine ones."""
    layers = [
        np.asarray(Image.fromarray(random.integers(0, 256, (n, n, 3), np.uint8)).resize((side, side)), np.float32)
        for n in (4, 12, 40)
    ]
    return Image.fromarray(np.mean(layers, axis=0).astype(np.uint8))


def marked(picture: Image.Image, corner: tuple[int, int]) -> Image.Image:
    """Stamp a watermark of thin lines into a corner of a picture, a quarter of its side."""
    side = picture.width // 4
    top, left = (3 * side * place for place in corner)
    draw = ImageDraw.Draw(picture)
    for step in range(0, side, 8):
        draw.line([(left + step, top), (left + side - step, top + side)], fill="white", width=2)
    return picture


def test_a_watermark_that_tells_one_class_from_the_other_is_found(tmp_path: Path) -> None:
    random, paths = np.random.default_rng(0), Paths(tmp_path / "data", tmp_path / "artifacts")
    planted = {f"marked/{number:02}.png": CORNERS[number % 4] for number in range(60)}
    for path in (*planted, *(name.replace("marked", "bare") for name in planted)):
        (paths.data / path).parent.mkdir(parents=True, exist_ok=True)
        picture = textured(random)
        (marked(picture, planted[path]) if path in planted else picture).save(paths.data / path)
    changes = ("backbone.keep_blocks=0", "backbone.input_size=160")
    chosen = compose(["dataset=folder", "backbone=mobilenet_v2_bundled", *changes])
    prepare.run(paths, chosen["dataset"], chosen["seed"])
    extract_features.run(paths, chosen["backbone"], chosen["augment"], chosen["seed"])
    train_head.run(paths, chosen["train_head"], chosen["seed"])
    mapped = Mapped(paths.backbone, Head.load(paths.head).layers)
    assert mapped.places == (5, 5)
    seen = [one.path for one in manifest.read(paths.manifest) if one.path in planted and one.split != "train"]
    squares = [images.load(paths.data / path, 160, "crop") for path in seen]
    strongest = [
        np.unravel_index(one.argmax(), one.shape)
        for one in mapped.maps(squares, np.tile(np.array([-1, 1], np.float32), (len(seen), 1)))
    ]
    assert len(seen) >= 15
    found = [tuple(int(place > 2) for place in at) for at in strongest]
    assert np.mean([one == planted[path] for one, path in zip(found, seen, strict=True)]) >= 0.9, "by chance, 0.25"


def tint(picture: Image.Image, row: float, column: float) -> str:
    """The colour about a place of a picture, which is given in shares of its height and width."""
    at = (int(column * picture.width), int(row * picture.height))
    red, _, blue = picture.resize((9, 9), box=(at[0] - 4, at[1] - 4, at[0] + 5, at[1] + 5)).getpixel((4, 4))
    return "grey" if abs(red - blue) < 20 else "blue" if blue > red else "red"


@pytest.mark.parametrize(("fit", "sides"), [("crop", "grey"), ("stretch", "blue")])
def test_a_map_lies_where_the_network_has_seen_it(fit: str, sides: str) -> None:
    heat = np.array([[1, 1, 1], [1, 1, 1], [-1, -1, -1]], np.float32)
    for size in ((128, 64), (16, 8)):
        drawn = heatmaps.draw(Image.new("RGB", size, "gray"), heat, fit)
        assert drawn.size == (128, 64), "pixel art is enlarged"
        assert [tint(drawn, 0.2, column) for column in (0.1, 0.3, 0.7, 0.9)] == [sides, "blue", "blue", sides]
        assert tint(drawn, 0.9, 0.5) == "red"


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A pipeline whose models tell two classes by how red and how blue each pixel is."""
    monkeypatch.setattr(publishing, "publish", lambda *_: None)
    paths = finished.pipeline(tmp_path, ("red", "blue"))
    head = Head([(np.array([[9, -9], [0, 0], [-9, 9]], np.float32), np.zeros(2, np.float32))])
    head.save(paths.head)
    portable.with_head(paths.backbone, head.layers, paths.network)
    return paths


def story(paths: Paths) -> Story:
    """What evaluate tells."""
    told: list[Story] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_html", lambda _, story: told.append(story))
        evaluate.run(paths, finished.EVALUATE, finished.SEED)
    return told[0]


def opened(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")


def wrong(told: Story) -> list[int]:
    """Test images that are not right both before and after."""
    answers = [model.argmax(1) for model in (told.test.before, told.test.after)]
    return np.flatnonzero((answers[0] != told.test.labels) | (answers[1] != told.test.labels)).tolist()


def test_a_picture_is_upright_and_true_and_wrong_have_their_colours(colours: Paths) -> None:
    told = story(colours)
    row, gone = wrong(told)[:2]
    pixels = np.zeros((160, 320, 3), np.uint8)
    pixels[:, :160, 0], pixels[:, 160:, 2] = 255, 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # what is left as it is stored is at the top
    Image.fromarray(pixels).save(told.data / told.paths[row], "jpeg", exif=exif)
    (told.data / told.paths[gone]).unlink()
    found = heatmaps.look(told, [row, gone])
    assert [*found] == [row]
    for heat in found[row]:
        true = told.classes[told.test.labels[row]]
        assert {true, heat.other} == {"red", "blue"}
        assert heat.places == (64, 64)
        drawn = opened(heat.source)
        assert drawn.size == (64, 128)
        top, bottom = ("blue", "red") if true == "red" else ("red", "blue")
        assert [tint(drawn, place, 0.5) for place in (0.1, 0.35, 0.65, 0.9)] == ["grey", top, bottom, "grey"]
    assert heatmaps.look(told, [gone]) == {}


SAID = r'alt="([^"]+?)(, before|, after)?: what speaks for (\w+) \(blue\) and for (\w+) \(red\)"'


def test_the_report_shows_both_models_side_by_side(colours: Paths) -> None:
    told = story(colours)
    evaluate.run(colours, finished.EVALUATE, finished.SEED)
    page = colours.report.read_text(encoding="utf-8")
    shown = re.findall(SAID, page)
    assert [when for _, when, _, _ in shown] == [", before", ", after"] * (len(shown) // 2)
    assert {path for path, _, _, _ in shown} <= {told.paths[row] for row in wrong(told)}
    assert len(shown) == 2 * page.count("<figure>") > 0
    assert all({true, other} == {"red", "blue"} for _, _, true, other in shown)
    assert "each of 64 × 64 places speaks for the true class (blue) or for the wrong answer (red)" in page


def test_of_one_model_there_is_one_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "publish", lambda *_: None)
    paths = finished.head_only(tmp_path)
    evaluate.run(paths, finished.EVALUATE, finished.SEED)
    page = paths.report.read_text(encoding="utf-8")
    assert len(re.findall(SAID, page)) == page.count("<figure>") > 0
    assert "each of 64 × 64 places" in page


def test_a_network_without_places_has_no_maps_and_nothing_is_said_of_them(colours: Paths, tmp_path: Path) -> None:
    import openvino
    from openvino import opset13 as ops

    finished.backbone(tmp_path / "means.xml", side=64)
    model = openvino.Core().read_model(tmp_path / "means.xml")
    features = ops.tanh(model.get_results()[0].input_value(0))
    openvino.save_model(openvino.Model([ops.result(features)], model.get_parameters(), "network"), colours.backbone)
    evaluate.run(colours, finished.EVALUATE, finished.SEED)
    page = colours.report.read_text(encoding="utf-8")
    assert page.count("<figure>") > 0
    for word in ("what speaks", "places", 'class="pictures mapped"', "where the evidence"):
        assert word not in page
