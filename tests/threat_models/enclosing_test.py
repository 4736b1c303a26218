import numpy as np
import pytest

import keras_robust as kr
from keras_robust.threat_models.enclosing import enclosing

X = np.random.default_rng(0).uniform(-1.0, 1.0, size=(200, 2, 3)).astype("float32")
ORDERS = {"Linf": np.inf, "L2": 2, "L1": 1}


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("epsilon", [1e-4, 0.3])
def test_the_radius_is_twice_what_rounding_may_add(norm, epsilon):
    radius, bounds = enclosing(getattr(kr, norm)(epsilon, None), X)
    sizes = np.linalg.norm(X.reshape(200, 6).astype("float64"), ORDERS[norm], axis=-1)
    assert bounds is None
    # In float32 0.3 is larger by 1.2e-8.
    expected = np.float32(epsilon) * (1.0 + 2e-5) + 2.0**-21 * sizes.max()
    assert radius == pytest.approx(expected, rel=1e-7, abs=0.0)


@pytest.mark.parametrize("norm", ORDERS)
def test_every_point_that_counts_as_feasible_is_inside(norm):
    ball = getattr(kr, norm)(0.3, (-1.0, 1.0))
    radius, (low, high) = enclosing(ball, X)
    rng = np.random.default_rng(1)
    accepted = 0
    for scale in np.linspace(1.0 - 1e-5, 1.0 + 3e-5, 200):
        delta = rng.normal(size=X.shape).astype("float32")
        if norm == "Linf":
            delta = np.sign(delta)
        length = np.linalg.norm(delta.reshape(200, 6), ORDERS[norm], axis=-1)
        points = X + (0.3 * scale * delta / length[:, None, None]).astype("float32")
        points = np.clip(points, -1.0 - 3e-5, 1.0 + 3e-5)
        points = points[held := np.array(ball.contains(points, X))]
        accepted += held.sum()
        moved = points.astype("float64") - X[held]
        moved = np.linalg.norm(moved.reshape(len(moved), 6), ORDERS[norm], axis=-1)
        assert np.all(moved <= radius) and np.all((low <= points) & (points <= high))
    assert 1000 < accepted < 39_000


def test_the_box_grows_by_twice_its_slack():
    radius, (low, high) = enclosing(kr.Linf(0.25, (0.0, 255.0)), np.zeros((1, 2), "float32"))
    assert radius == pytest.approx(0.25 * (1.0 + 2e-5), rel=1e-12)
    slack = 2.0 * 255.0 * (1e-5 + 2.0**-20)
    np.testing.assert_allclose([low, high - 255.0], [-slack, slack], rtol=2e-3)
    assert isinstance(low, float)
    ends = np.array([[0.0, 1.0], [1.0, 1.0]], "float32")
    _, (low, high) = enclosing(kr.Linf(0.25, tuple(ends)), np.ones((1, 2), "float32"))
    assert np.all(low < ends[0]) and np.all(high > ends[1])
    np.testing.assert_allclose([low, high], ends, atol=3e-5)
    _, (low, high) = enclosing(kr.L2(0.25, (0.0, np.inf)), np.ones((1, 2), "float32"))
    assert low <= 0.0 and high == np.inf
