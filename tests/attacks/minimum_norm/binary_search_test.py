import numpy as np
import pytest
from keras import ops

from keras_robust.attacks.minimum_norm import binary_search
from tests.support import backends


@pytest.fixture(autouse=True)
def _eager_loops():
    with backends.eager_loops():
        yield


X = np.array([[1.0], [2.0], [3.0], [4.0]], "float32")


def run(thresholds, tries, done=(False,) * 4):
    """Returns trials that hit where the weight is above a threshold, with the weight as size."""
    weights = []

    def attempt(search):
        weights.append(ops.convert_to_numpy(search.weight))
        point = X + ops.reshape(search.weight, (-1, 1))
        hits = search.weight >= np.array(thresholds, "float32")
        return binary_search.WeightTrial(point, search.weight, hits, ops.ones(4, dtype="int32"))

    last = binary_search.smallest(
        attempt, X, 0.01, done=np.array(done), ends=lambda search: search.tries >= tries
    )
    return np.stack(weights, axis=-1), last


def expected(threshold, tries):
    """Returns the weights that are tried for one example."""
    weight, low, high, tried = 0.01, 0.0, np.inf, []
    for _ in range(tries):
        tried.append(weight)
        if weight >= threshold:
            high = weight
        else:
            low = weight
        weight = 0.5 * (low + high) if high < np.inf else 10.0 * weight
    return tried


def test_grows_tenfold_then_bisects():
    thresholds = [0.001, 0.3, 40.0, np.inf]
    weights, last = run(thresholds, tries=9)
    for row, threshold in zip(weights, thresholds, strict=True):
        np.testing.assert_allclose(row, expected(threshold, 9), rtol=1e-6)
    hits = [min((w for w in expected(t, 9) if w >= t), default=np.inf) for t in thresholds]
    np.testing.assert_allclose(last.size, hits, rtol=1e-6)
    np.testing.assert_allclose(last.x_adv[:3, 0], X[:3, 0] + hits[:3], rtol=1e-6)
    assert last.x_adv[3, 0] == 4.0
    assert np.asarray(last.tries).tolist() == np.asarray(last.queries).tolist() == [9] * 4
    # The first weights that were large enough are the initial one, 1 and 100.
    assert np.asarray(last.halvings).tolist() == [8, 6, 4, 0]


def test_examples_that_are_done_are_unchanged():
    weights, last = run([0.001] * 4, tries=2, done=(True, False, True, False))
    assert weights.shape == (4, 2)
    assert np.asarray(last.queries).tolist() == [0, 2, 0, 2]
    np.testing.assert_array_equal(last.x_adv[::2], X[::2])
    assert np.isinf(last.size[::2]).all() and np.isfinite(last.size[1::2]).all()
    last = binary_search.smallest(None, X, 0.01, done=np.ones(4, "bool"), ends=None)
    np.testing.assert_array_equal(last.x_adv, X)


def test_every_example_ends_separately():
    def attempt(search):
        hits = search.weight >= np.array([0.001, 0.5, 50.0, np.inf], "float32")
        return binary_search.WeightTrial(X, search.weight, hits, ops.ones(4, dtype="int32"))

    last = binary_search.smallest(
        attempt,
        X,
        0.01,
        done=np.zeros(4, "bool"),
        ends=lambda search: (search.halvings >= 2) | (search.weight > 500.0),
    )
    assert np.asarray(last.queries).tolist() == [3, 5, 7, 5]


def test_the_smallest_perturbation_counts_not_the_last():
    sizes = iter([5.0, 2.0, 3.0])

    def attempt(search):
        size = next(sizes) * np.ones(4, "float32")
        return binary_search.WeightTrial(X * size[:1], size, size > 0.0, ops.ones(4, dtype="int32"))

    last = binary_search.smallest(
        attempt, X, 0.01, done=np.zeros(4, "bool"), ends=lambda search: search.tries >= 3
    )
    np.testing.assert_array_equal(last.size, [2.0] * 4)
    np.testing.assert_array_equal(last.x_adv, 2.0 * X)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1, 2)])
def test_squared_length(shape):
    delta = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected = np.sum(delta.astype("float64").reshape(2, -1) ** 2, axis=-1)
    np.testing.assert_allclose(binary_search.squared_length(delta), expected, rtol=1e-6)
