import keras
import numpy as np
import pytest
from scipy import stats

import keras_robust as kr
from tests.support import backends
from tests.support import numpy_reference

L2 = kr.threat_models.L2


def test_projection_by_hand():
    # delta = (.6, .6) has length .849. The box stops the second coordinate at .3, so that the first
    # may use sqrt(.5^2 - .3^2) = .4. Scaling and then clipping would give sqrt(.125) = .354.
    x, x_adv = np.array([[0.3, 0.7]], "float32"), np.array([[0.9, 1.3]], "float32")
    np.testing.assert_allclose(L2(0.5).project(x_adv, x), [[0.7, 1.0]], atol=1e-6)
    half = np.sqrt(0.125)
    np.testing.assert_allclose(
        L2(0.5, None).project(x_adv, x), [[0.3 + half, 0.7 + half]], atol=1e-6
    )


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_projection_agrees_with_a_general_solver(bounds):
    rng = np.random.default_rng(8)
    x = rng.beta(0.5, 0.5, size=(6, 5)).astype("float32")
    x_adv = (x + rng.normal(size=x.shape)).astype("float32")
    found = L2(0.6, bounds).project(x_adv, x)
    expected = [
        numpy_reference.project_by_solver(*pair, "L2", 0.6, bounds)
        for pair in zip(x_adv.astype("float64"), x.astype("float64"), strict=True)
    ]
    # The solver has a tolerance of 1e-5.
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=2e-5)


def test_projection_with_every_coordinate_stopped_by_the_box():
    x, x_adv = np.array([[0.9, 0.1]], "float32"), np.array([[5.0, -7.0]], "float32")
    np.testing.assert_array_equal(L2(0.5).project(x_adv, x), [[1.0, 0.0]])


def test_projection_of_far_points():
    # delta = 1e4 * (1, 2, 2) / 3 with radius .3 gives (.1, .2, .2) without a box. The box leaves
    # .05 to the last coordinate, so that the others share sqrt(.09 - .0025) in the ratio 1 : 2.
    x = np.array([[0.5, 0.5, 0.95]], "float32")
    x_adv = x + np.float32(1e4) * np.array([[1.0, 2.0, 2.0]], "float32") / 3
    one = np.sqrt((0.09 - 0.0025) / 5)
    np.testing.assert_allclose(
        L2(0.3).project(x_adv, x), [[0.5 + one, 0.5 + 2 * one, 1.0]], rtol=0, atol=1e-6
    )


def test_step_with_a_step_size_for_each_example():
    x, gradient = np.zeros((2, 2), "float32"), np.array([[3.0, 4.0], [0.0, -2.0]], "float32")
    moved = L2(0.5, None).step(x, gradient, np.array([0.5, 0.1], "float32"))
    np.testing.assert_allclose(moved, [[0.3, 0.4], [0.0, -0.1]], atol=1e-6)


def test_random_start_is_uniform():
    # In d = 6 dimensions (r / eps)^d is uniform, E[r^2] = eps^2 d / (d + 2), all signs alike.
    x = np.zeros((40000, 2, 3), "float32")
    start = np.asarray(L2(0.3, None).random_start(x, keras.ops.convert_to_tensor([5, 6]))).reshape(
        40000, 6
    )
    length = np.linalg.norm(start, axis=-1)
    assert stats.kstest((length / 0.3) ** 6, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(np.mean(length**2), 0.3**2 * 6 / 8, rtol=0.01)
    np.testing.assert_allclose(start.mean(axis=0), 0.0, atol=5 * 0.3 / np.sqrt(8 * 40000))
    np.testing.assert_allclose(np.cov(start.T), np.eye(6) * 0.3**2 / 8, atol=0.3**2 / 8 * 0.04)


def test_one_radius_for_all_rows_of_a_compiled_linear_maximiser():
    ball, x = kr.L2(0.5, bounds=(0, 1)), np.full((1, 3), 0.9, "float32")
    directions = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [3.0, -4.0, 0.0]], "float32")
    one_by_one = [ball.linear_maximization_oracle(row[None], x) for row in directions]
    found = backends.traced(lambda rows: ball.linear_maximization_oracle(rows, x))(directions)
    np.testing.assert_allclose(found, np.concatenate(one_by_one), atol=1e-6)
    np.testing.assert_allclose(found[:2], [[1.0, 0.9, 0.9], [0.4, 0.9, 0.9]], atol=1e-6)
