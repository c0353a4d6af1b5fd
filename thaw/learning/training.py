"""Training with Keras, epoch by epoch, so that it keeps the best epoch and can resume after a kill."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from thaw.artifacts import atomic, cache, fingerprint
from thaw.config.schema import Finetune, Step
from thaw.errors import UserError
from thaw.learning import curves
from thaw.learning.curves import Report, Row, silent
from thaw.learning.examples import Examples, Inputs
from thaw.networks.outputs import Floats, Labels

PREDICT_BATCH = 128
PLATEAU_EPOCHS, PLATEAU_FACTOR = 2, 0.3

Monitor = Literal["loss", "accuracy"]
Weights = list[NDArray[Any]]


def score(logits: Floats, labels: Labels) -> tuple[float, float]:
    """Cross-entropy (nats) and accuracy of ``logits`` (images × classes)."""
    exact = logits.astype(np.float64)
    top = exact.max(axis=1)
    log_sum = top + np.log(np.exp(exact - top[:, np.newaxis]).sum(axis=1))
    loss = log_sum - exact[np.arange(len(labels)), labels]
    return float(loss.mean()), float((logits.argmax(axis=1) == labels).mean())


class Schedule(Protocol):
    """How long to train, and by which figure to choose.

    Attributes:
        batch_size: images a step of the optimiser.
        epochs: at most so many.
        monitor: the validation figure that has to improve.
        patience: epochs without an improvement before it stops.
        decay: ``plateau`` has the rate fall to ``PLATEAU_FACTOR`` of itself after ``PLATEAU_EPOCHS`` without one.
    """

    @property
    def batch_size(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def monitor(self) -> Monitor: ...
    @property
    def patience(self) -> int: ...
    @property
    def decay(self) -> str: ...


def compiled(model: Any, optimizer: Any, label_smoothing: float = 0) -> Any:
    """Compile a model that learns logits from shares of the classes. Needed anew whenever ``trainable`` changed.

    Args:
        model: the model, which is changed and returned.
        optimizer: Keras', or a name.
        label_smoothing: the share of each label that is spread evenly over all classes (Szegedy et al. 2016,
            arXiv:1512.00567): without it, a network that knows its training images by heart grows too sure of itself.
    """
    import keras

    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    return model


def adam(step: Step, config: Finetune, batches: int, factors: Mapping[str, float]) -> Any:
    """Make the optimiser of a step of fine-tuning: Adam, with what the configuration adds.

    - The rate rises linearly over the ``warmup`` share of all steps, and then stays, or falls to 0 along a cosine
      (Loshchilov and Hutter 2017, arXiv:1608.03983).
    - ``factors`` scale the rate of single variables, by path (Howard and Ruder 2018, arXiv:1801.06146). They scale the
      update: Adam divides by the gradient's size, so scaling the gradient would change nothing.
    - ``weight_decay`` is decoupled (Loshchilov and Hutter 2019, arXiv:1711.05101) and spares biases and BatchNorm.
    - ``clip_norm`` bounds the norm of all gradients together; ``ema`` averages the weights over the steps.

    Args:
        step: the rate and the number of epochs.
        config: the rest.
        batches: of an epoch.
        factors: by path of variable; 1 where nothing stands.
    """
    import keras

    class Adam(keras.optimizers.Adam):  # type: ignore[misc]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient, variable, learning_rate * self.shares[self._get_variable_index(variable)])

        def finalize_variable_values(self, var_list: Any) -> None:
            """Leave the weights as they are: Keras' ``fit`` ends after each epoch, and training goes on with them."""

        def average(self, variables: Any) -> None:
            super().finalize_variable_values(variables)

        def build(self, variables: Any) -> None:
            self.shares = [factors.get(one.path, 1.0) for one in variables]
            self.exclude_from_weight_decay(var_list=[one for one in variables if len(one.shape) < 2])
            super().build(variables)

    total = batches * step.epochs
    rate: Any = step.learning_rate
    if config.decay == "cosine" or config.warmup:
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if config.warmup else step.learning_rate,
            decay_steps=total - round(config.warmup * total),
            alpha=0.0 if config.decay == "cosine" else 1.0,
            warmup_target=step.learning_rate if config.warmup else None,
            warmup_steps=round(config.warmup * total),
        )
    return Adam(
        rate,
        weight_decay=config.weight_decay or None,
        global_clipnorm=config.clip_norm or None,
        use_ema=config.ema > 0,
        ema_momentum=config.ema or 0.99,
    )


class Checkpoint:
    """The state of one training run after its last whole epoch: step, weights, optimiser, random state, history."""

    def __init__(self, run: str) -> None:
        self._path = cache() / "training" / f"{run}.npz"

    def save(self, model: Any, step: int, begin: int, rows: list[Row], best: Weights) -> None:
        """Keep the state, in the place of the one before it."""
        arrays = {f"state_{i}": np.array(variable) for i, variable in enumerate(_state(model))}
        arrays |= {f"best_{i}": array for i, array in enumerate(best)}
        story = json.dumps({"step": step, "begin": begin, "rows": rows})
        with atomic(self._path) as partial:
            np.savez(partial, allow_pickle=False, story=np.array(story), **arrays)

    @property
    def step(self) -> int:
        """The step that it is in: those before are done."""
        return int(self._story()["step"]) if self._path.exists() else 0

    def restore(self, model: Any, step: int) -> tuple[int, list[Row], Weights] | None:
        """Give ``model`` the state that is kept of this step, if there is one.

        Returns:
            How many epochs were done before the step began, the history, and the best weights so far.
        """
        if not self._path.exists() or self.step != step:
            return None
        story = self._story()
        with np.load(self._path) as kept:
            for i, variable in enumerate(_state(model)):
                variable.assign(kept[f"state_{i}"])
            return story["begin"], story["rows"], [kept[f"best_{i}"] for i in range(len(model.weights))]

    def forget(self) -> None:
        """Delete the state."""
        self._path.unlink(missing_ok=True)

    def _story(self) -> dict[str, Any]:
        with np.load(self._path) as kept:
            story: dict[str, Any] = json.loads(str(kept["story"]))
            return story


@contextmanager
def resumable(*parts: BaseModel | Path | str | int) -> Iterator[Checkpoint]:
    """A checkpoint for the training run that ``parts`` determine; it is deleted when the block ends without an error.

    So a run that was killed finds its state again, and one that is complete is trained anew when it is asked for.
    """
    checkpoint = Checkpoint(fingerprint(*parts, Path(__file__)))
    yield checkpoint
    checkpoint.forget()


def fit(
    model: Any,
    train: Examples,
    val: Examples,
    schedule: Schedule,
    seed: int,
    checkpoint: Checkpoint,
    *,
    weights: Floats | None = None,
    step: int = 0,
    rows: list[Row] | None = None,
    report: Report = silent,
) -> list[Row]:
    """Train a compiled model and leave it with the weights of the best epoch so far.

    The state is saved after every epoch. A run that was killed and started again ends with the same weights, bit for
    bit, as one that was not: the order of the images comes from the seed and the epoch's number alone.

    Args:
        model: its outputs are logits.
        train, val: the examples. Each epoch takes the next view of the training images.
        schedule: how long to train, and which validation figure chooses.
        seed: of the order of the images.
        checkpoint: where the state is kept, and found again.
        weights: of each class in the loss; None counts all alike.
        step: the number of this step of the run.
        rows: the history of the steps before.
        report: is told each row as soon as there is one; of a run that goes on, those from before again.

    Returns:
        A row per epoch for ``history.csv``. Row 0 is the model as it was given: it has no training figures and is not
        a candidate, so that the comparison shows what training did, for better or worse.

    Raises:
        UserError: the loss is not finite any more.
    """
    model.optimizer.build(model.trainable_variables)
    if kept := checkpoint.restore(model, step):
        begin, rows, best = kept
        print(f"  going on after epoch {len(rows) - 1}, where an earlier run was stopped", flush=True)
    else:
        rows = rows or [curves.row(0, (math.nan, math.nan), score(logits(model, val), val.y))]
        begin, best = len(rows) - 1, _weights(model)
    for row in rows if kept or step == 0 else []:
        report(row)
    bar = int(sys.stdout.isatty())
    idle = len(rows) - 1 - max(begin, best_epoch(rows, schedule.monitor))
    while len(rows) - 1 - begin < schedule.epochs and idle < schedule.patience:
        epoch = len(rows)
        order = np.random.default_rng([seed, epoch]).permutation(len(train.y))
        view, classes = (epoch - 1) % train.source.views, model.output_shape[-1]
        batches = _batches(train, order, view, schedule.batch_size, classes, weights)
        # Keras would shuffle the batches again, from a state that a resumed run does not have.
        logs = model.fit(batches, initial_epoch=epoch - 1, epochs=epoch, shuffle=False, verbose=bar).history
        with _averaged(model):
            val_loss, val_accuracy = score(logits(model, val), val.y)
            if not math.isfinite(val_loss):
                raise UserError(
                    f"training: expected a finite loss, found {val_loss} after epoch {epoch}; lower 'learning_rate'"
                )
            rows.append(curves.row(epoch, (logs["loss"][0], logs["accuracy"][0]), (val_loss, val_accuracy)))
            idle = epoch - max(begin, best_epoch(rows, schedule.monitor))
            if idle == 0:
                best = _weights(model)
        if schedule.decay == "plateau" and idle and idle % PLATEAU_EPOCHS == 0:
            model.optimizer.learning_rate = float(model.optimizer.learning_rate) * PLATEAU_FACTOR
        checkpoint.save(model, step, begin, rows, best)
        report(rows[-1])
        print(f"  epoch {epoch}: validation loss {val_loss:.4f}, accuracy {val_accuracy:.4f}", flush=True)
    for variable, value in zip(model.weights, best, strict=True):
        variable.assign(value)
    return rows


def logits(model: Any, images: Inputs) -> Floats:
    """The model's outputs (images × classes) for the images as they are, not augmented."""
    batches = (images.take(slice(at, at + PREDICT_BATCH)) for at in range(0, len(images.rows), PREDICT_BATCH))
    # Where several devices train, each predicts the whole batch, and the first one's answer is as good as any.
    return np.concatenate([np.asarray(model.predict_on_batch(batch))[: len(batch)] for batch in batches])


def best_epoch(rows: list[Row], monitor: Monitor = "loss") -> int:
    """The epoch with the lowest validation loss, or the highest accuracy (of equals, with the lower loss).

    Row 0, the model before training, is no candidate; its number says that there is no other.
    """

    return min(
        range(1, len(rows)), key=lambda n: rank(rows[n]["val_loss"], rows[n]["val_accuracy"], monitor), default=0
    )


def rank(loss: float, accuracy: float, monitor: Monitor) -> tuple[float, float]:
    """Put validation figures in order: the best is the least."""
    return (-accuracy if monitor == "accuracy" else 0.0, loss)


def _weights(model: Any) -> Weights:
    return [np.array(variable) for variable in model.weights]


@contextmanager
def _averaged(model: Any) -> Iterator[None]:
    """Within the block, give the trained weights their averages over the steps, if the optimiser keeps any."""
    if not model.optimizer.use_ema:
        yield
        return
    raw = [np.array(variable) for variable in model.trainable_variables]
    model.optimizer.average(model.trainable_variables)
    yield
    for variable, value in zip(model.trainable_variables, raw, strict=True):
        variable.assign(value)


def _state(model: Any) -> list[Any]:
    """All that changes while training: weights, the state of random layers, the optimiser's moments."""
    # Keras counts the variables of metrics among the model's as soon as it has built them, which is in the first epoch.
    metrics = {id(variable) for variable in model.metrics_variables}
    return [*(v for v in model.variables if id(v) not in metrics), *model.optimizer.variables]


def _batches(
    examples: Examples, order: NDArray[np.int64], view: int, size: int, classes: int, weights: Floats | None
) -> Any:
    """One epoch as a Keras data set that reads only the images of the batch at hand."""
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return math.ceil(len(order) / size)

        def __getitem__(self, batch: int) -> tuple[Any, ...]:
            which = order[batch * size : (batch + 1) * size]
            x, targets = examples.take(which, view), examples.targets(which, view, classes)
            return (x, targets) if weights is None else (x, targets, targets @ weights)

    return Batches()
