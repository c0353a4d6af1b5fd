"""Training the top of a network, step by step, so that it can resume after a kill."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from tqdm import tqdm

from thaw.artifacts import atomic, cache, fingerprint
from thaw.config.schema import Unfreeze
from thaw.errors import UserError
from thaw.learning import curves
from thaw.learning.curves import Report, silent
from thaw.learning.examples import Examples, Inputs
from thaw.learning.predictions import blocks
from thaw.networks import backbones
from thaw.networks.outputs import Floats, Labels

PREDICT_BATCH = 64
PART = 32  # images of a batch whose gradients are computed at once: what memory a step takes hangs on it
KEPT = 6  # answers of a model to all validation images, at once: before and after a rung, and of mixtures of both
STEP, PROBES = 1e-4, 4  # of the steps that are tried before: how long, and how many
# What a training depends on, beside its configuration: the code that makes what is trained, says how long, and does it.
_FILES = ("learning/finetuning", "learning/lora", "learning/policy", "learning/training", "networks/folding")
CODE = [Path(__file__).parents[1] / f"{file}.py" for file in (*_FILES, "networks/smoothing")]
CHUNK_STEPS, CHUNK_BYTES = 8, 64 * 2**20  # of the steps that TensorFlow is given at once

Weights = list[NDArray[Any]]  # in the order of the model's trainable variables


@dataclass(frozen=True)
class Rung:
    """One stretch of training: how deep, how fast and how long, with an optimiser of its own.

    Attributes:
        unfreeze: the top of the network that is trained.
        learning_rate: Adam's, at its highest; None where it is yet to be found.
        warmup: the steps in which it rises from 0; after them it falls to 0 along a cosine.
        steps: of the optimiser.
        batch_size: images a step.
        most: steps that it may become, where its rate is found to be low; 0 for no more than there are.
    """

    unfreeze: Unfreeze
    learning_rate: float | None
    warmup: int
    steps: int
    batch_size: int
    most: int = 0


def score(logits: Floats, labels: Labels) -> tuple[float, float]:
    """Cross-entropy (nats) and accuracy of ``logits`` (images × classes)."""
    return float(cross_entropies(logits, labels).mean()), float((logits.argmax(axis=1) == labels).mean())


def cross_entropies(logits: Floats, labels: Labels) -> NDArray[np.float64]:
    """Cross-entropy (nats) of each image, from its ``logits`` (images × classes)."""
    losses = np.empty(len(labels))
    for rows in blocks(logits):
        exact = logits[rows].astype(np.float64)
        top = exact.max(axis=1)
        log_sum = top + np.log(np.exp(exact - top[:, np.newaxis]).sum(axis=1))
        losses[rows] = log_sum - exact[np.arange(len(exact)), labels[rows]]
    return losses


def adam(rung: Rung, factors: Mapping[str, float], weight_decay: float = 0) -> Any:
    """Make the optimiser of a rung: Adam, with what the configuration adds.

    - The rate rises linearly over the warm-up, and then falls to 0 along a cosine (Loshchilov and Hutter 2017,
      arXiv:1608.03983).
    - ``factors`` scale the rate of single variables, by path (Howard and Ruder 2018, arXiv:1801.06146). They scale the
      update: Adam divides by the gradient's size, so scaling the gradient would change nothing.
    - ``weight_decay`` is decoupled (Loshchilov and Hutter 2019, arXiv:1711.05101) and spares biases and BatchNorm.
    """
    import keras

    class Adam(keras.optimizers.Adam):  # type: ignore[misc]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient, variable, learning_rate * self.shares[self._get_variable_index(variable)])

        def build(self, variables: Any) -> None:
            self.shares = [factors.get(one.path, 1.0) for one in variables]
            self.exclude_from_weight_decay(var_list=[one for one in variables if len(one.shape) < 2])
            super().build(variables)

    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if rung.warmup else rung.learning_rate,
        decay_steps=rung.steps - rung.warmup,
        warmup_target=rung.learning_rate if rung.warmup else None,
        warmup_steps=rung.warmup,
    )
    return Adam(rate, weight_decay=weight_decay or None)


class Checkpoint:
    """The state of one training run: of the rung it is in after its last epoch, and the story so far."""

    def __init__(self, run: str) -> None:
        self._path = cache() / "training" / f"{run}.npz"

    def save(self, model: Any, optimizer: Any, before: Weights, story: Mapping[str, Any]) -> None:
        """Keep the state in the place of the one before it: of the model, of its optimiser, and how the rung began."""
        arrays = {f"state_{i}": np.array(variable) for i, variable in enumerate(_state(model, optimizer))}
        arrays |= {f"before_{i}": array for i, array in enumerate(before)}
        with atomic(self._path) as partial:
            np.savez(partial, allow_pickle=False, story=np.array(json.dumps(story)), **arrays)

    @property
    def story(self) -> dict[str, Any]:
        """What was told when the state was kept; empty if there is none."""
        if not self._path.exists():
            return {}
        with np.load(self._path) as kept:
            found: dict[str, Any] = json.loads(str(kept["story"]))
            return found

    def restore(self, model: Any, optimizer: Any) -> Weights:
        """Give ``model`` and its optimiser the state that is kept; return the weights that the rung began with."""
        with np.load(self._path) as kept:
            for i, variable in enumerate(_state(model, optimizer)):
                variable.assign(kept[f"state_{i}"])
            return [kept[f"before_{i}"] for i in range(len(model.trainable_variables))]

    def forget(self) -> None:
        """Delete the state."""
        self._path.unlink(missing_ok=True)


@contextmanager
def resumable(*parts: BaseModel | Path | str | int) -> Iterator[Checkpoint]:
    """A checkpoint for the training run that ``parts`` determine; it is deleted when the block ends without an error.

    So a run that was killed finds its state again, and one that is complete is trained anew when it is asked for. Other
    code that trains, or says how long, finds no state of this one.
    """
    checkpoint = Checkpoint(fingerprint(*parts, *CODE))
    yield checkpoint
    checkpoint.forget()


class Validation:
    """The images to choose by; of weights that have been asked before, the answers are known.

    So the learning curve and what decides on a rung ask only once how it began and how it ended.
    """

    def __init__(self, images: Examples) -> None:
        self.y, self._images = images.y, images
        self._answers: dict[bytes, Floats] = {}

    def logits(self, model: Any) -> Floats:
        """The model's outputs (images × classes)."""
        digest = hashlib.sha256()
        for variable in model.weights:
            digest.update(np.array(variable).tobytes())
        asked = digest.digest()
        if asked not in self._answers:
            if len(self._answers) == KEPT:
                del self._answers[list(self._answers)[1]]  # the first is how the rung began
            self._answers[asked] = logits(model, self._images)
        return self._answers[asked]

    def logits_among(self, model: Any, images: Inputs) -> Floats:
        """The same for ``images``, which these are among."""
        mine = np.isin(images.rows, self._images.rows)
        answers = self.logits(model)
        found = np.empty((len(mine), answers.shape[1]), np.float32)
        found[mine] = answers
        if not mine.all():
            found[~mine] = logits(model, Inputs(images.source, images.rows[~mine]))
        return found


def fit(
    model: Any,
    optimizer: Any,
    train: Examples,
    val: Validation,
    rung: Rung,
    seed: int,
    checkpoint: Checkpoint,
    story: dict[str, Any],
    *,
    label_smoothing: float = 0,
    class_weights: Floats | None = None,
    report: Report = silent,
) -> Weights:
    """Train a model for a rung, and leave it with the last weights, where the rate has come down to 0.

    The state is saved after every epoch. A run that was killed and started again ends with the same weights, bit for
    bit, as one that was not: the order of the images comes from the seed, the rung and the step alone.

    Args:
        model: its outputs are logits.
        optimizer: Keras', of a rung that is new.
        train: the examples; each epoch takes the next view of them.
        val: of which the learning curve tells.
        rung: how long to train.
        seed: of the order of the images.
        checkpoint: where the state is kept, and found again.
        story: what has been told of the run: ``rung``, the number of this one; ``steps`` of it that are done; ``rows``
            of the learning curve, to which one is added for each epoch. Row 0 is the model as it was given: it has no
            training figures.
        label_smoothing: the share of each label that is spread evenly over all classes (Szegedy et al. 2016,
            arXiv:1512.00567): without it, a network that knows its training images by heart grows too sure of itself.
        class_weights: of each class in the loss; None counts all alike.
        report: is told each row as soon as there is one; of a run that goes on, those from before again.

    Returns:
        The model's weights before the rung.

    Raises:
        UserError: the loss is not finite any more.
    """
    optimizer.build(model.trainable_variables)
    run, rows = _compiled(model, optimizer, rung.batch_size, label_smoothing), story["rows"]
    if story["steps"]:
        before = checkpoint.restore(model, optimizer)
        print(f"  going on after epoch {rows[-1]['step']:g}, where an earlier run was stopped", flush=True)
    else:
        before = weights(model)
    if not rows:
        rows.append(curves.row(0, (math.nan, math.nan), score(val.logits(model), val.y)))
    if story["rung"] == 0 or story["steps"]:
        for row in rows:
            report(row)
    epoch_steps = math.ceil(len(train.y) / rung.batch_size)
    at_once = max(1, min(CHUNK_STEPS, CHUNK_BYTES // (4 * rung.batch_size * math.prod(train.source.shape))))
    while story["steps"] < rung.steps:
        epoch, end = len(rows), min(rung.steps, story["steps"] + epoch_steps)
        learnt, began = np.zeros(2), time.perf_counter()
        chunks = [(at, min(at + at_once, end)) for at in range(story["steps"], end, at_once)]
        for first, last in tqdm(chunks, f"  epoch {epoch}", disable=None, leave=False, unit="steps"):
            batches = _batches(
                train, [seed, story["rung"]], range(first, last), rung.batch_size, model.output_shape[-1]
            )
            learnt += np.array(run(*batches, np.float32(1) if class_weights is None else class_weights))
        val_loss, val_accuracy = score(val.logits(model), val.y)
        if not math.isfinite(val_loss):
            raise UserError(
                f"training: expected a finite loss, found {val_loss} after epoch {epoch}; lower 'learning_rate'"
            )
        steps = end - story["steps"]
        loss, accuracy = learnt / steps
        rows.append(curves.row(epoch, (float(loss), float(accuracy)), (val_loss, val_accuracy)))
        story["steps"] = end
        checkpoint.save(model, optimizer, before, story)
        report(rows[-1])
        ahead = (time.perf_counter() - began) * (rung.steps - end) / steps
        left = f"; about {ahead:.0f} s to go" if ahead > 1 else ""
        print(f"  epoch {epoch}: validation loss {val_loss:.4f}, accuracy {val_accuracy:.4f}{left}", flush=True)
    return before


def logits(model: Any, images: Inputs) -> Floats:
    """The model's outputs (images × classes) for the images as they are, not augmented."""
    found, size = [], min(PREDICT_BATCH, len(images.rows))
    for at in range(0, len(images.rows), size):
        batch = images.take(slice(at, at + size))
        # The last batch is filled up: one of another size would be traced anew, which takes longer.
        same = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), axis=0)])
        # Where several devices train, each predicts the whole batch, and the first one's answer is as good as any.
        found.append(np.asarray(model.predict_on_batch(same))[: len(batch)])
    return np.concatenate(found)


def weights(model: Any) -> Weights:
    """A copy of all weights that are trained."""
    return [np.array(variable) for variable in model.trainable_variables]


def sensitivity(model: Any, train: Examples, batch_size: int, label_smoothing: float, seed: int) -> float:
    """How far Adam's first step moves the logits, per unit of its learning rate.

    That step is as large as the rate for every weight, whatever the gradient's size: so it is taken, ``STEP`` long,
    for some batches in turn, and each time the change is measured on other images.

    Returns:
        The change's root mean square over images and classes, without what all classes have in common, by ``STEP``.
    """
    import keras
    import tensorflow as tf

    start, classes = weights(model), model.output_shape[-1]
    order = np.random.default_rng(seed).permutation(len(train.y))
    # Of few images, some are in several batches.
    batches = np.resize(order, (PROBES + 1, min(batch_size, PART)))
    others = train.take(batches[-1])
    before, squares = np.asarray(model(others)), []
    for batch in batches[:-1]:
        with tf.GradientTape() as tape:
            found = model(train.take(batch))
            targets = train.targets(batch, 0, classes)
            losses = keras.losses.categorical_crossentropy(targets, found, True, label_smoothing)
        gradients = tape.gradient(losses, model.trainable_variables)
        for variable, old, gradient in zip(model.trainable_variables, start, gradients, strict=True):
            variable.assign(old - STEP * np.sign(gradient))
        change = np.asarray(model(others)) - before
        squares.append(np.square(change - change.mean(axis=1, keepdims=True)).mean())
        for variable, old in zip(model.trainable_variables, start, strict=True):
            variable.assign(old)
    return math.sqrt(float(np.mean(squares))) / STEP


def _state(model: Any, optimizer: Any) -> list[Any]:
    """All that changes while training: weights, the state of random layers, the optimiser's moments."""
    return [*model.variables, *optimizer.variables]


def _compiled(model: Any, optimizer: Any, batch_size: int, label_smoothing: float) -> Callable[..., Any]:
    """A function that TensorFlow runs as a whole: several steps of training on batches that are given together.

    So what Python does between steps, which in Keras' ``fit`` is up to a third of the time, is done once for all.

    Returns:
        A function of images (steps × batch × shape), targets and weights of the classes (steps × batch × classes, or
        1), whose results are the sums of the steps' losses (nats) and accuracies.
    """
    import keras
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    # BatchNorm that is trained takes its statistics of all images of a batch.
    part = batch_size if any(layer.trainable for layer in backbones.batchnorms(model)) else PART

    def one(x: Any, targets: Any, class_weights: Any) -> tuple[Any, Any]:
        context = tf.distribute.get_replica_context()
        mine = slice(context.replica_id_in_sync_group, None, context.num_replicas_in_sync)
        images = tf.cast(tf.shape(x)[0], tf.float32)  # of all devices: gradients are added up
        x, targets = x[mine], targets[mine]
        gradients = [tf.zeros_like(variable) for variable in model.trainable_variables]
        loss, right = tf.constant(0.0), tf.constant(0.0)
        for at in tf.range(0, tf.shape(x)[0], part):
            expected = targets[at : at + part]
            with tf.GradientTape() as tape:
                found = model(x[at : at + part], training=True)
                losses = keras.losses.categorical_crossentropy(
                    expected, found, from_logits=True, label_smoothing=label_smoothing
                )
                of_part = tf.reduce_sum(losses * tf.reduce_sum(expected * class_weights, axis=1)) / images
            more = tape.gradient(of_part, model.trainable_variables, unconnected_gradients="zero")
            gradients = [held + new for held, new in zip(gradients, more, strict=True)]
            hits = tf.cast(tf.argmax(found, axis=1) == tf.argmax(expected, axis=1), tf.float32)
            loss, right = loss + of_part, right + tf.reduce_sum(hits) / images
        optimizer.apply(gradients, model.trainable_variables)
        return loss, right

    def total(value: Any) -> Any:
        return strategy.reduce("SUM", value, axis=None)

    signature = [
        tf.TensorSpec((None, batch_size, *model.input_shape[1:])),
        tf.TensorSpec((None, batch_size, model.output_shape[-1])),
        tf.TensorSpec(None),
    ]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def run(x: Any, targets: Any, class_weights: Any) -> tuple[Any, Any]:
        loss, right = tf.constant(0.0), tf.constant(0.0)
        for step in tf.range(tf.shape(x)[0]):
            of_step = strategy.run(one, (x[step], targets[step], class_weights))
            loss, right = loss + total(of_step[0]), right + total(of_step[1])
        return loss, right

    return run  # type: ignore[no-any-return]


def _batches(examples: Examples, seed: list[int], steps: range, size: int, classes: int) -> tuple[Floats, Floats]:
    """The batches of some steps: images (steps × batch × shape) and targets (steps × batch × classes).

    Epoch after epoch of the images, each in an order and of a view of its own, is one long row, which batches are cut
    from: so all have the same size.
    """
    images = len(examples.y)
    x, targets = [], []
    at, end = steps.start * size, steps.stop * size
    while at < end:
        epoch, place = divmod(at, images)
        which = np.random.default_rng([*seed, epoch]).permutation(images)[place : place + end - at]
        view = epoch % examples.source.views
        x.append(examples.take(which, view))
        targets.append(examples.targets(which, view, classes))
        at += len(which)
    found = np.concatenate(x), np.concatenate(targets)
    first, second = (array.reshape(len(steps), size, *array.shape[1:]) for array in found)
    return first, second
