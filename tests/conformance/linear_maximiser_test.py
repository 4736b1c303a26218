"""The best feasible point of a linear function, for every ball."""

import numpy as np
import pytest

import keras_robust as kr
from tests.support import balls
from tests.support import linear_model

NORMS = (kr.L1, kr.L2, kr.Linf)


@pytest.mark.parametrize("bounds", balls.BOUNDS)
@pytest.mark.parametrize("cls", NORMS)
@pytest.mark.parametrize("share", [1.0, 0.1, 20.0])
def test_linear_maximiser_is_the_best_of_the_feasible_points(cls, bounds, share):
    name, box = cls.__name__, balls.BOUNDS[bounds]
    epsilon = 0.15 * share if name == "Linf" else balls.EPSILON[name] * share
    x, _ = balls.points(box)
    direction = np.random.default_rng(13).normal(size=x.shape).astype("float32") ** 3
    threat_model = cls(0.1, box).with_epsilon(epsilon)
    found = threat_model.linear_maximization_oracle(direction, x)
    low, high = (-np.inf, np.inf) if box is None else balls.row_bounds(box)
    expected = linear_model.largest_gain(
        balls.rows(direction), balls.rows(x), name, epsilon, low, high
    )
    gained = np.sum(balls.rows(direction) * (balls.rows(found) - balls.rows(x)), axis=-1)
    # What float32 rounds off `x` is up to 6e-8 for each of six coordinates.
    np.testing.assert_allclose(gained, expected, rtol=1e-5, atol=1e-6)
    assert np.all(threat_model.contains(found, x))


@pytest.mark.parametrize("cls", NORMS)
def test_linear_maximiser_has_a_radius_for_each_example(cls):
    x, direction = balls.points((0.0, 1.0), count=3)
    epsilon = np.array([0.05, 0.0, 0.2], "float32").reshape(-1, 1, 1, 1)
    together = cls(epsilon).linear_maximization_oracle(direction, x)
    for i in range(3):
        alone = cls(float(epsilon[i, 0, 0, 0]))
        balls.rows = slice(i, i + 1)
        expected = alone.linear_maximization_oracle(direction[balls.rows], x[balls.rows])[0]
        np.testing.assert_allclose(together[i], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("cls", NORMS)
def test_linear_maximiser_takes_any_length_of_the_direction(cls, scale):
    x, direction = balls.points((0.0, 1.0))
    found = cls(0.1).linear_maximization_oracle(np.float32(scale) * direction, x)
    expected = cls(0.1).linear_maximization_oracle(direction, x) if scale else x
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
