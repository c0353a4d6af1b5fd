"""Pretrains the bundled backbone: MobileNetV2 (alpha 0.35, 410,208 parameters), from labels and a teacher's features.

Reads    DATA, a tar archive or a folder that holds train/<class>/<image> and val/<class>/<image>, and the teacher's weights.
Writes   the headless network's weights (--out), and under --work what a killed run needs to go on: the teacher's
         features and, in one folder per set of options, checkpoint.npz, history.csv and facts.json (for the model card).
Command  python -m tools.pretrain ../shared/data/tiny_imagenet_199x280.tar.gz \
             --teacher ../shared/weights/mobilenet_v2_1.0_224_no_top_bnfolded.weights.h5

Loss = cross-entropy (label smoothing 0.1) + DISTIL x (1 - mean correlation of the student's with the teacher's pooled
features over the batch, dimension by dimension: both are 1280 wide) (Miles and Mikolajczyk 2024: standardise both sides). The teacher sees the student's crops (Beyer et al. 2022, "a good teacher is consistent"), enlarged
to TEACHER_PX. Each image has VIEWS fixed crops, taken in turn epoch by epoch and flipped at random: so the teacher runs
once per view, not once per epoch.

The same command gives the same bytes on the same machine, killed in between or not: crops depend on (seed, view), order
and flips on (seed, epoch) alone. The batch is cut into CHUNKS that TensorFlow computes side by side, one core each:
on two cores 1.8 times as fast as one batch spread over both.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import platform
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

VIEWS = 6
TEACHER_PX = 112
CHUNKS = 2
DISTIL = 4.0
CROP_AREA = (0.35, 1.0)  # share of the image that a random crop covers
CROP_ASPECT = (3 / 4, 4 / 3)

Array = NDArray[Any]


def read_members(data: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of an archive or a folder as (path with slashes, content)."""
    if data.is_dir():
        for path in sorted(data.rglob("*.*")):
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
        raise SystemExit(f"{data} is neither a folder nor a tar archive: {error}.") from error


def load_images(data: Path, size: int) -> tuple[dict[str, tuple[Array, Array]], list[str]]:
    """Decodes DATA to {"train": (images, labels), "val": ...} and the class names.

    images: uint8 (n, size, size, 3), ordered by path; labels: int32 (n,).
    """
    found: dict[str, list[tuple[str, str, Array]]] = {"train": [], "val": []}
    for name, content in tqdm(read_members(data), "read", unit=" files", disable=None):
        parts = name.split("/")
        if len(parts) >= 3 and parts[-3] in found and not parts[-1].startswith("."):
            try:
                image = Image.open(io.BytesIO(content)).convert("RGB")
            except OSError as error:
                raise SystemExit(f"{name} in {data} is no readable image; remove or replace it.") from error
            if image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2)
            found[parts[-3]].append((name, parts[-2], np.asarray(image)))
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
    area = rng.uniform(*CROP_AREA, count)
    root_aspect = np.exp(rng.uniform(*np.log(CROP_ASPECT), count) / 2)
    extent = np.minimum(np.stack([np.sqrt(area) * root_aspect, np.sqrt(area) / root_aspect], 1), 1) * size
    corner = rng.random((count, 2)) * (size - extent)
    return np.concatenate([corner, corner + extent], 1)


def crop(image: Array, box: Array, px: int) -> Array:
    """The box of a uint8 image, resized to (px, px, 3)."""
    return np.asarray(Image.fromarray(image).resize((px, px), Image.Resampling.BILINEAR, box=tuple(box)))


def build_network(alpha: float, px: int) -> Any:
    """keras.applications.MobileNetV2 without its top: (n, px, px, 3) in [-1, 1] to pooled features (n, 1280)."""
    import keras

    return keras.applications.MobileNetV2((px, px, 3), alpha, include_top=False, weights=None, pooling="avg")


class Teacher:
    """Pooled features of the full-width MobileNetV2, computed by OpenVINO and kept on disk view by view."""

    def __init__(self, weights: Path, folder: Path) -> None:
        self.weights, self.folder = weights, folder
        self._compiled: Any = None

    def features(self, images: Array, seed: int, view: int) -> Array:
        """float16 (n, 1280) for one view's crops of uint8 (n, size, size, 3), computed only when not on disk yet."""
        path = self.folder / f"view{view}.npy"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
                np.save(
                    f"{temporary}/view.npy", self._compute(images, crop_boxes(len(images), images.shape[1], seed, view))
                )
                os.replace(f"{temporary}/view.npy", path)
        return np.load(path, mmap_mode="r")

    def _compute(self, images: Array, boxes: Array, batch: int = 16) -> Array:
        import openvino as ov

        self._compiled = self._compiled or self._compile(batch)
        out = np.empty((len(images), 1280), np.float16)

        def keep(request: Any, rows: Array) -> None:
            out[rows] = request.get_output_tensor(0).data[: len(rows)]

        queue = ov.AsyncInferQueue(self._compiled)
        queue.set_callback(keep)
        crops = np.zeros((batch, TEACHER_PX, TEACHER_PX, 3), np.float32)
        for start in tqdm(range(0, len(images), batch), "teacher", unit="batch", leave=False, disable=None):
            rows = np.arange(start, min(start + batch, len(images)))
            for at, row in enumerate(rows):
                crops[at] = crop(images[row], boxes[row], TEACHER_PX)
            queue.start_async([crops / 127.5 - 1], rows)
        queue.wait_all()
        return out

    def _compile(self, batch: int) -> Any:
        import openvino as ov

        network = build_network(1.0, TEACHER_PX)
        network.load_weights(self.weights)
        with tempfile.TemporaryDirectory() as temporary:
            network.export(temporary, format="tf_saved_model", verbose=False)
            model = ov.convert_model(temporary)
        model.reshape([batch, TEACHER_PX, TEACHER_PX, 3])
        return ov.Core().compile_model(
            model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
        )


class Student:
    """The network, its classifier, its optimizer and the two compiled functions that use them."""

    def __init__(self, size: int, classes: int, steps: int, warmup: int, rate: float, distil: float) -> None:
        import keras
        import tensorflow as tf

        self.network = build_network(0.35, size)
        for layer in self.network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.99  # keras.applications' 0.999 needs several epochs to follow
        logits = keras.layers.Dense(classes, name="logits")(self.network.output)
        self.model = keras.Model(self.network.input, [self.network.output, logits])
        schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=rate, warmup_steps=warmup)
        self.optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.02)
        self.optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
        self.optimizer.build(self.model.trainable_variables)

        def scale(images: Any) -> Any:
            return tf.cast(images, tf.float32) / 127.5 - 1

        def standardise(features: Any) -> Any:
            mean, variance = tf.nn.moments(tf.cast(features, tf.float32), axes=0)
            return (tf.cast(features, tf.float32) - mean) * tf.math.rsqrt(variance + 1e-3)

        def losses(images: Any, labels: Any, taught: Any) -> Any:
            features, logits = self.model(scale(images), training=True)
            smooth = tf.one_hot(labels, classes) * 0.9 + 0.1 / classes
            cross_entropy = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(smooth, logits))
            return tf.stack([cross_entropy, 1 - tf.reduce_mean(standardise(features) * standardise(taught))])

        @tf.function(reduce_retracing=True)
        def step(images: Any, labels: Any, taught: Any) -> Any:
            with tf.GradientTape() as tape:
                chunks = zip(*(tf.split(part, CHUNKS) for part in (images, labels, taught)), strict=True)
                parts = tf.add_n([losses(*chunk) for chunk in chunks]) / CHUNKS
                total = parts[0] + distil * parts[1]
            gradients = tape.gradient(total, self.model.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
            return parts

        @tf.function(reduce_retracing=True)
        def classify(images: Any) -> Any:
            return tf.argmax(self.model(scale(images), training=False)[1], axis=1)

        self.step, self.classify = step, classify

    def variables(self) -> list[Any]:
        return [*self.model.variables, *self.optimizer.variables]


def digest(*parts: Any) -> str:
    """A short fingerprint of arrays and of values that JSON can hold."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, np.ndarray | bytes) else json.dumps(part, sort_keys=True).encode())
    return sha.hexdigest()[:12]


def save_checkpoint(path: Path, student: Student, history: list[dict[str, Any]]) -> None:
    """Model, optimizer and history in one file, replaced at once."""
    temporary = path.with_suffix(".tmp.npz")
    arrays = {f"v{i}": np.asarray(variable) for i, variable in enumerate(student.variables())}
    np.savez(temporary, history=json.dumps(history), **arrays)
    os.replace(temporary, path)


def load_checkpoint(path: Path, student: Student) -> list[dict[str, Any]]:
    """Restores the student and returns the history; an empty one when no epoch was finished before."""
    if not path.exists():
        return []
    with np.load(path) as saved:
        for i, variable in enumerate(student.variables()):
            variable.assign(saved[f"v{i}"])
        history: list[dict[str, Any]] = json.loads(str(saved["history"]))
    return history


def write_weights(student: Student, out: Path) -> str:
    """Saves the headless network's weights and returns their sha256."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"tmp-{os.getpid()}.weights.h5")
    student.network.save_weights(temporary)
    os.replace(temporary, out)
    return hashlib.sha256(out.read_bytes()).hexdigest()


def pretrain(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the whole recipe, from where a killed run stopped, and returns the facts it writes."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(CHUNKS)
    tf.config.threading.set_intra_op_parallelism_threads(max(1, (os.cpu_count() or 1) // CHUNKS))
    keras.utils.set_random_seed(options.seed)

    splits, classes = load_images(options.data, options.size)
    images, labels = splits["train"]
    steps = len(images) // options.batch
    if not steps:
        raise SystemExit(f"--batch {options.batch} is larger than the {len(images)} training images.")

    recipe = [digest(images, labels), options.seed, CROP_AREA, CROP_ASPECT]
    teacher = None
    if options.teacher:
        recipe += [hashlib.sha256(options.teacher.read_bytes()).hexdigest(), TEACHER_PX]
        teacher = Teacher(options.teacher, options.work / f"teacher-{digest(*recipe)}")
    settings = {name: getattr(options, name) for name in ("size", "epochs", "batch", "rate")}
    folder = options.work / f"run-{digest(*recipe, settings, VIEWS, CHUNKS, DISTIL)}"
    folder.mkdir(parents=True, exist_ok=True)

    student = Student(
        options.size, len(classes), steps * options.epochs, steps, options.rate, DISTIL if teacher else 0.0
    )
    history = load_checkpoint(folder / "checkpoint.npz", student)
    print(
        f"{len(images)} images, {len(classes)} classes, {len(history)} of {options.epochs} epochs done: {folder}",
        flush=True,
    )
    for epoch in range(len(history), options.epochs):
        start, view = time.monotonic(), epoch % VIEWS
        taught = teacher.features(images, options.seed, view) if teacher else np.zeros((len(images), 1), np.float16)
        crops = np.stack(
            [
                crop(image, box, options.size)
                for image, box in zip(images, crop_boxes(len(images), options.size, options.seed, view), strict=True)
            ]
        )
        rng = np.random.default_rng((options.seed, 1, epoch))
        order, flips = rng.permutation(len(images)), rng.random(len(images)) < 0.5
        losses: list[Any] = []
        bar = tqdm(range(steps), f"epoch {epoch + 1}/{options.epochs}", unit="step", leave=False, disable=None)
        for i in bar:
            rows = order[i * options.batch : (i + 1) * options.batch]
            batch = np.where(flips[rows, None, None, None], crops[rows, :, ::-1], crops[rows])
            losses.append(student.step(batch, labels[rows], taught[rows]))
        hits = [
            np.asarray(student.classify(val))
            for val in np.array_split(splits["val"][0], -(-len(splits["val"][0]) // 256))
        ]
        history.append(
            {
                "epoch": epoch + 1,
                "seconds": round(time.monotonic() - start, 1),
                "cross_entropy": round(float(np.mean(losses, 0)[0]), 5),
                "match": round(1 - float(np.mean(losses, 0)[1]), 5),
                "val_top1": round(float(np.mean(np.concatenate(hits) == splits["val"][1])), 5),
            }
        )
        save_checkpoint(folder / "checkpoint.npz", student, history)
        with (folder / "history.csv").open("w", newline="") as stream:
            table = csv.DictWriter(stream, history[0])
            table.writeheader()
            table.writerows(history)
        print(" ".join(f"{name} {value}" for name, value in history[-1].items()), flush=True)

    facts = {
        "command": "python -m tools.pretrain " + " ".join(sys.argv[1:]),
        "epochs": options.epochs,
        "images": len(images),
        "classes": len(classes),
        "seconds": round(sum(row["seconds"] for row in history)),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "val_top1": history[-1]["val_top1"],
        "sha256": write_weights(student, options.out),
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, checks the paths and runs."""
    parser = argparse.ArgumentParser(prog="python -m tools.pretrain", description="Pretrain the bundled backbone.")
    parser.add_argument("data", type=Path, help="archive or folder with train/<class>/ and val/<class>/")
    parser.add_argument("--out", type=Path, default=Path("weights/thaw_mobilenet_v2_035.weights.h5"))
    parser.add_argument(
        "--teacher", type=Path, help="weights of MobileNetV2 1.0 without top; labels alone when left out"
    )
    parser.add_argument(
        "--work", type=Path, default=Path(".cache/pretrain"), help="checkpoints and the teacher's features"
    )
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--batch", type=int, default=128, help="images per step, a multiple of 2")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate, after one epoch of warm-up")
    parser.add_argument("--size", type=int, default=64, help="pixels, at least 32")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    for path in filter(None, (options.data, options.teacher)):
        if not path.exists():
            raise SystemExit(
                f"{path} does not exist: expected images and, with --teacher, MobileNetV2's weights (.weights.h5)."
            )
    if options.batch < CHUNKS or options.batch % CHUNKS:
        raise SystemExit(f"--batch must be a positive multiple of {CHUNKS}, received {options.batch}.")
    for name, lowest in (("epochs", 1), ("size", 32)):
        if getattr(options, name) < lowest:
            raise SystemExit(f"--{name} must be at least {lowest}, received {getattr(options, name)}.")
    print(json.dumps(pretrain(options), indent=2))


if __name__ == "__main__":
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # oneDNN's training kernels are slower for this network
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
