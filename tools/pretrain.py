"""Pretrains the bundled backbone, MobileNetV2 at alpha 0.35 (410,208 parameters), on labels and a teacher's features.

Reads    DATA, a tar archive or a folder with train/<class>/<image> and val/<class>/<image>; the teacher's weights.
Writes   the headless network's weights (--out) and, under --work, what a killed run needs to go on: the teacher's
         features, and in one folder per recipe checkpoint.npz, history.csv and facts.json (for the model card).
Command  python -m tools.pretrain ../shared/data/tiny_imagenet_199x280.tar.gz \
             --teacher ../shared/weights/mobilenet_v2_1.0_224_no_top_bnfolded.weights.h5

Loss = cross-entropy (label smoothing 0.1) + DISTIL x (1 - match), where match is the correlation of the student's
pooled features with the teacher's over a batch, averaged over the 1280 dimensions both have. Standardising both sides,
as Miles and Mikolajczyk do ("Understanding the Role of the Projector in Knowledge Distillation", 2024), spares the
student from learning the teacher's means and scales, which a plain squared error makes it spend its first epochs on.

The teacher sees the student's crops (Beyer et al., "Knowledge distillation: a good teacher is patient and consistent",
2022), enlarged to TEACHER_PX. Each image has VIEWS fixed crops, one per epoch in turn, mirrored at random: the teacher
runs once per view, not once per epoch.

One machine gives the same bytes each time, killed in between or not: crops follow from (seed, view), order and
mirroring from (seed, epoch). Each step computes CHUNKS parts of its batch side by side, one core each: 687
images a second on two cores, where one batch spread over both reaches 469 (and 379 with oneDNN's kernels).
"""

import argparse
import csv
import hashlib
import io
import json
import os
import platform
import shlex
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

VIEWS = 3
TEACHER_PX = 112
CHUNKS = 2
DISTIL = 40.0  # makes both terms' gradients about equally large at the features
CROP_AREA = (0.35, 1.0)  # share of the image that a crop covers
CROP_ASPECT = (3 / 4, 4 / 3)

Array = NDArray[Any]


def read_files(data: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a folder or a tar archive: its path, with slashes, and its content."""
    if data.is_dir():
        for path in sorted(data.rglob("*")):
            if path.is_file():
                yield path.relative_to(data).as_posix(), path.read_bytes()
        return
    try:
        with tarfile.open(data) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is not None:
                    yield member.name, content.read()
    except tarfile.ReadError as error:
        raise SystemExit(f"{data} is neither a folder nor a readable tar archive ({error}).") from error


def load_images(data: Path, size: int) -> tuple[dict[str, tuple[Array, Array]], list[str]]:
    """Decodes DATA to {"train": (images, labels), "val": ...} and the class names.

    images: uint8 (n, size, size, 3), ordered by path; labels: int32 (n,).
    """
    found: dict[str, list[tuple[str, str, Array]]] = {"train": [], "val": []}
    for name, content in tqdm(read_files(data), "read", unit=" files", disable=None):
        split, label, file = ["", "", *name.split("/")][-3:]
        if split not in found or file.startswith("."):
            continue
        try:
            image = Image.open(io.BytesIO(content)).convert("RGB")
        except OSError as error:
            raise SystemExit(f"{name} in {data} is not an image that can be read: repair or remove it.") from error
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        found[split].append((name, label, np.asarray(image)))

    classes = sorted({label for _, label, _ in found["train"]})
    if len(classes) < 2 or {label for _, label, _ in found["val"]} != set(classes):
        raise SystemExit(
            f"{data}: expected train/<class>/<image> and val/<class>/<image> with the same two or more classes, "
            f"found {len(found['train'])} images of {len(classes)} classes in train, {len(found['val'])} in val."
        )
    splits = {}
    for split, rows in found.items():
        rows.sort(key=lambda row: row[0])
        labels = np.array([classes.index(label) for _, label, _ in rows], np.int32)
        splits[split] = np.stack([image for _, _, image in rows]), labels
    return splits, classes


def crop_boxes(count: int, size: int, seed: int, view: int) -> Array:
    """One random crop per image as (left, upper, right, lower) in pixels, float64 (count, 4)."""
    rng = np.random.default_rng((seed, 0, view))
    area = rng.uniform(CROP_AREA[0], CROP_AREA[1], count)
    aspect = np.exp(rng.uniform(np.log(CROP_ASPECT[0]), np.log(CROP_ASPECT[1]), count) / 2)
    extent = np.minimum(np.stack([np.sqrt(area) * aspect, np.sqrt(area) / aspect], 1), 1) * size
    corner = rng.random((count, 2)) * (size - extent)
    return np.concatenate([corner, corner + extent], 1)


def crop(images: Array, boxes: Array, px: int) -> Array:
    """Each image's box, resized: uint8 (n, px, px, 3)."""
    bilinear = Image.Resampling.BILINEAR
    pairs = zip(images, boxes, strict=True)
    return np.stack([np.asarray(Image.fromarray(i).resize((px, px), bilinear, box=tuple(box))) for i, box in pairs])


def build_network(alpha: float, px: int) -> Any:
    """MobileNetV2 without its top: images (n, px, px, 3) in [-1, 1] to pooled features (n, 1280)."""
    import keras

    return keras.applications.MobileNetV2((px, px, 3), alpha, include_top=False, weights=None, pooling="avg")


class Teacher:
    """Pooled features of MobileNetV2 at alpha 1.0, computed by OpenVINO view by view and kept in `folder`."""

    def __init__(self, weights: Path, folder: Path) -> None:
        self.weights, self.folder = weights, folder
        self.compiled: Any = None

    def features(self, images: Array, boxes: Array, view: int) -> Array:
        """float16 (n, 1280), memory-mapped, for the view's boxes; computed when not on disk yet."""
        path = self.folder / f"view{view}.npy"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp.npy")
            np.save(temporary, self.compute(images, boxes))
            temporary.replace(path)
        features: Array = np.load(path, mmap_mode="r")
        return features

    def compute(self, images: Array, boxes: Array, batch: int = 16) -> Array:
        """The features themselves, with as many requests in flight as OpenVINO asks for."""
        import openvino as ov

        if self.compiled is None:
            network = build_network(1.0, TEACHER_PX)
            network.load_weights(self.weights)
            with tempfile.TemporaryDirectory() as temporary:
                network.export(temporary, format="tf_saved_model", verbose=False)
                model = ov.convert_model(temporary)
            model.reshape([batch, TEACHER_PX, TEACHER_PX, 3])
            hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
            self.compiled = ov.Core().compile_model(model, "CPU", hints)

        features = np.empty((len(images), 1280), np.float16)

        def keep(request: Any, rows: Array) -> None:
            features[rows] = request.get_output_tensor(0).data

        queue = ov.AsyncInferQueue(self.compiled)
        queue.set_callback(keep)
        for start in tqdm(range(0, len(images), batch), "teacher", unit="batch", leave=False, disable=None):
            rows = np.minimum(np.arange(start, start + batch), len(images) - 1)  # the last batch repeats an image
            queue.start_async([crop(images[rows], boxes[rows], TEACHER_PX) / np.float32(127.5) - 1], rows)
        queue.wait_all()
        return features


class Student:
    """The network with a classifier on top, its optimizer, and the two compiled functions that use them."""

    def __init__(self, size: int, classes: int, steps: int, warmup: int, rate: float, distil: float) -> None:
        import keras
        import tensorflow as tf

        self.network = build_network(0.35, size)
        for layer in self.network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.99  # keras.applications' 0.999 lags epochs behind
        logits = keras.layers.Dense(classes, name="logits")(self.network.output)
        self.model = keras.Model(self.network.input, [self.network.output, logits])
        schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=rate, warmup_steps=warmup)
        self.optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=4e-4)
        self.optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
        self.optimizer.build(self.model.trainable_variables)

        def scale(images: Any) -> Any:
            return tf.cast(images, tf.float32) / 127.5 - 1

        def standardise(features: Any) -> Any:
            features = tf.cast(features, tf.float32)
            mean, variance = tf.nn.moments(features, axes=0)
            return (features - mean) * tf.math.rsqrt(variance + 1e-3)

        def losses(images: Any, labels: Any, taught: Any) -> Any:
            features, logits = self.model(scale(images), training=True)
            smooth = tf.one_hot(labels, classes) * 0.9 + 0.1 / classes
            cross_entropy = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(smooth, logits))
            return tf.stack([cross_entropy, 1 - tf.reduce_mean(standardise(features) * standardise(taught))])

        def step(images: Any, labels: Any, taught: Any) -> Any:
            with tf.GradientTape() as tape:
                chunks = zip(*(tf.split(part, CHUNKS) for part in (images, labels, taught)), strict=True)
                parts = tf.add_n([losses(*chunk) for chunk in chunks]) / CHUNKS
                total = parts[0] + distil * parts[1]
            gradients = tape.gradient(total, self.model.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
            return parts

        def classify(images: Any) -> Any:
            return tf.argmax(self.model(scale(images), training=False)[1], axis=1)

        self.step: Any = tf.function(step, autograph=False)
        self.classify: Any = tf.function(classify, autograph=False)

    def train_epoch(self, images: Array, labels: Array, taught: Array, batch: int, rng: np.random.Generator) -> Array:
        """One pass in random order, each image mirrored or not; returns the mean (cross-entropy, 1 - match)."""
        order, mirrored = rng.permutation(len(images)), rng.random(len(images)) < 0.5
        parts = []
        for start in tqdm(range(0, len(images) - batch + 1, batch), "train", unit="step", leave=False, disable=None):
            rows = order[start : start + batch]
            shown = np.where(mirrored[rows, None, None, None], images[rows, :, ::-1], images[rows])
            parts.append(self.step(shown, labels[rows], taught[rows]))
        mean: Array = np.mean(parts, 0)
        return mean

    def accuracy(self, images: Array, labels: Array, batch: int = 256) -> float:
        """Top-1 accuracy."""
        guesses = [self.classify(images[start : start + batch]) for start in range(0, len(images), batch)]
        return float(np.mean(np.concatenate(guesses) == labels))

    def save(self, path: Path, history: list[dict[str, Any]]) -> None:
        """Model, optimizer and history in one file, replaced at once."""
        temporary = path.with_suffix(".tmp.npz")
        variables = [np.asarray(variable) for variable in (*self.model.variables, *self.optimizer.variables)]
        np.savez(temporary, np.array(json.dumps(history)), *variables)
        temporary.replace(path)

    def restore(self, path: Path) -> list[dict[str, Any]]:
        """Takes up a saved state, if there is one, and returns its history."""
        if not path.exists():
            return []
        with np.load(path) as saved:
            for i, variable in enumerate((*self.model.variables, *self.optimizer.variables), 1):
                variable.assign(saved[f"arr_{i}"])
            history: list[dict[str, Any]] = json.loads(str(saved["arr_0"]))
        return history

    def save_network(self, path: Path) -> str:
        """Writes the headless network's weights and returns the file's sha256."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"tmp-{os.getpid()}.weights.h5")
        self.network.save_weights(temporary)
        temporary.replace(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()


def pretrain(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the recipe, from where a killed run stopped, and returns the facts for the model card."""
    splits, classes = load_images(options.data, options.size)
    images, labels = splits["train"]
    steps = len(images) // options.batch
    if not steps:
        raise SystemExit(f"--batch {options.batch} is larger than the {len(images)} training images.")

    import keras
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(CHUNKS)
    tf.config.threading.set_intra_op_parallelism_threads(max(1, (os.cpu_count() or 1) // CHUNKS))
    keras.utils.set_random_seed(options.seed)

    source = fingerprint(images.data, labels.data, options.seed, CROP_AREA, CROP_ASPECT)
    teacher, taught_by = None, ""
    if options.teacher:
        taught_by = fingerprint(source, options.teacher.read_bytes(), TEACHER_PX)
        teacher = Teacher(options.teacher, options.work / f"teacher-{taught_by}")
    settings = [options.size, options.epochs, options.batch, options.rate, VIEWS, CHUNKS, DISTIL]
    folder = options.work / f"run-{fingerprint(source, taught_by, settings)}"
    folder.mkdir(parents=True, exist_ok=True)

    distil = DISTIL if teacher else 0.0
    student = Student(options.size, len(classes), steps * options.epochs, steps // 2, options.rate, distil)
    history = student.restore(folder / "checkpoint.npz")
    print(f"{folder}: {len(images)} images, {len(history)} of {options.epochs} epochs done", flush=True)
    for epoch in range(len(history), options.epochs):
        start, view = time.monotonic(), epoch % VIEWS
        boxes = crop_boxes(len(images), options.size, options.seed, view)
        taught = teacher.features(images, boxes, view) if teacher else np.zeros((len(images), 1), np.float16)
        rng = np.random.default_rng((options.seed, 1, epoch))
        parts = student.train_epoch(crop(images, boxes, options.size), labels, taught, options.batch, rng)
        row = {
            "epoch": epoch + 1,
            "seconds": round(time.monotonic() - start, 1),
            "cross_entropy": round(float(parts[0]), 5),
            "match": round(1 - float(parts[1]), 5),
            "val_top1": round(student.accuracy(*splits["val"]), 5),
        }
        history.append(row)
        with (folder / "history.csv").open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, row)
            table.writeheader()
            table.writerows(history)
        student.save(folder / "checkpoint.npz", history)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)

    facts = {
        "command": shlex.join(["python", "-m", "tools.pretrain", *sys.argv[1:]]),
        "epochs": options.epochs,
        "images": len(images),
        "classes": len(classes),
        "seconds": round(sum(row["seconds"] for row in history)),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "val_top1": history[-1]["val_top1"],
        "sha256": student.save_network(options.out),
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8", newline="\n")
    return facts


def fingerprint(*parts: Any) -> str:
    """Twelve hex digits that identify contents (bytes, memory) and values that JSON can hold."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes | memoryview) else json.dumps(part).encode())
    return sha.hexdigest()[:12]


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, checks it and runs."""
    parser = argparse.ArgumentParser(prog="python -m tools.pretrain", description="Pretrain the bundled backbone.")
    parser.add_argument("data", type=Path, help="tar archive or folder with train/<class>/ and val/<class>/")
    parser.add_argument("--out", type=Path, default=Path("weights/thaw_mobilenet_v2_035.weights.h5"))
    parser.add_argument("--teacher", type=Path, help="weights of MobileNetV2 1.0 without top; labels alone without it")
    parser.add_argument("--work", type=Path, default=Path(".cache/pretrain"), help="checkpoints, teacher's features")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128, help=f"images per step, a multiple of {CHUNKS}")
    parser.add_argument("--rate", type=float, default=0.2, help="highest learning rate, reached after half an epoch")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels, at least 32")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    for path, what in ((options.data, "an archive or a folder of images"), (options.teacher, "the teacher's weights")):
        if path and not path.exists():
            raise SystemExit(f"{path} does not exist: expected {what} there.")
    if options.batch < CHUNKS or options.batch % CHUNKS:
        raise SystemExit(f"--batch must be a positive multiple of {CHUNKS}, received {options.batch}.")
    for name, lowest in (("epochs", 1), ("size", 32)):
        if getattr(options, name) < lowest:
            raise SystemExit(f"--{name} must be at least {lowest}, received {getattr(options, name)}.")
    print(json.dumps(pretrain(options), indent=2))


if __name__ == "__main__":
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its training kernels are slower for this network
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
