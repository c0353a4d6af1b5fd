"""The nearest neighbours by features."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from thaw.audit import neighbours


@pytest.mark.parametrize("width", [8, 300])
def test_they_are_scikit_learn_s(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 17)  # several blocks, and one that is not full
    x = np.random.default_rng(0).normal(size=(100, width)).astype(np.float32)
    found = neighbours.nearest(x)
    centred = x - x.mean(axis=0)
    if width > neighbours.DIRECTIONS:  # 100 pictures have 99 directions: nothing is lost
        assert np.linalg.matrix_rank(centred) < neighbours.DIRECTIONS
    distances, rows = (
        NearestNeighbors(n_neighbors=neighbours.NEAREST + 1, metric="cosine").fit(centred).kneighbors(centred)
    )
    np.testing.assert_array_equal(found.rows, rows[:, 1:])
    np.testing.assert_allclose(found.similarity, 1 - distances[:, 1:], atol=1e-5)


def test_of_few_pictures_there_are_fewer_neighbours_and_none_is_its_own() -> None:
    found = neighbours.nearest(np.eye(4, dtype=np.float32))
    assert found.rows.shape == (4, 3)
    assert all(row not in rows for row, rows in enumerate(found.rows.tolist()))


def test_features_that_are_all_the_same_are_no_trouble() -> None:
    assert np.isfinite(neighbours.nearest(np.ones((5, 3), np.float32)).similarity).all()
