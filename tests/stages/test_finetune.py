"""finetune: every policy runs the pipeline's own way, and a stopped run goes on."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import extract_features, finetune, prepare, train_head
from tests.helpers import options
from tests.helpers.families import family
from tests.helpers.killing import killed_after
from tests.test_pipeline import squares
from thaw.artifacts import PROJECT, Paths, read_json
from thaw.config.composing import compose
from thaw.config.schema import Adam, Augment, Auto, Backbone, Dataset, Finetune, HeadOnly, Lbfgs
from thaw.data import images
from thaw.learning import curves, finetuning, policy, predictions
from thaw.learning.heads import Head
from thaw.learning.training import Checkpoint
from thaw.models import portable
from thaw.networks.cutting import cut
from thaw.networks.inference import OpenVino, softmax

AUGMENT = Augment.model_validate(options.AUGMENT)
TOY = Backbone.model_validate(options.BACKBONE)
HEAD = Head([(np.zeros((1280, 3), np.float32), np.zeros(3, np.float32))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(autouse=True)
def shared_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are converted once for all tests of this file."""
    monkeypatch.setenv("THAW_CACHE", str(folder / "cache"))


@pytest.fixture(scope="module")
def prepared(folder: Path) -> Paths:
    """Everything up to the head, once."""
    paths = Paths(squares(folder / "data"), folder / "artifacts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_CACHE", str(folder / "cache"))
        prepare.run(paths, Dataset(val=0.2, test=0.2, min_images=3, max_megapixels=1), seed=0)
        extract_features.run(paths, TOY, AUGMENT, seed=0)
        train_head.run(paths, Lbfgs.model_validate(options.LBFGS), seed=0)
    return paths


@pytest.fixture
def paths(prepared: Paths, tmp_path: Path) -> Paths:
    """A copy of that, to fine-tune in."""
    shutil.copytree(prepared.root, tmp_path / "artifacts")
    return Paths(prepared.data, tmp_path / "artifacts")


def _run(paths: Paths, **changes: Any) -> dict[str, Any]:
    config = Finetune.model_validate(options.FINETUNE | {"epochs": 2} | changes)
    finetune.run(paths, TOY, AUGMENT, config, seed=0)
    found: dict[str, Any] = read_json(paths.stored("finetune"))
    return found


def _auto(paths: Paths, **changes: Any) -> dict[str, Any]:
    finetune.run(paths, TOY, AUGMENT, Auto.model_validate(options.AUTO | changes), seed=0)
    found: dict[str, Any] = read_json(paths.stored("finetune"))
    return found


# Several at once: what each does by itself is tested where it is written.
POLICIES: dict[str, dict[str, Any]] = {
    "discriminative, warm-up, weight decay, balanced": {
        "block_decay": 0.3,
        "warmup": 0.5,
        "weight_decay": 0.01,
        "class_weights": "balanced",
    },
    "layers, adapted": {"unfreeze": {"layers": 10}, "batchnorm": "adapt"},
    "blocks, trained BatchNorm, bfloat16": {"batchnorm": "train", "precision": "bfloat16"},
    "all": {"unfreeze": {"all": True}},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if "balanced" in name else [pytest.mark.slow]) for name in POLICIES]
)
def test_every_policy_leaves_a_model_its_curve_and_its_predictions(paths: Paths, name: str) -> None:
    made = _run(paths, **POLICIES[name])
    curve = curves.read(paths.history("finetune"))
    assert len(curve) - 1 == made["epochs"] == 2
    assert made["tried"] == [], "what is set by hand is not asked about"
    probabilities = predictions.read(paths.predictions("finetune")).probabilities
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert paths.model.exists()


def test_what_a_rung_is_worth_decides_how_much_of_it_is_kept(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rate that destroys everything nothing is kept, and the model is the head's again, but for rounding."""
    monkeypatch.setattr(policy, "LADDERS", {"normal": ((1 / 6, 10, 10), (1, 10, 10))})
    monkeypatch.setattr(policy, "RATES", (1.0, 1.0))
    made = _auto(paths)
    assert [rung["share"] for rung in made["tried"]] == [0], "and it goes no deeper"
    before, after = (predictions.read(paths.predictions(stage)) for stage in ("train_head", "finetune"))
    np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-4)


def _bytes(paths: Paths) -> dict[str, bytes]:
    names = ("history.csv", "predictions.csv", "predictions.npy", "meta.json", "model.bin")
    return {name: (paths.root / "finetune" / name).read_bytes() for name in names}


def _shorten(patch: pytest.MonkeyPatch, paths: Paths) -> None:
    """Let the ladder have two rungs of two epochs, and half of each be kept."""
    patch.setattr(policy, "LADDERS", {"normal": ((1 / 6, 2, 2), (1 / 3, 2, 2))})
    patch.setattr(policy, "EPOCHS", (2, 2))
    patch.setattr(policy, "SHARES", (0.0, 0.5))
    # The further from where it began, the better: two steps are too few for a validation that is honest.
    ((_, start),) = Head.load(paths.head).layers
    patch.setattr(
        policy,
        "judge",
        lambda top, _: (np.full(4, -1e6 * np.abs(np.array(top.trainable_variables[-1]) - start).sum()), 0.5),
    )
    patch.setattr(Auto, "batch_size", 16)


@pytest.fixture(scope="module")
def undisturbed(prepared: Paths, folder: Path) -> dict[str, bytes]:
    """What a ladder leaves that was not killed."""
    paths = Paths(prepared.data, folder / "undisturbed")
    shutil.copytree(prepared.root, paths.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_CACHE", str(folder / "cache"))
        _shorten(patch, paths)
        assert [rung["share"] for rung in _auto(paths)["tried"]] == [0.5, 0.5]
    return _bytes(paths)


@pytest.mark.parametrize("epoch", [2, *(pytest.param(epoch, marks=pytest.mark.slow) for epoch in (1, 3, 4))])
def test_a_ladder_that_was_killed_in_any_rung_goes_on_to_the_very_same_bytes(
    paths: Paths, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """In the first rung, at its end, in the second and at its end; also where what was kept is a mixture."""
    _shorten(monkeypatch, paths)
    with killed_after(epoch):
        _auto(paths)
    done: list[int] = []
    save = Checkpoint.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", lambda self, *arguments: (done.append(1), save(self, *arguments))[1])
        _auto(paths)
    assert len(done) == 4 - epoch
    assert _bytes(paths) == undisturbed


def _with_head(prepared: Paths, root: Path, backbone: Backbone) -> Paths:
    """Everything up to the head, of another backbone."""
    paths = Paths(prepared.data, root)
    shutil.copytree(prepared.root / "prepare", paths.root / "prepare")
    extract_features.run(paths, backbone, AUGMENT, seed=0)
    train_head.run(paths, Lbfgs.model_validate(options.LBFGS), seed=0)
    return paths


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rank"), [("dinov2", 0), ("swin", 0), ("hgnetv2", 0), ("vit", 2)])
def test_a_network_of_keras_hub_that_was_killed_goes_on_to_the_very_same_bytes(
    prepared: Paths, tmp_path: Path, name: str, rank: int
) -> None:
    """From extraction, which keeps what stands below a block, to the model; what drops out at random included."""
    backbone = family(TOY, f"hub {name}", keep_blocks=1)
    config = Finetune.model_validate(options.FINETUNE | {"epochs": 3, "dropout": 0.2, "lora": rank})
    made = []
    for place in ("undisturbed", "killed"):
        paths = _with_head(prepared, tmp_path / place, backbone)
        if place == "killed":
            with killed_after(1):
                finetune.run(paths, backbone, AUGMENT, config, seed=0)
        finetune.run(paths, backbone, AUGMENT, config, seed=0)
        made.append(_bytes(paths))
    assert made[0] == made[1]


@pytest.mark.slow
def test_a_ladder_of_low_rank_that_was_killed_in_any_rung_goes_on_to_the_very_same_bytes(
    prepared: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rung adds its changes to the kernels, and half of that is kept: the next one starts from these kernels."""
    backbone = family(TOY, "hub dinov2")
    paths = _with_head(prepared, tmp_path / "artifacts", backbone)
    _shorten(monkeypatch, paths)
    monkeypatch.setattr(policy, "LADDERS", {"normal": ((1 / 4, 2, 2), (1 / 2, 2, 2))})
    config = Auto.model_validate(options.AUTO | {"lora": 2})
    made = []
    for epoch in (None, 1, 2, 3, 4):
        if epoch:
            with killed_after(epoch):
                finetune.run(paths, backbone, AUGMENT, config, seed=0)
        finetune.run(paths, backbone, AUGMENT, config, seed=0)
        made.append(_bytes(paths))
    tried = read_json(paths.stored("finetune"))["tried"]
    assert [(rung["done"][:17], rung["share"]) for rung in tried] == [
        ("the last 1 blocks", 0.5),
        ("the last 2 blocks", 0.5),
    ]
    assert all(one == made[0] for one in made)


@pytest.mark.slow
def test_the_first_step_starts_where_the_head_is_unless_the_network_was_adapted(paths: Paths) -> None:
    starts = {}
    for batchnorm in ("frozen", "train", "adapt"):
        _run(paths, batchnorm=batchnorm)
        starts[batchnorm] = curves.read(paths.history("finetune"))[0]["val_loss"]
    assert starts["frozen"] == pytest.approx(starts["train"], rel=1e-6)
    assert abs(starts["adapt"] - starts["frozen"]) > 1e-3


@pytest.mark.slow
def test_whole_feature_maps_hidden_layers_and_mixed_views_go_all_the_way(prepared: Paths, tmp_path: Path) -> None:
    """What the VGG16 recipe has: Flatten, a hidden layer, and strong augmentation on top."""
    shutil.copytree(prepared.root / "prepare", tmp_path / "artifacts" / "prepare")
    paths = Paths(prepared.data, tmp_path / "artifacts")
    backbone = TOY.model_copy(update={"pooling": "flatten", "input_size": 64})
    strong = compose(["augment=strong", "augment.views=2"], ["augment"])["augment"]
    extract_features.run(paths, backbone, strong, seed=0)
    stored = np.load(paths.features, mmap_mode="r")
    assert stored.dtype == np.float16
    assert stored.shape[1:] == (3, 2 * 2 * 1280)
    assert read_json(paths.stored("extract_features"))["shape"] == [2 * 2 * 1280]
    mlp = Adam.model_validate(options.ADAM | {"hidden": [16], "learning_rate": 0.001})
    train_head.run(paths, mlp, seed=0)
    config = Finetune.model_validate(options.FINETUNE | {"epochs": 2})
    finetune.run(paths, backbone, strong, config, seed=0)
    before, after = (predictions.read(paths.predictions(stage)).probabilities for stage in ("train_head", "finetune"))
    assert before.shape == after.shape
    assert not np.array_equal(before, after)


def test_where_nothing_is_fine_tuned_the_head_is_handed_on(paths: Paths) -> None:
    told: list[dict[str, float]] = []
    finetune.run(paths, TOY, AUGMENT, HeadOnly.model_validate(options.HEAD_ONLY), seed=0, report=told.append)
    assert {file.name for file in (paths.root / "finetune").iterdir()} == {
        "config.json",
        "history.csv",
        "meta.json",
        "predictions.csv",
        "predictions.npy",
    }
    for file in (paths.predictions, paths.probabilities):
        assert file("finetune").read_bytes() == file("train_head").read_bytes()
    assert told == [], "there is no curve"


def test_where_nothing_is_fine_tuned_the_curve_is_the_row_before_training(paths: Paths) -> None:
    finetune.run(paths, TOY, AUGMENT, HeadOnly.model_validate(options.HEAD_ONLY), seed=0)
    (row,) = curves.read(paths.history("finetune"))
    tried = curves.read(paths.history("train_head"))
    best = tried[curves.kept(tried)]
    assert list(row) == list(curves.COLUMNS)
    assert np.isnan([row["loss"], row["accuracy"]]).all(), "as in every curve of fine-tuning"
    assert (row["val_loss"], row["val_accuracy"]) == pytest.approx((best["val_loss"], best["val_accuracy"]))


def test_rates_fall_from_block_to_block() -> None:
    model = finetuning.classifier(TOY, HEAD, dropout=0, seed=0)
    rates = finetuning.rates(model, TOY, 0.5)
    shares = {layer: rates[model.get_layer(layer).kernel.path] for layer in ("logits", "Conv_1", "block_16_project")}
    assert shares == {"logits": 1, "Conv_1": 0.5, "block_16_project": 0.25}
    assert min(rates.values()) == 0.5**19


def test_trained_batchnorm_is_above_the_cut() -> None:
    model = finetuning.classifier(TOY, HEAD, dropout=0, seed=0)
    first = [layer.name for layer in model.layers].index("block_16_expand_BN")
    places = {operation.name: place for place, operation in enumerate(model.operations)}
    assert cut(model, first, batchnorm=True) < places["block_16_expand_BN"] <= cut(model, first)


@pytest.mark.slow
def test_the_gpus_of_a_machine_share_each_batch(paths: Paths, tmp_path: Path) -> None:
    """On two halves of the processor, in a process of its own: devices are fixed when TensorFlow starts."""
    script = f"""
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
mirrored = tf.distribute.MirroredStrategy
tf.distribute.MirroredStrategy = lambda: mirrored(["/cpu:0", "/cpu:1"])
import keras
loss, devices = keras.losses.categorical_crossentropy, set()
def noted(*given, **more):
    devices.add(str(tf.distribute.get_replica_context().devices))
    return loss(*given, **more)
keras.losses.categorical_crossentropy = noted
from pathlib import Path
from stages import finetune
from tests.stages.test_finetune import AUGMENT, TOY
from tests.helpers import options
from thaw.artifacts import Paths
from thaw.config.schema import Finetune
config = Finetune.model_validate(options.FINETUNE | {{"devices": "all", "dropout": 0, "epochs": 2}})
finetune.run(Paths(Path({str(paths.data)!r}), Path({str(paths.root)!r})), TOY, AUGMENT, config, seed=0)
assert len(devices) == 2, devices
"""
    _run(paths, dropout=0)
    alone = predictions.read(paths.predictions("finetune")).probabilities
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    together = predictions.read(paths.predictions("finetune")).probabilities
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_what_openvino_runs_gives_the_numbers_of_both_models(paths: Paths, tmp_path: Path) -> None:
    """So the finished model says what evaluate has judged, before and after fine-tuning."""
    _run(paths, learning_rate=0.01)
    portable.with_head(paths.backbone, Head.load(paths.head).layers, tmp_path / "head.xml")
    for stage, network in (("train_head", tmp_path / "head.xml"), ("finetune", paths.network)):
        judged = predictions.read(paths.predictions(stage))
        logits = np.empty(judged.probabilities.shape, np.float32)
        squares = [images.load(paths.data / path, TOY.input_size, TOY.fit) for path in judged.paths]
        OpenVino(network, "float32").run(squares, [logits])
        np.testing.assert_allclose(softmax(logits), judged.probabilities, atol=1e-5)
