"""Training with Keras, epoch by epoch, so that it keeps the best epoch and can resume after a kill."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from thaw import history
from thaw.artifacts import atomic, cache, fingerprint
from thaw.errors import UserError
from thaw.examples import Examples, Floats, Inputs, Labels
from thaw.history import Row

PREDICT_BATCH = 128


def score(logits: Floats, labels: Labels) -> tuple[float, float]:
    """Cross-entropy (nats) and accuracy of ``logits`` (images × classes)."""
    exact = logits.astype(np.float64)
    top = exact.max(axis=1)
    log_sum = top + np.log(np.exp(exact - top[:, np.newaxis]).sum(axis=1))
    loss = log_sum - exact[np.arange(len(labels)), labels]
    return float(loss.mean()), float((logits.argmax(axis=1) == labels).mean())


class Schedule(Protocol):
    """How long to train; the configuration sections of the trained stages have these keys.

    Attributes:
        batch_size: images a step.
        epochs: at most so many.
        patience: epochs without a lower validation loss before it stops.
    """

    @property
    def batch_size(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def patience(self) -> int: ...


def compiled(model: Any, learning_rate: float, decay_steps: int | None = None, label_smoothing: float = 0) -> Any:
    """Compile a model whose outputs are logits: Adam and cross-entropy. Needed anew whenever ``trainable`` changed.

    Args:
        model: the model, which is changed and returned.
        learning_rate: Adam's, for the first step.
        decay_steps: after so many steps the rate has fallen to 0, along a cosine (Loshchilov and Hutter 2017,
            arXiv:1608.03983); None keeps it.
        label_smoothing: the share of each label that is spread evenly over all classes (Szegedy et al. 2016,
            arXiv:1512.00567): without it, a network that knows its training images by heart grows too sure of itself.
    """
    import keras

    def loss(labels: Any, logits: Any) -> Any:
        expected = keras.ops.one_hot(keras.ops.reshape(labels, (-1,)), logits.shape[-1])
        return keras.losses.categorical_crossentropy(
            expected, logits, from_logits=True, label_smoothing=label_smoothing
        )

    rate = keras.optimizers.schedules.CosineDecay(learning_rate, decay_steps) if decay_steps else learning_rate
    model.compile(optimizer=keras.optimizers.Adam(rate), loss=loss, metrics=["accuracy"])
    return model


class Checkpoint:
    """The state of one training run after its last whole epoch: weights, optimiser, random state, history."""

    def __init__(self, run: str) -> None:
        self._path = cache() / "training" / f"{run}.npz"

    def save(self, model: Any, rows: list[Row], best: list[NDArray[Any]]) -> None:
        """Keep the state, in the place of the one before it."""
        arrays = {f"state_{i}": np.array(variable) for i, variable in enumerate(_state(model))}
        arrays |= {f"best_{i}": array for i, array in enumerate(best)}
        with atomic(self._path) as partial:
            np.savez(partial, allow_pickle=False, history=np.array(json.dumps(rows)), **arrays)

    def restore(self, model: Any) -> tuple[list[Row], list[NDArray[Any]]]:
        """Give ``model`` the kept state, if there is one; return the history and the best weights so far."""
        if not self._path.exists():
            return [], []
        with np.load(self._path) as kept:
            rows = json.loads(str(kept["history"]))
            for i, variable in enumerate(_state(model)):
                variable.assign(kept[f"state_{i}"])
            return rows, [kept[f"best_{i}"] for i in range(len(model.trainable_variables))]

    def forget(self) -> None:
        """Delete the state."""
        self._path.unlink(missing_ok=True)


@contextmanager
def resumable(*parts: BaseModel | Path | str | int) -> Iterator[Checkpoint]:
    """A checkpoint for the training run that ``parts`` determine; it is deleted when the block ends without an error.

    So a run that was killed finds its state again, and one that is complete is trained anew when it is asked for.
    """
    checkpoint = Checkpoint(fingerprint(*parts, Path(__file__)))
    yield checkpoint
    checkpoint.forget()


def fit(model: Any, train: Examples, val: Examples, schedule: Schedule, seed: int, checkpoint: Checkpoint) -> list[Row]:
    """Train a compiled model and leave it with the weights of the epoch that had the lowest validation loss.

    The state is saved after every epoch. A run that was killed and started again ends with the same weights, bit for
    bit, as one that was not: the order of the images comes from the seed and the epoch's number alone.

    Args:
        model: its outputs are logits.
        train, val: the examples. Each epoch takes the next view of the training images.
        schedule: how long to train.
        seed: of the order of the images.
        checkpoint: where the state is kept, and found again.

    Returns:
        A row per epoch for ``history.csv``. Row 0 is the model as it was given: it has no training figures and is not
        a candidate, so that the comparison shows what training did, for better or worse.

    Raises:
        UserError: the loss is not finite any more.
    """
    model.optimizer.build(model.trainable_variables)
    rows, best = checkpoint.restore(model)
    if rows:
        print(f"  going on after epoch {len(rows) - 1}, where an earlier run was stopped", flush=True)
    else:
        rows = [history.row(0, (math.nan, math.nan), score(logits(model, val), val.y))]
    while len(rows) <= schedule.epochs and len(rows) - 1 - best_epoch(rows) < schedule.patience:
        epoch = len(rows)
        order = np.random.default_rng([seed, epoch]).permutation(len(train.y))
        batches = _batches(train, order, (epoch - 1) % train.source.views, schedule.batch_size)
        # Keras would shuffle the batches again, from a state that a resumed run does not have.
        bar = int(sys.stdout.isatty())
        logs = model.fit(batches, initial_epoch=epoch - 1, epochs=epoch, shuffle=False, verbose=bar).history
        val_loss, val_accuracy = score(logits(model, val), val.y)
        if not math.isfinite(val_loss):
            raise UserError(
                f"training: expected a finite loss, found {val_loss} after epoch {epoch}; lower 'learning_rate'"
            )
        rows.append(history.row(epoch, (logs["loss"][0], logs["accuracy"][0]), (val_loss, val_accuracy)))
        if best_epoch(rows) == epoch:
            best = [np.array(variable) for variable in model.trainable_variables]
        checkpoint.save(model, rows, best)
        print(f"  epoch {epoch}: validation loss {val_loss:.4f}, accuracy {val_accuracy:.4f}", flush=True)
    for variable, value in zip(model.trainable_variables, best, strict=True):
        variable.assign(value)
    return rows


def logits(model: Any, images: Inputs) -> Floats:
    """The model's outputs (images × classes) for the images as they are, not augmented."""
    batches = (slice(at, at + PREDICT_BATCH) for at in range(0, len(images.rows), PREDICT_BATCH))
    return np.concatenate([np.asarray(model.predict_on_batch(images.take(batch))) for batch in batches])


def best_epoch(rows: list[Row]) -> int:
    """The epoch with the lowest validation loss; 0 before the first one."""
    return min(range(1, len(rows)), key=lambda epoch: rows[epoch]["val_loss"], default=0)


def _state(model: Any) -> list[Any]:
    """All that changes while training: weights, the state of random layers, the optimiser's moments."""
    # Keras counts the variables of metrics among the model's as soon as it has built them, which is in the first epoch.
    metrics = {id(variable) for variable in model.metrics_variables}
    return [*(v for v in model.variables if id(v) not in metrics), *model.optimizer.variables]


def _batches(examples: Examples, order: NDArray[np.int64], view: int, size: int) -> Any:
    """One epoch as a Keras data set that reads only the images of the batch at hand."""
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return math.ceil(len(order) / size)

        def __getitem__(self, batch: int) -> tuple[Floats, Labels]:
            which = order[batch * size : (batch + 1) * size]
            return examples.take(which, view), examples.y[which]

    return Batches()
