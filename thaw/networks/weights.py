"""Weights of pretrained networks: where they are, what they are by content, and how they get into a network."""

import hashlib
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from thaw.architectures import ARCHITECTURES, HUB
from thaw.artifacts import PROJECT, fingerprint, workspace
from thaw.config.schema import Backbone
from thaw.errors import UserError

BUNDLED = PROJECT / "weights" / "thaw_mobilenet_v2_035.weights.h5"
BUNDLED_SHA256 = "223ff0010275fd99e7d176c73cbfca4bef0e4c6aa0b7ccd864f1f351d7ce65d3"


def weights_id(backbone: Backbone) -> str:
    """Say which weights a configuration means, by content: part of every fingerprint, found without TensorFlow.

    Raises:
        UserError: the file is missing, or the bundled one is not what was shipped.
    """
    weights = backbone.weights
    if weights == "imagenet":
        return f"imagenet of keras {version('keras')}"  # Keras checks what it downloads
    if weights == "random":
        return "random"
    if backbone.network == HUB:
        found = weights  # of which KerasHub names the version
        if folder := preset_folder(weights):
            # Not metadata.json, which says when it was saved.
            files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "metadata.json"]
            parts = (part for path in files for part in (path.relative_to(folder).as_posix(), path))
            found = f"sha256 {fingerprint(*parts)}"
        return f"{found} of keras-hub {_hub_version()}"  # whose code the layers are
    path = weights_path(weights)
    if not path.is_file():
        raise UserError(
            f"weights: expected imagenet, bundled, random or a weights file, found no file {path}; correct the path"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if weights == "bundled" and found != BUNDLED_SHA256:
        raise UserError(
            f"weights: expected {path.name} with sha256 {BUNDLED_SHA256[:12]}…, found {found[:12]}…; "
            f"restore it with 'git checkout -- weights'"
        )
    return f"sha256 {found}"


def _hub_version() -> str:
    try:
        return version("keras-hub")
    except PackageNotFoundError:
        return "none"  # which is said when the network is built


def preset_folder(weights: str) -> Path | None:
    """The folder of a preset of KerasHub, if ``weights`` is one and not a preset's name."""
    folder = workspace() / Path(weights).expanduser()
    return folder if folder.is_dir() else None


def weights_path(weights: str) -> Path:
    """The file that holds ``weights``; a relative path is looked up in the project."""
    return BUNDLED if weights == "bundled" else workspace() / Path(weights).expanduser()


def located(backbone: Backbone) -> Backbone:
    """The same backbone, with the whole path of its weights where these are a file or a folder."""
    path, named = weights_path(backbone.weights), backbone.weights in ("imagenet", "random")
    return backbone if named or not path.exists() else backbone.model_copy(update={"weights": str(path)})


def weights_at_hand(weights: str, network: str, alpha: float) -> bool:
    """Whether weights are on this machine: shipped, in a file, or downloaded by Keras or KerasHub before."""
    if network == HUB:
        home = Path(os.environ.get("KAGGLEHUB_CACHE") or Path("~/.cache/kagglehub").expanduser())  # as kagglehub has it
        return preset_folder(weights) is not None or any(home.glob(f"models/*/*/*/{weights}/*/model.weights.h5"))
    if weights != "imagenet":
        return weights_path(weights).is_file()
    home = Path(os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser())  # as Keras has it
    return network in ARCHITECTURES and (home / "models" / ARCHITECTURES[network].weights_file(alpha)).is_file()


def load_weights(base: Any, backbone: Backbone) -> None:
    """Load a weights file into the headless backbone, all of it or not at all."""
    import keras

    weights_id(backbone)  # exists, and is what was shipped
    path = weights_path(backbone.weights)
    try:
        if path.suffix == ".keras":
            stored = keras.models.load_model(path, compile=False, safe_mode=True).get_weights()
            if [w.shape for w in stored] != [w.shape for w in base.get_weights()]:
                raise ValueError(
                    f"{len(stored)} arrays where the network has {len(base.get_weights())}, or other shapes"
                )
            base.set_weights(stored)
        else:
            base.load_weights(str(path))
    except (ValueError, KeyError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"weights: expected weights of {ARCHITECTURES[backbone.network].builder} (alpha {backbone.alpha}, without "
            f"its top) as .weights.h5, .h5 or .keras, found {path.name}, which does not fit: {reason}; "
            f"correct 'weights:', 'alpha:' or 'network:'"
        ) from error
