"""What a finished pipeline leaves behind, fabricated: the input of the tests of evaluate, the report and runs."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers import options
from thaw.artifacts import Paths, write_json
from thaw.config.schema import Evaluate
from thaw.data import corrections, manifest
from thaw.data.manifest import Record
from thaw.learning import curves, predictions
from thaw.learning.heads import Head
from thaw.models import portable
from thaw.runs import store

EVALUATE = Evaluate(confidence=0.95, resamples=500, keep_best_of=["head", "finetuned"], splits=0, sure_enough=0.98)
SEED = 3
CONFIG: dict[str, dict[str, Any]] = {
    "prepare": {"dataset": {"val": 0.2, "test": 0.2, "min_images": 10, "max_megapixels": 100}, "seed": SEED},
    "extract_features": {
        "backbone": options.BACKBONE | {"input_size": 64, "weights": "/home/someone/weights.h5"},
        "augment": options.AUGMENT,
        "seed": SEED,
    },
    "audit": {"seed": SEED},
    "train_head": {
        "train_head": options.LBFGS | {"inverse_l2": [0.01, 0.1, 1.0]},
        "seed": SEED,
    },
    "finetune": {
        "finetune": options.FINETUNE | {"unfreeze": {"blocks": 2}},
        "seed": SEED,
    },
}

FINDINGS: dict[str, Any] = {
    "images": 120,
    "copies": [],
    "leaked": [],
    "conflicts": 0,
    "labels": 2,
    "outliers": 1,
    "odd": 0,
    "cues": [],
    "suspects": [],
}


def pipeline(
    folder: Path, classes: tuple[str, ...] = ("cat", "dog"), gain: float = 2.0, per_class: int = 60, side: int = 24
) -> Paths:
    """Write the outputs of every stage before evaluate, and the images; ``gain`` sets how much fine-tuning helps."""
    paths = Paths(data=folder / "data", root=folder / "artifacts")
    random = np.random.default_rng(0)
    records = []
    for label, name in enumerate(classes):
        for number in range(per_class):
            split = ("train", "val", "test", "test")[number % 4]
            records.append(Record(f"class_{label}/{number:03}.png", name, split, f"{label}-{number}", side, side, ""))  # type: ignore[arg-type]
            file = paths.data / records[-1].path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (side, side), tuple(random.integers(0, 255, 3).tolist())).save(file)
    judged = [record for record in records if record.split != "train"]
    labels = np.array([classes.index(record.label) for record in judged])
    noise = random.normal(size=(2, len(judged), len(classes)))
    truth = np.eye(len(classes))[labels]
    before, after = softmax(truth + noise[0]), softmax((1 + gain) * truth + noise[0] + 0.3 * noise[1])

    write_configs(paths)
    manifest.write(paths.manifest, records)
    write_json(paths.classes, list(classes))
    with paths.refused.open("w", newline="", encoding="utf-8") as file_:
        csv.writer(file_, lineterminator="\n").writerows([["path", "reason"], ["class_0/x.jpg", "empty file"]])
    count = {
        s: {c: sum(r.split == s and r.label == c for r in records) for c in classes} for s in ("train", "val", "test")
    }
    splits = {"train": "predefined", "val": "predefined", "test": "drawn from train"}
    summary = {"images": count, "refused": {"empty file": 1}, "duplicates": 2, "splits": splits}
    write_json(paths.root / "prepare" / "summary.json", summary)
    write_json(paths.findings, FINDINGS)
    corrections.write(paths.copies, [])
    predictions.write(paths.predictions("train_head"), list(classes), judged, before)
    predictions.write(paths.predictions("finetune"), list(classes), judged, after)
    nan = float("nan")
    head = [curves.row(i, (0.5 - 0.1 * i, 0.8), (0.6 - 0.05 * i, 0.75), inverse_l2=10.0**-i) for i in range(3)]
    curves.write(paths.history("train_head"), curves.choose(head, 2))
    tuned = [curves.row(i, (nan, nan) if i == 0 else (0.4 / i, 0.9), (0.5 / (i + 1), 0.85)) for i in range(4)]
    curves.write(paths.history("finetune"), tuned)
    for stage, size in (("extract_features", 1280), ("finetune", 16000)):
        write_json(paths.stored(stage), {"outputs": len(records), "shape": [size], "bytes": 4 * len(records) * size})
    backbone(paths.backbone, side=64)
    features = np.random.default_rng(1).normal(size=(len(records), 1, 3))
    features[:, 0, 0] += [2 * classes.index(record.label) for record in records]
    np.save(paths.features, features.astype(np.float32))
    kernel, bias = random.normal(size=(3, len(classes))), random.normal(size=len(classes))
    Head([(kernel.astype(np.float32), bias.astype(np.float32))]).save(paths.head)
    paths.model.write_bytes(b"model")
    portable.with_head(paths.backbone, Head.load(paths.head).layers, paths.network)
    return paths


def head_only(folder: Path, **how: Any) -> Paths:
    """``pipeline`` with ``finetune: none``."""
    paths = pipeline(folder, **how)
    write_configs(paths, finetune={"finetune": options.HEAD_ONLY})
    for path in (paths.predictions, paths.probabilities):
        shutil.copyfile(path("train_head"), path("finetune"))
    curves.write(paths.history("finetune"), curves.read(paths.history("finetune"))[:1])
    write_json(paths.stored("finetune"), {"outputs": 0, "shape": [], "bytes": 0})
    for file in (paths.model, paths.network, paths.network.with_suffix(".bin")):
        file.unlink()
    return paths


def backbone(path: Path, side: int) -> None:
    """Write a network as OpenVINO IR whose three features are the mean red, green and blue of an image."""
    import openvino
    from openvino import opset13 as ops

    image = ops.parameter([1, side, side, 3], np.uint8)
    means = ops.reduce_mean(ops.convert(image, "f32"), ops.constant(np.array([1, 2])), False)
    scaled = ops.multiply(means, ops.constant(np.float32(1 / 255)))
    openvino.save_model(openvino.Model([ops.result(scaled)], [image], "network"), path, compress_to_fp16=False)


def write_configs(paths: Paths, **changed: dict[str, Any]) -> None:
    """Write every stage's ``config.json``; ``changed`` replaces sections, by stage."""
    shared = {key: CONFIG["extract_features"][key] for key in ("backbone", "augment")}
    for stage, sections in CONFIG.items():
        extra = shared if stage == "finetune" else {}
        write_json(paths.config(stage), extra | sections | changed.get(stage, {}))


def softmax(logits: Any) -> Any:
    """Turn logits into probabilities (float32)."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def runs(experiment: str = "thaw") -> list[Any]:
    """Return what has been published to the store that is chosen."""
    from mlflow import MlflowClient  # whoever only fabricates a pipeline loads nothing heavy

    client = MlflowClient(store.address())
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []
