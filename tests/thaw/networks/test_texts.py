"""Zero-shot classifiers: what thaw makes of class names is what KerasHub's text encoders make of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import hub as presets
from tests.helpers.families import family, pictures, preset
from thaw.architectures import HUB
from thaw.artifacts import cache
from thaw.config.composing import compose
from thaw.config.schema import Backbone
from thaw.errors import UserError
from thaw.networks import hub, texts
from thaw.networks.backbones import FrozenNetwork, network

CLASSES = ["cat", "Green_dog", "a"]
PROMPTS = ["a photo of a {class}.", "the {class}"]
# "a photo of a cat." and its like in the tokens of tests.helpers.hub: letters, the last of a word, "cat".
START, END = 55, 56


def reader(toy: Backbone, name: str, **changes: Any) -> Backbone:
    return family(toy, f"{HUB} {name}", **{"pooling": "embedding", "prompts": PROMPTS, **changes})


@pytest.fixture
def siglip2(toy: Backbone, tmp_path: Path) -> Backbone:
    """A preset of SigLIP 2: the network of SigLIP, with Gemma's tokenizer."""
    import keras_hub

    shutil.copytree(preset("siglip"), tmp_path / "siglip2")
    shutil.rmtree(tmp_path / "siglip2" / "assets")
    presets.siglip2_tokenizer(keras_hub.tokenizers).save_to_preset(str(tmp_path / "siglip2"))
    return reader(toy, "siglip", weights=str(tmp_path / "siglip2"))


def clip_tokens(text: str) -> list[int]:
    """What CLIP's tokenizer has to make of a text, by hand."""
    letters, found = "abcdefghijklmnopqrstuvwxyz", [START]
    for word in text.lower().replace(".", " .").split():
        ends = {"cat": [54], ".": [52]}
        found += ends.get(word) or [*map(letters.index, word[:-1]), 26 + letters.index(word[-1])]
    return [*found, END]


def of_keras_hub(backbone: Backbone, tokens: list[list[int]], pad: int) -> Any:
    """KerasHub's own embeddings of tokens."""
    import keras_hub

    model = keras_hub.models.Backbone.from_preset(backbone.weights)
    padded = np.array([one + [pad] * (32 - len(one)) for one in tokens])
    return np.asarray(model.get_text_embeddings(padded)), model


def averaged(embedded: Any) -> Any:
    """Classes × prompts × width as Radford et al. average them."""
    unit = embedded / np.linalg.norm(embedded, axis=-1, keepdims=True)
    mean = unit.mean(axis=1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def test_names_are_words_in_each_prompt() -> None:
    asked = texts.asked(["a {class}.", "{class}, {class}"], ["red_fox", "left/deep__crack", "n0221"])
    assert asked == [
        ["a red fox.", "red fox, red fox"],
        ["a left deep crack.", "left deep crack, left deep crack"],
        ["a n0221.", "n0221, n0221"],
    ]


def test_a_row_is_the_mean_of_what_clip_makes_of_a_class(toy: Backbone) -> None:
    backbone = reader(toy, "clip")
    tokens = [clip_tokens(one) for of_class in texts.asked(PROMPTS, CLASSES) for one in of_class]
    embedded, model = of_keras_hub(backbone, tokens, pad=0)
    expected = averaged(embedded.reshape(3, 2, -1)) * np.exp(model.clip_head.logit_scale)
    np.testing.assert_allclose(texts.classifier(backbone, CLASSES), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(np.corrcoef(expected)[0, 1]) < 0.9999, "classes that differ"


def test_a_row_is_the_mean_of_what_siglip_makes_of_a_class(toy: Backbone) -> None:
    _holds_for_sentencepiece(reader(toy, "siglip"), end=0, pad=0)


def test_siglip2_has_a_tokenizer_of_its_own(siglip2: Backbone) -> None:
    _holds_for_sentencepiece(siglip2, end=1, pad=0)


def _holds_for_sentencepiece(backbone: Backbone, end: int, pad: int) -> None:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(
        model_file=str(Path(backbone.weights) / "assets" / "tokenizer" / "vocabulary.spm")
    )
    plain = ["a photo of a cat", "the cat", "a photo of a green dog", "the green dog", "a photo of a a", "the a"]
    embedded, model = of_keras_hub(backbone, [[*pieces.encode(one), end] for one in plain], pad)
    expected = averaged(embedded.reshape(3, 2, -1)) * np.exp(model.siglip_head.logit_scale)
    np.testing.assert_allclose(texts.classifier(backbone, CLASSES), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_probabilities_are_the_softmax_of_the_logits_of_the_whole_model(toy: Backbone, name: str) -> None:
    import keras
    import keras_hub

    backbone = reader(toy, name, prompts=["a photo of a {class}."])
    images = pictures(backbone, 4)
    features = network(backbone).predict_on_batch(images)
    found = texts.probabilities(features, texts.classifier(backbone, CLASSES))
    kind = {"clip": "CLIPPreprocessor", "siglip": "SigLIPPreprocessor"}[name]
    read = getattr(keras_hub.models, kind)(texts._tokenizer(backbone, f"{kind[:-12]}Backbone"), sequence_length=32)
    tokens = read({"prompts": [one for (one,) in texts.asked(backbone.asked, CLASSES)], "images": None})["token_ids"]
    pixels = keras_hub.layers.ImageConverter.from_preset(backbone.weights)(images)
    logits = keras_hub.models.Backbone.from_preset(backbone.weights)({"images": pixels, "token_ids": tokens})
    expected = keras.ops.softmax(logits["vision_logits"])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.sum(axis=1) == pytest.approx(1)


def test_it_is_computed_once_and_twice_the_same(toy: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = reader(toy, "clip")
    texts.classifier(backbone, CLASSES)
    (file,) = (cache() / "texts").iterdir()
    first = file.read_bytes()
    file.unlink()
    texts.classifier(backbone, CLASSES)
    assert file.read_bytes() == first
    monkeypatch.setattr(hub, "load", lambda _: pytest.fail("is in the cache"))
    texts.classifier(backbone, CLASSES)


@pytest.mark.parametrize("change", [{"prompts": ["a {class}"]}, {"weights": "siglip"}])
def test_other_sentences_and_networks_are_asked_anew(toy: Backbone, change: dict[str, Any]) -> None:
    change = {key: str(preset("siglip")) if key == "weights" else value for key, value in change.items()}
    texts.classifier(reader(toy, "clip"), CLASSES)
    texts.classifier(reader(toy, "clip", **change), CLASSES)
    assert len([*(cache() / "texts").iterdir()]) == 2


def test_prompts_are_nothing_to_features(toy: Backbone) -> None:
    known = {
        FrozenNetwork(reader(toy, "clip", prompts=prompts)).fingerprint for prompts in (PROMPTS, ["{class}"], None)
    }
    assert len(known) == 1


def test_names_longer_than_a_text_may_be_are_cut(toy: Backbone) -> None:
    found = texts.classifier(reader(toy, "clip"), ["cat " * 40, "cat " * 50])
    assert np.array_equal(found[0], found[1])


def test_a_network_that_does_not_read_is_said(toy: Backbone) -> None:
    with pytest.raises(
        UserError, match="prompts: expected a network for images and texts .*, found dinov2; remove them"
    ):
        texts.classifier(reader(toy, "dinov2"), CLASSES)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_preset_without_a_tokenizer_is_said(toy: Backbone, tmp_path: Path, name: str) -> None:
    shutil.copytree(preset(name), tmp_path / "mute", ignore=shutil.ignore_patterns("assets", "tokenizer.json"))
    with pytest.raises(UserError, match="expected a tokenizer in the preset mute, found: .*or set 'prompts: \\[\\]'"):
        texts.classifier(reader(toy, name, weights=str(tmp_path / "mute")), CLASSES)


def test_prompts_that_name_no_class_are_said(toy: Backbone) -> None:
    with pytest.raises(
        ValueError, match="expected {class}, where the class's name goes, in each prompt, found 'a dog'"
    ):
        Backbone.model_validate(reader(toy, "clip").model_dump() | {"prompts": ["a {class}", "a dog"]})


def test_prompts_for_other_networks_are_said(toy: Backbone) -> None:
    with pytest.raises(ValueError, match="expected 'prompts' with 'network: hub' alone, found them with mobilenet_v2"):
        Backbone.model_validate(toy.model_dump() | {"prompts": ["a {class}"]})


@pytest.mark.parametrize(
    ("changes", "expected"), [({}, PROMPTS), ({"pooling": "avg"}, []), ({"prompts": None}, []), ({"prompts": []}, [])]
)
def test_only_an_embedding_is_compared_with_texts(toy: Backbone, changes: dict[str, Any], expected: list[str]) -> None:
    assert reader(toy, "clip", **changes).asked == expected


@pytest.mark.parametrize("option", ["clip_vit_base", "siglip2_base"])
def test_the_options_that_read_have_prompts(option: str) -> None:
    assert compose([f"backbone={option}"])["backbone"].asked == ["a photo of a {class}."]


def test_others_have_no_such_key(toy: Backbone) -> None:
    assert "prompts" not in json.dumps(toy.model_dump(exclude_none=True))
