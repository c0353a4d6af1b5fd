"""How good features are: cross-validated, with nothing known of the images that are asked."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from thaw.artifacts import Paths, write_json
from thaw.config.schema import Adam, Lbfgs
from thaw.data import manifest
from thaw.data.manifest import Record
from thaw.errors import UserError
from thaw.learning import predictions
from thaw.sweeps import probe

LBFGS = Lbfgs(solver="lbfgs", class_weights="none", inverse_l2=[0.01, 1.0])


def record(number: int, label: str, split: str) -> Record:
    return Record(f"{label}/{number:04}.png", label, split, f"{number}", 10, 10, "")  # type: ignore[arg-type]


def pipeline(root: Path, *, informative: bool, views: int = 1) -> Paths:
    """Features of 200 images of two classes that tell the classes apart, or do not."""
    paths = Paths(root=root)
    splits = ["train", "train", "train", "val", "test"]
    records = [record(number, f"class_{number % 2}", splits[number // 2 % 5]) for number in range(200)]
    paths.manifest.parent.mkdir(parents=True)
    manifest.write(paths.manifest, records)
    write_json(paths.classes, ["class_0", "class_1"])
    random = np.random.default_rng(0)
    features = random.normal(size=(200, views, 8)).astype(np.float32)
    if informative:
        features[:, 0, 0] += [4 * (number % 2) for number in range(200)]
    paths.features.parent.mkdir(parents=True)
    np.save(paths.features, features)
    return paths


def share(paths: Paths) -> float:
    """Of the answers that are right."""
    found = predictions.read(paths.predictions("probe"))
    right = [
        path.startswith(f"class_{row.argmax()}") for path, row in zip(found.paths, found.probabilities, strict=True)
    ]
    return sum(right) / len(right)


def test_every_image_but_the_test_images_is_asked_once(tmp_path: Path) -> None:
    paths = pipeline(tmp_path, informative=True)
    probe.run(paths, LBFGS, 0)
    asked = predictions.read(paths.predictions("probe")).paths
    assert asked == [one.path for one in manifest.read(paths.manifest) if one.split != "test"]
    assert share(paths) > 0.9


def test_features_that_say_nothing_get_what_guessing_gets(tmp_path: Path) -> None:
    paths = pipeline(tmp_path, informative=False)
    probe.run(paths, LBFGS, 0)
    assert 0.35 < share(paths) < 0.65, "nobody has seen the images that they are asked about"


def test_views_that_are_augmented_do_not_count(tmp_path: Path) -> None:
    plain, augmented = (pipeline(tmp_path / str(views), informative=True, views=views) for views in (1, 3))
    features = np.load(augmented.features)
    features[:, 0] = np.load(plain.features)[:, 0]
    np.save(augmented.features, features)
    for paths in (plain, augmented):
        probe.run(paths, LBFGS, 0)
    first, second = (paths.probabilities("probe").read_bytes() for paths in (plain, augmented))
    assert first == second


def test_a_head_that_does_not_converge_is_refused(tmp_path: Path) -> None:
    adam = Adam(
        solver="adam",
        hidden=[],
        class_weights="none",
        dropout=0.0,
        learning_rate=0.1,
        batch_size=1,
        epochs=1,
        patience=1,
    )
    with pytest.raises(UserError, match="rank=backbone: expected train_head=lbfgs, found adam"):
        probe.run(Paths(root=tmp_path), adam, 0)


def test_images_that_are_too_few_for_five_folds_are_refused(tmp_path: Path) -> None:
    paths = pipeline(tmp_path, informative=True)
    records = [replace(one, group=f"{number % 2}") for number, one in enumerate(manifest.read(paths.manifest))]
    manifest.write(paths.manifest, records)
    with pytest.raises(UserError, match="rank=backbone: expected images of two classes in each of 5 folds, found 160"):
        probe.run(paths, LBFGS, 0)
