"""The head: bottleneck features → logits, and the two ways to train it on cached features.

A head is a Dense layer, kept as plain arrays: ``logits = features @ kernel + bias``. Predicting with it, and solving it
with L-BFGS, needs no TensorFlow.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from thaw import history
from thaw.artifacts import atomic
from thaw.config import Adam, Lbfgs
from thaw.examples import Examples, Floats
from thaw.history import Row
from thaw.training import Checkpoint, compiled, fit, score


@dataclass(frozen=True)
class Head:
    """A linear classifier on bottleneck features.

    Attributes:
        kernel: features × classes.
        bias: classes.
    """

    kernel: Floats
    bias: Floats

    def logits(self, features: Floats) -> Floats:
        """Images × classes, from images × features."""
        return features @ self.kernel + self.bias

    def save(self, path: Path) -> None:
        """Write it as HDF5."""
        with atomic(path) as partial, h5py.File(partial, "w") as file:
            file["kernel"], file["bias"] = self.kernel, self.bias

    @classmethod
    def load(cls, path: Path) -> "Head":
        """Read what ``save`` wrote."""
        with path.open("rb") as opened, h5py.File(opened) as file:  # by itself, h5py does not say which file is missing
            return cls(file["kernel"][:], file["bias"][:])


def softmax(logits: Floats) -> Floats:
    """Probabilities (images × classes) from logits."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def solve(config: Lbfgs, train: Examples, val: Examples) -> tuple[Head, list[Row]]:
    """Solve multinomial logistic regression on standardised features; validation chooses the regularisation.

    The scaler is folded into the Dense weights, so the head takes the features as they are. Starting fine-tuning from
    such a converged head keeps the pretrained features from being distorted (Kumar et al. 2022, arXiv:2202.10054).

    Args:
        config: candidates of the inverse regularisation, tried from the strongest until the validation loss has risen
            twice in a row; the lowest validation loss wins, the stronger one on a tie.
        train: features; all views of an image count alike.
        val: features; only the images as they are count.

    Returns:
        The head, and one row per candidate for ``history.csv``.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    x = np.concatenate([train.take(view=view) for view in range(train.source.views)])
    y, val_x = np.tile(train.y, train.source.views), val.take()
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation[deviation == 0] = 1
    scaled = (x - mean) / deviation
    solver = LogisticRegression(max_iter=config.max_iterations, warm_start=True)
    best, lowest, rows = None, np.inf, []
    for step, inverse_l2 in enumerate(sorted(config.inverse_l2)):
        solver.C = inverse_l2
        # One thread: the matrices are small, and threads that wait for each other cost a hundred times the arithmetic.
        with warnings.catch_warnings(), threadpool_limits(1, "blas"):
            # Weak regularisation may want more steps; validation sees what came of the steps it had.
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.fit(scaled, y)
        coefficients, intercept = solver.coef_, solver.intercept_
        if len(coefficients) == 1:  # two classes: scikit-learn solves for one logit, which two halves make again
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            intercept = np.concatenate([-intercept, intercept]) / 2
        kernel = (coefficients / deviation).T.astype(np.float32)
        head = Head(kernel, (intercept - mean @ kernel).astype(np.float32))
        judged = score(head.logits(val_x), val.y)
        rows.append(history.row(step, score(head.logits(x), y), judged, inverse_l2=inverse_l2))
        if judged[0] < lowest:
            best, lowest = head, judged[0]
        if len(rows) > 2 and rows[-3]["val_loss"] < rows[-2]["val_loss"] < rows[-1]["val_loss"]:
            break  # weaker still would only overfit more, and take the longest to solve
    assert best is not None  # there is at least one candidate, and a loss is finite
    return best, rows


def descend(
    config: Adam, train: Examples, val: Examples, classes: int, seed: int, checkpoint: Checkpoint
) -> tuple[Head, list[Row]]:
    """Train features → dropout → Dense with Adam until the validation loss stops falling, see ``training.fit``."""
    import keras

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input(train.source.shape), keras.layers.Dropout(config.dropout), keras.layers.Dense(classes)]
    )
    rows = fit(compiled(model, config.learning_rate), train, val, config, seed, checkpoint)
    kernel, bias = model.layers[-1].get_weights()
    return Head(kernel, bias), rows
