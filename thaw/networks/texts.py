"""Zero-shot: what a network for images and texts, CLIP or SigLIP, takes an image for by the names of the classes alone.

The text network makes an embedding of "a photo of a cat.", and an image is of the class whose text is nearest to its
own embedding: so the texts are the weights of a linear classifier that no image has trained (Radford et al. 2021,
https://arxiv.org/abs/2103.00020, section 3.1). How a text becomes tokens is KerasHub's own affair: 77 with a start and
an end for CLIP, lower-cased; 64, lower-cased and without punctuation, for SigLIP
(https://github.com/google-research/big_vision, evaluators/proj/image_text/prompt_engineering.py).
"""

import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from thaw.artifacts import atomic, cache, fingerprint
from thaw.config.schema import CLASS, Backbone
from thaw.errors import UserError
from thaw.networks import hub
from thaw.networks.inference import softmax
from thaw.networks.outputs import Floats
from thaw.networks.weights import preset_folder, weights_id

# By KerasHub's name of the class: what makes tokens of texts, and the attribute with the scale of the logits.
_READERS = {"CLIPBackbone": ("CLIPPreprocessor", "clip_head"), "SigLIPBackbone": ("SigLIPPreprocessor", "siglip_head")}
_CODE = [Path(__file__), Path(str(hub.__file__))]


def asked(prompts: Sequence[str], classes: Sequence[str]) -> list[list[str]]:
    """Return the texts of each class, one for each prompt; ``_`` and ``/`` in its name are spaces."""
    words = [" ".join(re.split(r"[\s_/]+", name)).strip() for name in classes]
    return [[prompt.replace(CLASS, name) for prompt in prompts] for name in words]


def classifier(backbone: Backbone, classes: Sequence[str]) -> Floats:
    """Return the weights of the zero-shot classifier: classes × width.

    A row is the mean of the normalised embeddings of a class's texts, normalised (Radford et al. 2021, section 3.1.4),
    times the scale that the network has learnt for its logits. SigLIP's bias, the same for all classes, is left out: it
    is nothing to a softmax. What was computed before is in the cache.

    Raises:
        UserError: the network does not read.
    """
    texts = asked(backbone.asked, classes)
    known = fingerprint(weights_id(backbone), json.dumps(texts), *_CODE, version("keras"))
    file = cache() / "texts" / f"{known}.npy"
    if not file.exists():
        rows = _computed(backbone, texts)
        with atomic(file) as unfinished, unfinished.open("wb") as opened:
            np.save(opened, rows)
    weights: Floats = np.load(file)
    return weights


def probabilities(features: Floats, weights: Floats) -> Floats:
    """Return what the zero-shot classifier makes of embeddings of images: images × classes.

    The softmax of the scaled cosines. So CLIP was trained; SigLIP has learnt each pair by itself, by a sigmoid, which
    has the same order and does not sum to one: its softmax says which class, and is not how sure it is of one.

    Args:
        features: images × width, as the network gives them: not normalised.
        weights: see ``classifier``.
    """
    return softmax((_normalised(features) @ weights.T).astype(np.float64)).astype(np.float32)


def _computed(backbone: Backbone, texts: Sequence[Sequence[str]]) -> Floats:
    preset = hub.load(backbone)
    import keras_hub  # is there: it has loaded the preset

    kind = type(preset.model).__name__
    if kind not in _READERS:
        raise UserError(
            f"prompts: expected a network for images and texts (CLIP or SigLIP), found {preset.name}; remove them"
        )
    reader, head = _READERS[kind]
    length = preset.model.text_encoder.max_sequence_length
    read = getattr(keras_hub.models, reader)(_tokenizer(backbone, kind), sequence_length=length)
    scale = float(np.exp(np.asarray(getattr(preset.model, head).logit_scale, np.float32)))
    rows = []
    for of_class in tqdm(texts, "class names", disable=None, unit="class"):
        tokens = read({"prompts": list(of_class), "images": None})["token_ids"]
        embedded = _normalised(np.asarray(preset.model.get_text_embeddings(tokens), np.float32))
        rows.append(scale * _normalised(embedded.mean(axis=0)))
    return np.stack(rows).astype(np.float32)


def _tokenizer(backbone: Backbone, kind: str) -> Any:
    """The tokenizer of a preset.

    KerasHub 0.32 reads CLIP's only where there is TensorFlow Text, though it does not use that: its vocabulary is set
    by what it has of TensorFlow Text, and expected by what does without.
    """
    import keras_hub

    class Reading(keras_hub.models.CLIPTokenizer):  # type: ignore[misc]
        def load_assets(self, dir_path: str) -> None:
            self.vocabulary = json.loads(Path(dir_path, "vocabulary.json").read_text(encoding="utf-8"))
            with Path(dir_path, "merges.txt").open(encoding="utf-8") as lines:
                self.merges = [line.rstrip() for line in lines]
            super().load_assets(dir_path)

    preset = str(preset_folder(backbone.weights) or backbone.weights)
    try:
        if kind != "CLIPBackbone":
            return keras_hub.models.Tokenizer.from_preset(preset)
        tokenizer = Reading()
        tokenizer.load_preset_assets(preset)
    except Exception as error:  # as in ``hub.load``
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"prompts: expected a tokenizer in the preset {Path(preset).name}, found: {reason}; save it there with its "
            f"save_to_preset, or set 'prompts: []'"
        ) from error
    return tokenizer


def _normalised(vectors: NDArray[np.floating[Any]]) -> Floats:
    """Scale vectors to the length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
