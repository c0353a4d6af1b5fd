"""Multinomial logistic regression on bottleneck features, solved to its minimum.

What is minimised is the mean cross-entropy of n examples plus ½ |kernel|² / (C n), on standardised features, as
scikit-learn has it (for two classes with two logits, so that its C is twice ours). scikit-learn stops where the
gradient is small, and where classes are easily told apart it is small long before the minimum: on the sample after 9
steps, and with features that were rounded otherwise at another regularisation. Here

- L-BFGS (Nocedal 1980) walks in coordinates in which all directions are about as curved: those of the Cholesky factor
  of the features' correlations, which bound the Hessian (Böhning 1992). It takes about half as many steps;
- standardised features are in a file without a name, of which a core maps a block at a time, so that memory is bounded
  whatever their number. The blocks' sums are added in their order, so that the number of cores changes nothing, if BLAS
  is limited to one thread.
"""

import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, reduce
from itertools import product
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import OptimizeResult, minimize

from thaw.artifacts import cache
from thaw.errors import UserError
from thaw.learning.examples import Examples
from thaw.machine import cores
from thaw.networks.outputs import Floats

BLOCK = 2048  # examples that one core looks at at a time
WIDE = 4096
FLAT = 1e-4  # more on the correlations' diagonal, so that they have a factor however they were rounded
STALE = 10  # the loss is so much less curved than where it began: other coordinates fit
PRECISION = 1e-6  # the share of the loss by which the last step has lowered it
ROUGH = 1e-5  # the same, where solutions are only compared with each other
TELLING = 1e-4  # the same, where a solution that is clearly worse than another will stay so
COLUMNS = 32  # classes whose places one core turns into weights at a time

Doubles = NDArray[np.float64]
Layer = tuple[Floats, Floats]  # kernel (features × classes) and bias (classes), for features that are not standardised
Block = tuple[int, int]  # a view, and the first of its images
T = TypeVar("T")
R = TypeVar("R")


class Sums(NamedTuple):
    """What a kernel and a bias come to on some examples.

    Attributes:
        loss: their cross-entropies (nats), weighted.
        curvature: the second derivatives of ``loss`` by a logit, their mean over the classes.
        kernel, bias: the derivatives of ``loss``.
        plain: the cross-entropies, all alike.
        right: how many examples are right.
    """

    loss: float
    curvature: float
    kernel: Floats
    bias: Floats
    plain: float
    right: int


class Regression:
    """A logistic regression whose regularisation is yet to be chosen; each solution is where the next one starts.

    Args:
        train: features and labels; all views of an image count alike, and a mixture for its classes by their shares.
        classes: how many there are.
        weights: of each class in the loss; None counts all alike.

    Raises:
        UserError: there are features that are not finite, or the disk is full.
    """

    def __init__(self, train: Examples, classes: int, weights: Floats | None = None) -> None:
        self._train, self._weights = train, weights
        self._blocks = list(product(range(train.source.views), range(0, len(train.y), BLOCK)))
        (width,) = train.source.shape
        self._count = count = len(train.y) * train.source.views
        self._kernel, self._bias = np.zeros((width, classes)), np.zeros(classes)
        self._mean, self._deviation = np.zeros(width, np.float32), np.ones(width, np.float32)
        (sums,) = self._sum(lambda block: (self._features(block).sum(axis=0, dtype=np.float64),))
        if not np.isfinite(sums).all():
            raise UserError(
                "train_head: expected features that are finite, found some that are not: the weights are broken, or "
                "'backbone.precision' is too low for them; correct one of them"
            )
        self._mean = (sums / count).astype(np.float32)
        (products,) = self._sum(lambda block: (_products(self._features(block)),))
        spread = np.sqrt(products if products.ndim == 1 else products.diagonal()) / np.sqrt(count)
        self._deviation = np.where(spread > 0, spread, 1).astype(np.float32)
        self._correlations = (
            None if products.ndim == 1 else products / count / np.outer(self._deviation, self._deviation)
        )
        self._standardised = self._written()
        self._found = self._look(self._kernel, self._bias)

    def start(self, layer: Layer) -> None:
        """Let the next solution start from another one."""
        kernel, bias = (one.astype(np.float64) for one in layer)
        self._kernel, self._bias = kernel * self._deviation[:, np.newaxis], bias + self._mean @ kernel
        self._found = self._look(self._kernel, self._bias)

    def solve(
        self, inverse_l2: float, precision: float = PRECISION, hopeless: Callable[[], bool] | None = None
    ) -> tuple[Layer, tuple[float, float]]:
        """Minimise the loss for one C.

        Args:
            inverse_l2: C.
            precision: the share of the loss by which the last step may still lower it.
            hopeless: is asked now and then, from ``TELLING`` on, whether to stop here.

        Returns:
            The Dense layer; and its cross-entropy (nats) and accuracy on the training examples, which count alike in
            both.
        """
        start = self._found
        while self._descend(inverse_l2, precision, hopeless) and self._found.curvature < start.curvature / STALE:
            start = self._found
        return self.layer(), (self._found.plain / self._count, self._found.right / self._count)

    def layer(self) -> Layer:
        """The Dense layer, as far as it has been solved."""
        kernel = (self._kernel / self._deviation[:, np.newaxis]).astype(np.float32)
        return kernel, (self._bias - self._mean @ kernel).astype(np.float32)

    def _descend(self, inverse_l2: float, precision: float, hopeless: Callable[[], bool] | None) -> bool:
        """Go on from here until a step hardly lowers the loss, in coordinates that fit here; or until it is hopeless.

        Returns:
            Whether it is not.
        """
        shape = self._kernel.shape
        unit = self._found.loss + np.square(self._kernel).sum() / inverse_l2 / 2
        space = _Space(self._correlations, self._found.curvature, 1 / inverse_l2)
        last = np.empty(0)  # the place that was looked at last

        def loss(place: Doubles) -> tuple[float, Doubles]:
            nonlocal last
            last = place.copy()
            self._kernel, self._bias = kernel, bias = space.weights(place.reshape(-1, shape[1]))
            self._found = found = self._look(kernel, bias)
            slopes = space.slopes(found.kernel + kernel / inverse_l2, found.bias)
            return (found.loss + np.square(kernel).sum() / inverse_l2 / 2) / unit, slopes.ravel() / unit

        reached, telling, stopped = 1.0, TELLING, False

        def step(intermediate_result: OptimizeResult) -> None:
            nonlocal reached, telling, stopped
            lowered, reached = reached - intermediate_result.fun, intermediate_result.fun
            if hopeless and lowered < telling:
                telling = lowered / 2  # it may ask many images, so not at every step
                if hopeless():
                    stopped = True
                    raise StopIteration

        first = space.place(self._kernel, self._bias).ravel()
        stop = {"ftol": precision, "gtol": 0, "maxiter": 1000, "maxfun": 1000}
        end = minimize(loss, first, jac=True, method="L-BFGS-B", callback=step, options=stop)
        if not np.array_equal(last, end.x):  # the last step that was tried was none that was taken
            loss(end.x)
        return not stopped

    def _look(self, kernel: Doubles, bias: Doubles) -> Sums:
        """See what a kernel and a bias come to on all examples."""
        weights, shift = kernel.astype(np.float32), bias.astype(np.float32)

        def one(block: Block) -> Sums:
            view, first = block
            x = self._mapped(block)
            targets = self._train.targets(slice(first, first + BLOCK), view, len(bias))
            counted = targets if self._weights is None else targets * self._weights
            # In place wherever it can be: memory that is new costs more here than the arithmetic.
            logits = x @ weights
            logits += shift
            logits -= logits.max(axis=1, keepdims=True)
            right = int((logits.argmax(axis=1) == targets.argmax(axis=1)).sum())
            error = np.exp(logits)
            total = error.sum(axis=1, keepdims=True)
            error /= total
            losses = np.subtract(np.log(total), logits, out=logits)
            scratch = 1 - error
            error *= counted.sum(axis=1, keepdims=True)
            scratch *= error
            curvature = float(scratch.sum(dtype=np.float64)) / len(bias)
            error -= counted
            loss = plain = float(np.multiply(counted, losses, out=scratch).sum(dtype=np.float64))
            if counted is not targets:
                plain = float(np.multiply(targets, losses, out=scratch).sum(dtype=np.float64))
            return Sums(loss, curvature, x.T @ error, error.sum(axis=0), plain, right)

        return Sums(*self._sum(one))

    def _features(self, block: Block) -> Floats:
        """The standardised features of a block."""
        view, first = block
        found = self._train.take(slice(first, first + BLOCK), view)
        found -= self._mean
        found /= self._deviation
        return found

    def _written(self) -> IO[bytes]:
        """The standardised features, in a file that is gone with this process, whatever ends that."""
        cache().mkdir(parents=True, exist_ok=True)  # where there is room for the features there is for this
        file, lock = tempfile.TemporaryFile(dir=cache()), threading.Lock()  # noqa: SIM115 (as long as this object)

        def write(block: Block) -> tuple[()]:
            found = self._features(block)
            with lock:
                file.seek(self._place(block))
                file.write(found.data)
            return ()

        try:
            self._sum(write)
            file.flush()
        except OSError as error:
            raise UserError(
                f"expected {self._count * len(self._mean) * 4 / 1e9:.1f} GB of free disk for standardised "
                f"features, found: {error.strerror}; free some in {cache()}"
            ) from None
        return file

    def _place(self, block: Block) -> int:
        view, first = block
        return (view * len(self._train.y) + first) * len(self._mean) * 4

    def _mapped(self, block: Block) -> Floats:
        """The standardised features of a block, in the file: they count as memory, but only until they are let go."""
        shape = (min(BLOCK, len(self._train.y) - block[1]), len(self._mean))
        return np.memmap(self._standardised, np.float32, "r", self._place(block), shape)

    def _sum(self, what: Callable[[Block], tuple[Any, ...]]) -> tuple[Any, ...]:
        """Add up what is to know of the blocks, in their order; each of them is one core's, with all its products."""

        def add(left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(a + b for a, b in zip(left, right, strict=True))

        return reduce(add, _on_all_cores(what, self._blocks))


class _Space:
    """Places that stand for weights, such that the loss is about as curved in all directions.

    L⁻ᵀ turns a place into a kernel, where L Lᵀ is about the Hessian of one class: the correlations of the features
    times the curvature by a logit, and the ridge. Without correlations it is taken to be diagonal.
    """

    def __init__(self, correlations: Doubles | None, curvature: float, ridge: float) -> None:
        curvature = max(curvature, 1e-3 * ridge)  # where all classes are told apart, rounding leaves none
        self._edge = np.sqrt(curvature)
        self._factor: Doubles | None = None
        if correlations is not None:
            hessian = curvature * correlations
            hessian.flat[:: len(hessian) + 1] += curvature * FLAT + ridge
            self._factor = cholesky(hessian, lower=True, overwrite_a=True, check_finite=False)

    def weights(self, place: Doubles) -> tuple[Doubles, Doubles]:
        """The kernel and the bias that a place stands for."""
        return self._solved(place[:-1], "T"), place[-1] / self._edge

    def slopes(self, kernel: Doubles, bias: Floats) -> Doubles:
        """Derivatives by the place, from those by the kernel and the bias."""
        return np.vstack([self._solved(kernel, "N"), bias / self._edge])

    def place(self, kernel: Doubles, bias: Doubles) -> Doubles:
        """The place that stands for a kernel and a bias."""
        turned = self._edge * kernel if self._factor is None else self._factor.T @ kernel
        return np.vstack([turned, bias * self._edge])

    def _solved(self, right: Doubles, how: str) -> Doubles:
        if self._factor is None:
            scaled: Doubles = right / self._edge
            return scaled
        factor = self._factor

        def solved(first: int) -> Doubles:
            some = right[:, first : first + COLUMNS]
            found: Doubles = solve_triangular(factor, some, trans=how, lower=True, check_finite=False)
            return found

        return np.hstack([*_on_all_cores(solved, range(0, right.shape[1], COLUMNS))])


def _on_all_cores(what: Callable[[T], R], items: Sequence[T]) -> Iterable[R]:
    """Do something with each item, on all cores; the results are in the order of the items."""
    return map(what, items) if len(items) == 1 else _pool(cores()).map(what, items)


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: a solution takes a hundred sums, each of them too short to start threads for."""
    return ThreadPoolExecutor(threads, "logistic")


def _products(centred: Floats) -> Floats:
    """The products of features, summed over examples: features × features, or of too many only the squares."""
    found: Floats = np.square(centred).sum(axis=0) if centred.shape[1] > WIDE else centred.T @ centred
    return found
