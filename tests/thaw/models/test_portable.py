"""The finished model: every way to hand it a picture, what it refuses, and what it is made from."""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from tests.helpers import finished
from thaw.data import images
from thaw.data.images import Unusable
from thaw.errors import UserError
from thaw.learning.heads import Head
from thaw.models import portable
from thaw.models.portable import Facts, Model
from thaw.networks.inference import OpenVino, softmax

FACTS = Facts(classes=["red", "green", "blue"], input_size=32, precision="float32", temperature=2.0)
HEAD = [(np.eye(3, dtype=np.float32) * 8, np.zeros(3, np.float32))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that names the strongest of an image's mean red, green and blue."""
    root = tmp_path_factory.mktemp("model")
    finished.backbone(root / "backbone.xml", side=32)
    portable.write(root / "model", root / "backbone.xml", FACTS, "a card", HEAD)
    return root / "model"


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model(folder)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    pixels[..., 1] //= 2
    Image.fromarray(pixels).save(path)
    return path


def test_a_folder_holds_the_network_the_facts_and_the_card(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "model.bin", "model.json", "model.xml"]


def test_every_way_to_hand_over_a_picture_gives_the_same_answer(model: Model, photo: Path) -> None:
    data, pixels = photo.read_bytes(), np.asarray(Image.open(photo))
    ways: list[Any] = [photo, data, bytearray(data), base64.b64encode(data).decode(), pixels, pixels.tolist()]
    answers = model.answer([*ways, pixels.astype(np.float64)])
    assert all(answer == answers[0] for answer in answers)
    assert answers[0].label == "red"
    assert answers[0].probability == answers[0].probabilities["red"]
    assert [*answers[0].probabilities] == FACTS.classes


def test_probabilities_are_those_of_the_head_at_the_temperature(model: Model, photo: Path) -> None:
    square = model.square(photo)
    np.testing.assert_array_equal(square, images.load(photo, 32, "stretch"))
    features = square.reshape(-1, 3).mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32) / 255
    expected = softmax(Head(HEAD).logits(features), FACTS.temperature)
    np.testing.assert_allclose(model.probabilities([square], 1), expected, atol=1e-6)


def test_a_picture_becomes_a_square_as_the_model_was_taught(model: Model, folder: Path, tmp_path: Path) -> None:
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 255  # white between black
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    facts = json.loads((copy / "model.json").read_text(encoding="utf-8"))
    for fit, mean in (("crop", 255), ("stretch", 85)):
        (copy / "model.json").write_text(json.dumps(facts | {"fit": fit}), encoding="utf-8")
        assert Model(copy).square(pixels).mean() == pytest.approx(mean, abs=1)
    del facts["fit"]  # of a model from before there was a choice
    (copy / "model.json").write_text(json.dumps(facts), encoding="utf-8")
    assert Model(copy).square(pixels).mean() == pytest.approx(85, abs=1)


def test_below_its_threshold_a_model_is_unsure(model: Model, folder: Path, photo: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    facts = json.loads((copy / "model.json").read_text(encoding="utf-8"))
    (answer,) = model.answer([photo])
    for threshold, unsure in ((answer.probability - 1e-4, False), (answer.probability + 1e-4, True)):
        (copy / "model.json").write_text(json.dumps(facts | {"threshold": threshold}), encoding="utf-8")
        found = Model(copy)
        (other,) = found.answer([photo])
        assert other.unsure == unsure
        assert other.probabilities == answer.probabilities, "it changes nothing else"
        line = found.facts.said(found.probabilities([found.square(photo)], 1)[0], top=2)
        assert (
            line
            == ("unsure:  " if unsure else "")
            + f"red {answer.probability:.1%}  blue {answer.probabilities['blue']:.1%}"
        )
    del facts["threshold"]  # of a model from before there was one
    (copy / "model.json").write_text(json.dumps(facts), encoding="utf-8")
    assert Model(copy).answer([photo]) == [answer]
    assert not answer.unsure


def test_the_same_model_is_the_same_file_whatever_the_process_has_built_before(tmp_path: Path) -> None:
    finished.backbone(tmp_path / "backbone.xml", side=16)
    files = [tmp_path / "first.xml", tmp_path / "second.xml"]
    for file in files:
        portable.with_head(tmp_path / "backbone.xml", [*HEAD, *HEAD], file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_head_with_hidden_layers_is_put_on_a_network(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    head = Head(
        [
            (random.normal(size=sizes).astype(np.float32), random.normal(size=sizes[1]).astype(np.float32))
            for sizes in ((3, 8), (8, 5))
        ]
    )
    finished.backbone(tmp_path / "backbone.xml", side=16)
    portable.with_head(tmp_path / "backbone.xml", head.layers, tmp_path / "model.xml")
    pixels = random.integers(0, 256, (4, 16, 16, 3), np.uint8)
    features, logits = np.empty((4, 3), np.float32), np.empty((4, 5), np.float32)
    OpenVino(tmp_path / "backbone.xml", "float32").run(pixels, [features])
    OpenVino(tmp_path / "model.xml", "float32").run(pixels, [logits])
    np.testing.assert_allclose(logits, head.logits(features), rtol=1e-5, atol=1e-5)


def png(**options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(options.get("mode", "RGB"), options.get("size", (8, 8))).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        ("not base64!", "not base64"),
        (base64.b64encode(b"some text").decode(), "not an image"),
        (b"", "empty file"),
        (png()[:45], "undecodable"),
        ([[1, 2], [3]], "rows of unequal length"),
        (np.zeros((8, 8), np.uint8), r"found the shape \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"found the shape \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"found the shape \(0, 8, 3\)"),
        (np.full((8, 8, 3), -1), "numbers from 0 to 255"),
        (np.full((8, 8, 3), 256), "numbers from 0 to 255"),
        (np.full((8, 8, 3), np.nan), "numbers from 0 to 255"),
        (np.full((8, 8, 3), 0.5), "multiply them by 255"),
        ([[["a", "b", "c"]]], "numbers from 0 to 255"),
        (None, r"found the shape \(\)"),
        ({"image": 1}, r"found the shape \(\)"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_place(model: Model, picture: Any, reason: str) -> None:
    with pytest.raises(Unusable, match=f"image 1: .*{reason}"):
        model.answer([np.zeros((4, 4, 3), np.uint8), picture])


def test_a_picture_that_would_take_all_memory_is_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "MAX_PIXELS", 50)
    for picture in (png(), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(Unusable, match="too large"):
            model.answer([picture])


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_pixels_of_any_size_give_probabilities(model: Model, pixels: Any) -> None:
    (answer,) = model.answer([pixels])
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert answer.probability == max(answer.probabilities.values())


def test_no_pictures_no_answers(model: Model) -> None:
    assert model.answer([]) == []


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a finished model .* found no model.json; run 'dvc repro'"):
        Model(tmp_path)
    (tmp_path / "model.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="model.json: expected the facts of a model"):
        Model(tmp_path)


def test_where_there_is_no_bfloat16_the_model_runs_in_float32(
    folder: Path, model: Model, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old(OpenVino):
        """A processor without bfloat16, which no test machine can be made to be."""

        def __init__(self, ir: Path, precision: str) -> None:
            if precision == "bfloat16":
                raise UserError("precision: expected a processor with bfloat16 arithmetic")
            super().__init__(ir, precision)

    facts = Facts(**{**vars(FACTS), "precision": "bfloat16"})
    portable.write(tmp_path / "copy", folder / "model.xml", facts, "")
    monkeypatch.setattr(portable, "OpenVino", Old)
    assert Model(tmp_path / "copy").answer([photo]) == model.answer([photo])
