"""The head: bottleneck features → logits, and the two ways to train it on cached features.

A head is one Dense layer or several, kept as plain arrays: neither training it nor predicting with it needs TensorFlow.
Its last layer has a logit for each class, also where there are two: softmax over two logits is the sigmoid of their
difference, and its cross-entropy the binary one.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from thaw.artifacts import atomic
from thaw.config.schema import Adam, Lbfgs
from thaw.errors import UserError
from thaw.learning import curves
from thaw.learning.curves import Report, Row, silent
from thaw.learning.examples import Examples, Inputs
from thaw.learning.training import cross_entropies, score
from thaw.networks.inference import softmax
from thaw.networks.outputs import Floats

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # Adam's, as in Keras
BLOCK = 4096  # images whose features are in memory at a time

Losses = NDArray[np.float64]  # of images, nats


@dataclass(frozen=True)
class Head:
    """A classifier on bottleneck features: linear, or with hidden layers (ReLU).

    Attributes:
        layers: kernel (inputs × outputs) and bias (outputs) of each Dense layer, the last one gives the logits.
    """

    layers: list[tuple[Floats, Floats]]

    def logits(self, features: Floats) -> Floats:
        """Images × classes, from images × features."""
        *hidden, (kernel, bias) = self.layers
        for weights, shift in hidden:
            features = np.maximum(features @ weights + shift, 0)
        return features @ kernel + bias

    def predict(self, images: Inputs) -> Floats:
        """Logits (images × classes) of images as they are; their features are read block by block."""
        starts = range(0, len(images.rows) or 1, BLOCK)
        return np.concatenate([self.logits(images.take(slice(at, at + BLOCK))) for at in starts])

    def save(self, path: Path) -> None:
        """Write it as HDF5."""
        with atomic(path) as partial, h5py.File(partial, "w") as file:
            for number, (kernel, bias) in enumerate(self.layers):
                file[f"kernel_{number}"], file[f"bias_{number}"] = kernel, bias

    @classmethod
    def load(cls, path: Path) -> "Head":
        """Read what ``save`` wrote."""
        with path.open("rb") as opened, h5py.File(opened) as file:  # by itself, h5py does not say which file is missing
            return cls([(file[f"kernel_{number}"][:], file[f"bias_{number}"][:]) for number in range(len(file) // 2)])


def fit(
    config: Adam | Lbfgs,
    train: Examples,
    val: Examples,
    classes: int,
    seed: int,
    weights: Floats | None = None,
    report: Report = silent,
) -> tuple[Head, list[Row]]:
    """Train a head with the solver that the configuration names: see ``solve`` and ``descend``."""
    if isinstance(config, Lbfgs):
        return solve(config, train, val, classes, weights, report)
    return descend(config, train, val, classes, seed, weights, report)


def solve(
    config: Lbfgs,
    train: Examples,
    val: Examples,
    classes: int,
    weights: Floats | None = None,
    report: Report = silent,
) -> tuple[Head, list[Row]]:
    """Solve multinomial logistic regression on standardised features; validation chooses the regularisation.

    The scaler is folded into the Dense weights, so the head takes the features as they are. Starting fine-tuning from
    such a converged head keeps the pretrained features from being distorted (Kumar et al. 2022, arXiv:2202.10054).

    Args:
        config: candidates of the inverse regularisation, tried from the strongest until one is worse than the one
            before it; see ``strongest`` for which one wins. They are solved roughly, one that is worse only until that
            is clear, and the one that wins to the end.
        train: features; all views of an image count alike.
        val: features; only the images as they are count.
        classes: how many there are.
        weights: of each class in the loss; None counts all alike.
        report: is told each row as soon as there is one.

    Returns:
        The head, and the rows of ``history.csv``: one per candidate, and a last one, of the head.
    """
    # SciPy takes half a second to import, and only training needs it.
    from thaw.learning.logistic import PRECISION, ROUGH, Regression

    rows = list[Row]()
    with threadpool_limits(1, "blas"):  # cores share blocks of images instead
        regression = Regression(train, classes, weights)

        def solved(
            inverse_l2: float, precision: float, hopeless: Callable[[], bool] | None = None
        ) -> tuple[Head, Losses]:
            layer, seen = regression.solve(inverse_l2, precision, hopeless)
            head = Head([layer])
            logits = head.predict(val)
            rows.append(curves.row(len(rows), seen, score(logits, val.y), inverse_l2=inverse_l2))
            report(rows[-1])
            return head, cross_entropies(logits, val.y)

        candidates = sorted(config.inverse_l2)
        chosen = candidates[0]
        if len(candidates) > 1:
            tried, losses = list[Head](), list[Losses]()

            def worse() -> bool:
                logits = Head([regression.layer()]).predict(val)
                return beyond_noise(cross_entropies(logits, val.y) - losses[-1])

            for inverse_l2 in candidates:
                head, of_head = solved(inverse_l2, ROUGH, worse if losses else None)
                if losses and of_head.mean() > losses[-1].mean():
                    break  # weaker still would only overfit more, and take the longest to solve
                tried.append(head)
                losses.append(of_head)
            place = strongest(losses)
            chosen = candidates[place]
            regression.start(tried[place].layers[0])
        head, _ = solved(chosen, PRECISION)
    return head, curves.choose(rows, len(rows) - 1)


def strongest(losses: list[Losses]) -> int:
    """Choose a regularisation: the strongest that is no worse than the best by more than noise.

    Fine-tuning gets further from such a head than from the best one.

    Args:
        losses: of the validation images, for each candidate, the strongest first; the last one is the best.

    Returns:
        The number of the candidate.
    """
    return next(place for place, one in enumerate(losses) if not beyond_noise(one - losses[-1]))


def beyond_noise(excess: Losses) -> bool:
    """Whether losses are higher by more than noise: one standard error (Breiman et al. 1984) of their mean excess.

    Args:
        excess: of one model over another, image by image.
    """
    return bool(excess.mean() > excess.std() / math.sqrt(len(excess)))


def descend(
    config: Adam,
    train: Examples,
    val: Examples,
    classes: int,
    seed: int,
    weights: Floats | None = None,
    report: Report = silent,
) -> tuple[Head, list[Row]]:
    """Train features → dropout → Dense (→ ReLU → dropout → Dense …) with Adam (Kingma and Ba 2014, arXiv:1412.6980).

    Written out in NumPy: the gradient of the cross-entropy is a few lines, and an epoch takes less than importing
    TensorFlow would. The epoch with the lowest validation loss is kept; each epoch takes the next view of the images.

    Args:
        config: hidden layers, rate, dropout, batch size, epochs and patience.
        train, val: features; of val, only the images as they are count.
        classes: how many there are.
        seed: of the first weights, the order of the images and the dropout.
        weights: of each class in the loss; None counts all alike.
        report: is told each row as soon as there is one.

    Returns:
        The head, and one row per epoch for ``history.csv``.

    Raises:
        UserError: the loss is not finite any more.
    """
    random = np.random.default_rng(seed)
    (width,) = train.source.shape
    layers = [_glorot(random, *sizes) for sizes in itertools.pairwise([width, *config.hidden, classes])]
    head = Head([(layer[:-1], layer[-1]) for layer in layers])  # views: it follows the layers
    means, squares = ([np.zeros_like(layer) for layer in layers] for _ in range(2))
    steps, best = 0, head
    rows = [curves.row(0, (math.nan, math.nan), score(head.predict(val), val.y))]
    report(rows[0])
    with threadpool_limits(1, "blas"):  # the matrices are small, and threads that wait cost more than the arithmetic
        while len(rows) <= config.epochs and len(rows) - 1 - best_epoch(rows) < config.patience:
            order, seen, view = random.permutation(len(train.y)), [], (len(rows) - 1) % train.source.views
            for at in range(0, len(order), config.batch_size):
                which = order[at : at + config.batch_size]
                inputs, logits = _forward(
                    layers, train.take(which, (len(rows) - 1) % train.source.views), config, random
                )
                seen.append((*score(logits, train.y[which]), len(which)))
                targets = train.targets(which, view, classes)
                error = (softmax(logits) - targets) / np.float32(len(which))
                if weights is not None:
                    error *= (targets @ weights)[:, np.newaxis]
                gradients = _backward(layers, inputs, error, config)
                steps += 1
                rate = np.float32(config.learning_rate * math.sqrt(1 - BETA_2**steps) / (1 - BETA_1**steps))
                for k, gradient in enumerate(gradients):
                    means[k] += (1 - BETA_1) * (gradient - means[k])
                    squares[k] += (1 - BETA_2) * (gradient * gradient - squares[k])
                    layers[k] -= rate * means[k] / (np.sqrt(squares[k]) + np.float32(EPSILON))
            judged = score(head.predict(val), val.y)
            if not math.isfinite(judged[0]):
                raise UserError(
                    f"train_head: expected a finite loss, found {judged[0]} after epoch {len(rows)}; "
                    f"lower 'learning_rate'"
                )
            loss, accuracy, _ = np.average(seen, axis=0, weights=[one[-1] for one in seen])
            rows.append(curves.row(len(rows), (float(loss), float(accuracy)), judged))
            report(rows[-1])
            if best_epoch(rows) == len(rows) - 1:
                best = Head([(kernel.copy(), bias.copy()) for kernel, bias in head.layers])
    return best, curves.choose(rows, best_epoch(rows))


def _glorot(random: np.random.Generator, inputs: int, outputs: int) -> Floats:
    """The first weights of a Dense layer (Glorot and Bengio 2010): inputs × outputs, and a last row for the bias."""
    limit = math.sqrt(6 / (inputs + outputs))
    layer = np.zeros((inputs + 1, outputs), np.float32)
    layer[:-1] = random.uniform(-limit, limit, (inputs, outputs))
    return layer


def _forward(layers: list[Floats], x: Floats, config: Adam, random: np.random.Generator) -> tuple[list[Floats], Floats]:
    """The inputs of each layer, some of them dropped, and the logits."""
    kept = np.float32(1 - config.dropout)
    inputs: list[Floats] = []
    for layer in layers:
        if inputs:
            x = np.maximum(x, 0)
        if config.dropout:
            x = np.where(random.random(x.shape, np.float32) < kept, x / kept, np.float32(0))
        inputs.append(x)
        x = x @ layer[:-1] + layer[-1]
    return inputs, x


def _backward(layers: list[Floats], inputs: list[Floats], error: Floats, config: Adam) -> list[Floats]:
    """The gradient of each layer, from the gradient of the logits."""
    gradients: list[Floats] = []
    for k in reversed(range(len(layers))):
        gradients.insert(0, np.concatenate([inputs[k].T @ error, error.sum(axis=0, keepdims=True)]))
        if k:  # what ReLU or dropout has set to 0 passes nothing on
            error = (error @ layers[k][:-1].T) * (inputs[k] > 0) / np.float32(1 - config.dropout)
    return gradients


def best_epoch(rows: list[Row]) -> int:
    """The epoch with the lowest validation loss.

    Row 0, the head before training, is no candidate; its number says that there is no other.
    """
    return min(range(1, len(rows)), key=lambda epoch: rows[epoch]["val_loss"], default=0)
