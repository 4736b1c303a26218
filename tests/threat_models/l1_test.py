import keras
import numpy as np
import pytest
from scipy import optimize
from scipy import stats

import keras_robust as kr
from tests.support import numpy_reference

L1 = kr.threat_models.L1


def test_projection_by_hand():
    # delta = (.4, .4) and radius .5. Without a box both coordinates shrink by .15. In the box the
    # second one has room for .1 only, and the first need not shrink: .4 + .1 = .5.
    x, x_adv = np.array([[0.3, 0.9]], "float32"), np.array([[0.7, 1.3]], "float32")
    np.testing.assert_allclose(L1(0.5, None).project(x_adv, x), [[0.55, 1.15]], atol=1e-6)
    np.testing.assert_allclose(L1(0.5).project(x_adv, x), [[0.7, 1.0]], atol=1e-6)


def test_projection_is_sparse():
    # delta = (1, -.2, .1) and radius .5. Shrinking by .5 leaves only the first coordinate nonzero.
    x, x_adv = np.zeros((1, 3), "float32"), np.array([[1.0, -0.2, 0.1]], "float32")
    np.testing.assert_allclose(L1(0.5, None).project(x_adv, x), [[0.5, 0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_projection_agrees_with_a_general_solver(bounds):
    rng = np.random.default_rng(8)
    x = rng.beta(0.5, 0.5, size=(6, 5)).astype("float32")
    x_adv = (x + rng.normal(size=x.shape)).astype("float32")
    found = L1(0.9, bounds).project(x_adv, x)
    expected = [
        numpy_reference.project_by_solver(*pair, "L1", 0.9, bounds)
        for pair in zip(x_adv.astype("float64"), x.astype("float64"), strict=True)
    ]
    # The solver has a tolerance of 1e-5.
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=2e-5)


def test_projection_of_far_points():
    # Shrinking 1e4 and 1e4 - .25 to a sum of .75 leaves .5 and .25, exact in float32 up to the
    # spacing of 1e4, which is 1e-3.
    x, x_adv = np.zeros((1, 2), "float32"), np.array([[1e4, 1e4 - 0.25]], "float32")
    found = L1(0.75, None).project(x_adv, x)
    np.testing.assert_allclose(found, [[0.5, 0.25]], rtol=0, atol=2e-3)
    assert float(L1(0.75).distance(found, x)[0]) <= 0.75 + 1e-6


def test_steepest_direction_is_the_largest_coordinate():
    gradient = np.array([[[1.0], [-3.0]], [[0.5], [0.1]]], "float32")
    direction = L1().steepest_direction(gradient)
    np.testing.assert_array_equal(direction, [[[0.0], [-1.0]], [[1.0], [0.0]]])


def test_step_fills_the_coordinates_in_the_order_of_their_gradients():
    # The order is 1st (room .1), 2nd (room .5 downwards), 3rd. A step of .5 uses .1 in the first
    # coordinate. This one reaches its bound, so that it is pushed beyond it by the whole step. .4
    # are used in the second and nothing in the third.
    x = np.array([[0.9, 0.5, 0.5]], "float32")
    gradient = np.array([[3.0, -2.0, 1.0]], "float32")
    moved = L1(0.5).step(x, gradient, 0.5)
    np.testing.assert_allclose(moved, [[1.4, 0.1, 0.5]], atol=1e-6)
    np.testing.assert_allclose(L1(0.5).project(moved, x), [[1.0, 0.1, 0.5]], atol=1e-6)
    np.testing.assert_allclose(L1(0.5, None).step(x, gradient, 0.5), [[1.4, 0.5, 0.5]], atol=1e-6)


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_step_is_the_float64_step(bounds):
    rng = np.random.default_rng(9)
    x = rng.beta(0.5, 0.5, size=(6, 5)).astype("float32")
    gradient = rng.normal(size=x.shape).astype("float32")
    expected = numpy_reference.step(x.astype("float64"), gradient, "L1", 0.7, bounds)
    np.testing.assert_allclose(L1(0.9, bounds).step(x, gradient, 0.7), expected, atol=1e-6)


def test_step_with_a_step_size_for_each_example():
    x, gradient = np.zeros((2, 2), "float32"), np.array([[3.0, 4.0], [-2.0, 0.0]], "float32")
    moved = L1(0.5, None).step(x, gradient, np.array([0.5, 0.1], "float32"))
    np.testing.assert_allclose(moved, [[0.0, 0.5], [-0.1, 0.0]], atol=1e-6)


def test_linear_maximiser_agrees_with_a_linear_program():
    # With x_adv = x + up - down, maximize d @ (up - down) with sum(up + down) <= radius.
    rng = np.random.default_rng(4)
    low, high = np.array([-0.5, 0.0, 0.2, 0.0]), np.array([0.5, 1.0, 0.9, 0.7])
    x = low + (high - low) * rng.beta(0.5, 0.5, size=(5, 4))
    direction = rng.normal(size=x.shape)
    found = L1(0.8, (low, high)).linear_maximization_oracle(
        direction.astype("float32"), x.astype("float32")
    )
    for one, d, best in zip(x, direction, found, strict=True):
        room = [(0.0, size) for size in np.concatenate([high - one, one - low])]
        program = {"A_ub": np.ones((1, 8)), "b_ub": [0.8], "bounds": room}
        expected = -optimize.linprog(np.concatenate([-d, d]), **program).fun
        assert d @ (np.asarray(best, "float64") - one) == pytest.approx(expected, abs=1e-6)


def test_random_start_is_uniform():
    # In d = 6 dimensions (sum |delta| / eps)^d is uniform with mean sum eps d / (d + 1), and the
    # coordinates are alike: E|delta_i| = eps / (d + 1), E[delta_i^2] = 2 eps^2 / ((d + 1) (d + 2)).
    x = np.zeros((40000, 2, 3), "float32")
    start = np.asarray(L1(0.3, None).random_start(x, keras.ops.convert_to_tensor([5, 6]))).reshape(
        40000, 6
    )
    total = np.abs(start).sum(axis=-1)
    assert stats.kstest((total / 0.3) ** 6, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(total.mean(), 0.3 * 6 / 7, rtol=0.01)
    np.testing.assert_allclose(np.abs(start).mean(axis=0), 0.3 / 7, rtol=0.03)
    variance = 2 * 0.3**2 / (7 * 8)
    np.testing.assert_allclose(start.mean(axis=0), 0.0, atol=5 * np.sqrt(variance / 40000))
    # The fourth moment is large, so that 40000 samples give the variance to about 1 %.
    np.testing.assert_allclose(np.cov(start.T), np.eye(6) * variance, atol=0.06 * variance)
