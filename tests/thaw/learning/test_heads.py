"""The head and its two solvers."""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import options
from thaw.config.schema import Adam, Lbfgs
from thaw.errors import UserError
from thaw.learning import curves, heads, logistic
from thaw.learning.examples import Examples
from thaw.learning.heads import Head, best_epoch, descend, solve, strongest
from thaw.learning.training import score
from thaw.networks.inference import softmax
from thaw.networks.outputs import Array

LBFGS = Lbfgs.model_validate(options.LBFGS | {"inverse_l2": [0.01, 1.0, 100.0]})
ADAM = Adam.model_validate(options.ADAM)


def _examples(classes: int, seed: int, images: int = 200) -> Examples:
    """Features of which the first ones tell the class, on very different scales, and one that never changes."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, images)
    x = random.normal(size=(images, 1, 12)).astype(np.float32)
    x[np.arange(images), 0, y] += 2
    x *= np.logspace(-2, 2, 12, dtype=np.float32)
    x[:, :, -1] = 7
    return Examples(Array(x), np.arange(images), y)


def test_a_head_reads_features_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    images = _examples(3, 0)
    head, _ = solve(LBFGS, images, images, 3)
    monkeypatch.setattr(heads, "BLOCK", 64)  # of 200: the last block is shorter
    np.testing.assert_allclose(head.predict(images), head.logits(images.take()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_a_head_learns(solver: str, classes: int) -> None:
    train, val = _examples(classes, 0), _examples(classes, 1)
    if solver == "lbfgs":
        head, rows = solve(LBFGS, train, val, classes)
    else:
        head, rows = descend(ADAM, train, val, classes, 0)
    ((kernel, bias),) = head.layers
    assert kernel.shape == (12, classes)
    assert kernel.dtype == bias.dtype == np.float32
    loss, accuracy = score(head.logits(val.take()), val.y)
    # Adam sees the raw features, most of which are tiny or huge: it gets less far, which is why L-BFGS scales them.
    assert accuracy > (0.8 if solver == "lbfgs" else 0.55)
    assert rows[curves.kept(rows)]["val_loss"] == pytest.approx(loss)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_folded_scaler_gives_scikit_learn_s_own_probabilities(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, val = _examples(classes, 0), _examples(classes, 1)
    head, _ = solve(LBFGS.model_copy(update={"inverse_l2": [1.0]}), train, val, classes)
    c = 2.0 if classes == 2 else 1.0  # of two classes it knows one logit
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=200)).fit(train.take(), train.y)
    np.testing.assert_allclose(softmax(head.logits(val.take())), reference.predict_proba(val.take()), atol=2e-3)


def test_validation_chooses_the_regularisation() -> None:
    train, val = _examples(3, 0), _examples(3, 1)
    head, rows = solve(LBFGS, train, val, 3)
    kept = rows[curves.kept(rows)]
    assert kept["loss"] > min(row["loss"] for row in rows), "the case is meant to overfit"
    assert score(head.logits(val.take()), val.y)[0] == kept["val_loss"]


def test_no_candidate_is_tried_after_one_that_is_worse_than_the_one_before_it() -> None:
    train, val = _examples(3, 0), _examples(3, 1)
    config = LBFGS.model_copy(update={"inverse_l2": [0.01, 0.1, 1.0, 10.0, 100.0]})
    _, (*candidates, _) = solve(config, train, val, 3)
    losses = [row["val_loss"] for row in candidates]
    assert 2 < len(losses) < 5, "the case is meant to overfit"
    assert losses[-1] > losses[-2]
    assert losses[:-1] == sorted(losses[:-1], reverse=True)


def test_candidates_are_solved_roughly_and_the_one_that_wins_to_the_end() -> None:
    train, val = _examples(3, 0), _examples(3, 1)
    head, (*candidates, last) = solve(LBFGS, train, val, 3)
    (rough,) = (row for row in candidates if row["inverse_l2"] == last["inverse_l2"])
    assert last["kept"] == 1 - rough["kept"] == 1
    assert abs(last["val_loss"] - rough["val_loss"]) < 0.01
    alone, rows = solve(LBFGS.model_copy(update={"inverse_l2": [last["inverse_l2"]]}), train, val, 3)
    assert len(rows) == 1, "one candidate is solved once"
    np.testing.assert_allclose(softmax(head.predict(val)), softmax(alone.predict(val)), atol=2e-3)


def test_a_candidate_that_is_clearly_worse_is_left_and_the_head_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = _examples(3, 0), _examples(3, 1)
    config = LBFGS.model_copy(update={"inverse_l2": [0.1, 1.0, 100.0]})
    look, looks = logistic.Regression._look, [0, 0]
    found, rows = [], []
    for place, telling in enumerate([logistic.TELLING, 0]):

        def counted(self: logistic.Regression, kernel: Array, bias: Array, place: int = place) -> logistic.Sums:
            looks[place] += 1
            return look(self, kernel, bias)

        monkeypatch.setattr(logistic, "TELLING", telling)
        monkeypatch.setattr(logistic.Regression, "_look", counted)
        head, (*better, worse, last) = solve(config, train, val, 3)
        assert worse["inverse_l2"] == 100
        found.append(head.layers[0])
        rows.append([*better, last])
    assert looks[0] < looks[1]
    assert rows[0] == rows[1]
    for left, whole in zip(*found, strict=True):
        np.testing.assert_array_equal(left, whole)


@pytest.mark.parametrize(
    ("worse", "spread", "chosen"), [(0.01, 0.0, 1), (0.01, 1.0, 0), (0.5, 1.0, 1), (0.0, 0.0, 0)], ids=str
)
def test_the_strongest_regularisation_that_noise_explains_is_chosen(worse: float, spread: float, chosen: int) -> None:
    best = np.random.default_rng(0).uniform(size=400)
    assert strongest([best + worse + spread * np.resize([-1, 1], 400), best]) == chosen


def test_augmented_views_count_as_images_of_their_own() -> None:
    train, val = _examples(3, 0), _examples(3, 1)
    half = len(train.y) // 2
    first, second = train.take(slice(half)), train.take(slice(half, None))
    views = Examples(Array(np.stack([first, second], axis=1)), np.arange(half), train.y[:half])
    flat = Examples(train.source, train.rows, np.tile(train.y[:half], 2))
    found = [softmax(solve(LBFGS, one, val, 3)[0].logits(val.take())) for one in (views, flat)]
    np.testing.assert_allclose(*found, atol=1e-3)  # the sums of the views are rounded otherwise


@pytest.mark.parametrize("hidden", [[], [8], [8, 5]], ids=str)
def test_adam_takes_the_steps_that_keras_takes(hidden: list[int]) -> None:
    """From Keras' own first weights, with unequal classes: the same losses, epoch for epoch, and the same weights."""
    import keras

    train, val = _examples(3, 0, images=40), _examples(3, 1)
    weights = np.array([0.5, 1, 2], np.float32)
    config = ADAM.model_copy(update={"hidden": hidden, "dropout": 0.0, "batch_size": 40, "epochs": 5, "patience": 5})
    head, rows = descend(config, train, val, 3, 0, weights)
    random = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((12,)), *(keras.layers.Dense(units, "relu") for units in hidden)])
    model.add(keras.layers.Dense(3))
    for layer in model.layers:
        rows_in, columns = layer.kernel.shape
        limit = np.sqrt(6 / (rows_in + columns))
        layer.set_weights([random.uniform(-limit, limit, (rows_in, columns)), np.zeros(columns)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(config.learning_rate), loss=loss)
    x = train.take()
    for row in rows[1:]:
        assert row["loss"] == pytest.approx(score(model.predict_on_batch(x), train.y)[0], rel=1e-4)
        model.train_on_batch(x, train.y, sample_weight=weights[train.y])
    assert best_epoch(rows) == 5, "the case is meant to improve to the end"
    for (kernel, bias), layer in zip(head.layers, model.layers, strict=True):
        np.testing.assert_allclose(kernel, layer.get_weights()[0], atol=1e-4)
        np.testing.assert_allclose(bias, layer.get_weights()[1], atol=1e-4)


def test_hidden_layers_tell_apart_what_no_straight_cut_does() -> None:
    def ring(seed: int) -> Examples:
        x = np.random.default_rng(seed).normal(size=(400, 1, 2)).astype(np.float32)
        return Examples(Array(x), np.arange(400), (np.linalg.norm(x[:, 0], axis=1) > 1.2).astype(np.int64))

    accuracies = []
    for hidden in ([], [32]):
        config = ADAM.model_copy(update={"hidden": hidden, "dropout": 0.0, "epochs": 60})
        head, _ = descend(config, ring(0), ring(1), 2, 0)
        accuracies.append(score(head.logits(ring(1).take()), ring(1).y)[1])
    assert accuracies[0] < 0.7
    assert accuracies[1] > 0.9


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_a_class_that_counts_more_is_found_more_often(solver: str) -> None:
    def overlapping(seed: int) -> Examples:
        random = np.random.default_rng(seed)
        y = random.integers(0, 2, 300)
        return Examples(
            Array((random.normal(size=(300, 1, 2)) + y[:, None, None]).astype(np.float32)), np.arange(300), y
        )

    train, val = overlapping(0), overlapping(1)
    found = []
    for weights in (None, np.array([1, 20], np.float32)):
        if solver == "lbfgs":
            head, _ = solve(LBFGS.model_copy(update={"inverse_l2": [0.01]}), train, val, 2, weights)
        else:
            head, _ = descend(ADAM, train, val, 2, 0, weights)
        found.append((head.logits(val.take()).argmax(axis=1) == 1).mean())
    assert found[1] > found[0] + 0.1


def test_two_logits_of_a_two_class_head_are_one_of_the_sigmoid() -> None:
    head, _ = solve(LBFGS, _examples(2, 0), _examples(2, 1), 2)
    logits = head.logits(_examples(2, 1).take())
    sigmoid = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    np.testing.assert_allclose(softmax(logits)[:, 1], sigmoid, atol=1e-6)


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_a_mixture_counts_for_both_its_classes_by_their_shares(solver: str) -> None:
    """Features that are all alike: what is left to learn is how often each class is."""
    x = np.ones((100, 2, 3), np.float32)
    train = Examples(
        Array(x),
        np.arange(100),
        np.zeros(100, np.int64),
        np.ones((100, 2), np.int64),
        np.tile(np.array([1, 0.6], np.float32), (100, 1)),  # view 0 is the image itself
    )
    val = Examples(Array(x), np.arange(100), np.repeat([0, 1], [80, 20]))
    if solver == "lbfgs":
        head, _ = solve(LBFGS, train, val, 2)
    else:
        head, _ = descend(ADAM.model_copy(update={"epochs": 200, "dropout": 0.0, "patience": 200}), train, val, 2, 0)
    np.testing.assert_allclose(softmax(head.logits(val.take()))[0], [0.8, 0.2], atol=0.02)


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
    head, _ = solve(LBFGS, _examples(3, 0), _examples(3, 1), 3)
    head.save(tmp_path / "a.h5")
    head.save(tmp_path / "b.h5")
    loaded = Head.load(tmp_path / "a.h5")
    np.testing.assert_array_equal(loaded.layers[0][0], head.layers[0][0])
    np.testing.assert_array_equal(loaded.layers[0][1], head.layers[0][1])
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_softmax_survives_huge_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0]], np.float32)), [[1, 0]])
