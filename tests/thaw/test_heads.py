"""The head and its two solvers."""

from pathlib import Path

import numpy as np
import pytest

from thaw.config import Adam, Lbfgs
from thaw.errors import UserError
from thaw.examples import Array, Examples
from thaw.heads import Head, descend, softmax, solve
from thaw.training import score

LBFGS = Lbfgs(solver="lbfgs", inverse_l2=[0.01, 1.0, 100.0], max_iterations=200)
ADAM = Adam(solver="adam", dropout=0.1, learning_rate=0.01, batch_size=16, epochs=30, patience=5)


def _examples(classes: int, seed: int, images: int = 200) -> Examples:
    """Features of which the first ones tell the class, on very different scales, and one that never changes."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, images)
    x = random.normal(size=(images, 1, 12)).astype(np.float32)
    x[np.arange(images), 0, y] += 2
    x *= np.logspace(-2, 2, 12, dtype=np.float32)
    x[:, :, -1] = 7
    return Examples(Array(x), np.arange(images), y)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_a_head_learns(solver: str, classes: int) -> None:
    train, val = _examples(classes, 0), _examples(classes, 1)
    if solver == "lbfgs":
        head, rows = solve(LBFGS, train, val)
    else:
        head, rows = descend(ADAM, train, val, classes, 0)
    assert head.kernel.shape == (12, classes)
    assert head.kernel.dtype == head.bias.dtype == np.float32
    loss, accuracy = score(head.logits(val.take()), val.y)
    # Adam sees the raw features, most of which are tiny or huge: it gets less far, which is why L-BFGS scales them.
    assert accuracy > (0.8 if solver == "lbfgs" else 0.55)
    assert min(row["val_loss"] for row in rows[solver == "adam" :]) == pytest.approx(loss)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_folded_scaler_gives_scikit_learn_s_own_probabilities(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, val = _examples(classes, 0), _examples(classes, 1)
    head, _ = solve(LBFGS.model_copy(update={"inverse_l2": [1.0]}), train, val)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=200)).fit(train.take(), train.y)
    np.testing.assert_allclose(softmax(head.logits(val.take())), reference.predict_proba(val.take()), atol=2e-3)


def test_validation_chooses_the_regularisation() -> None:
    train, val = _examples(3, 0), _examples(3, 1)
    head, rows = solve(LBFGS, train, val)
    best = min(rows, key=lambda row: row["val_loss"])
    assert best["loss"] > min(row["loss"] for row in rows), "the case is meant to overfit"
    assert score(head.logits(val.take()), val.y)[0] == best["val_loss"]


def test_augmented_views_count_as_images_of_their_own() -> None:
    train, val = _examples(3, 0), _examples(3, 1)
    half = len(train.y) // 2
    first, second = train.take(slice(half)), train.take(slice(half, None))
    views = Examples(Array(np.stack([first, second], axis=1)), np.arange(half), train.y[:half])
    flat = Examples(train.source, train.rows, np.tile(train.y[:half], 2))
    np.testing.assert_array_equal(solve(LBFGS, views, val)[0].kernel, solve(LBFGS, flat, val)[0].kernel)


def test_adam_takes_the_steps_that_keras_takes() -> None:
    """From Keras' own first weights: the same losses, epoch for epoch, and the same weights in the end."""
    import keras

    train, val = _examples(3, 0, images=40), _examples(3, 1)
    config = ADAM.model_copy(update={"dropout": 0.0, "batch_size": 40, "epochs": 5})
    head, rows = descend(config, train, val, 3, 0)
    random = np.random.default_rng(0)
    limit = np.sqrt(6 / (12 + 3))
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(3)])
    model.layers[0].set_weights([random.uniform(-limit, limit, (12, 3)), np.zeros(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(config.learning_rate), loss=loss)
    losses = [model.train_on_batch(train.take(), train.y) for _ in range(5)]
    np.testing.assert_allclose([row["loss"] for row in rows[1:]], losses, rtol=1e-4)
    assert min(rows[1:], key=lambda row: row["val_loss"]) == rows[-1], "the case is meant to improve to the end"
    np.testing.assert_allclose(head.kernel, model.layers[0].get_weights()[0], atol=1e-4)


def test_adam_stops_when_the_validation_loss_does_not_fall_and_keeps_the_best() -> None:
    train, val = _examples(3, 0, images=30), _examples(3, 1)
    config = ADAM.model_copy(update={"learning_rate": 0.3, "epochs": 200})
    head, rows = descend(config, train, val, 3, 0)
    best = min(rows[1:], key=lambda row: row["val_loss"])
    assert len(rows) - 1 == best["step"] + config.patience < 200
    assert score(head.logits(val.take()), val.y)[0] == pytest.approx(best["val_loss"])


def test_adam_s_rate_that_is_far_too_high_is_said_so() -> None:
    train = _examples(3, 0)
    broken = Examples(Array(np.full((200, 1, 12), np.inf, np.float32)), train.rows, train.y)
    with pytest.raises(UserError, match="expected a finite loss, found nan after epoch 1; lower 'learning_rate'"):
        descend(ADAM, broken, train, 3, 0)


def test_a_saved_head_is_the_same_head_and_the_same_file(tmp_path: Path) -> None:
    head, _ = solve(LBFGS, _examples(3, 0), _examples(3, 1))
    head.save(tmp_path / "a.h5")
    head.save(tmp_path / "b.h5")
    loaded = Head.load(tmp_path / "a.h5")
    np.testing.assert_array_equal(loaded.kernel, head.kernel)
    np.testing.assert_array_equal(loaded.bias, head.bias)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_softmax_survives_huge_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0]], np.float32)), [[1, 0]])
