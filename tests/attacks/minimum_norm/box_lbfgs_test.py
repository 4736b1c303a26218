import keras
import numpy as np
import pytest
from scipy import optimize

import keras_robust as kr
from keras_robust.attacks.minimum_norm.box_lbfgs import minimise
from tests.support import backends
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import tiers

_RNG = np.random.default_rng(17)
NOTHING_DONE = keras.ops.zeros(5, "bool")
# One quadratic per example, with very different curvatures. For some coordinates the minimum lies
# outside of the box.
_FACTORS = _RNG.normal(size=(5, 6, 6))
HESSIANS = np.einsum("nij,nkj->nik", _FACTORS, _FACTORS) + 0.1 * np.eye(6)
HESSIANS *= np.array([0.01, 1.0, 10.0, 100.0, 1.0])[:, None, None]
CENTRES = _RNG.uniform(-0.5, 1.5, size=(5, 6))


def quadratic(x):
    delta = x - keras.ops.convert_to_tensor(CENTRES, x.dtype)
    gradient = keras.ops.einsum("nij,nj->ni", keras.ops.convert_to_tensor(HESSIANS, x.dtype), delta)
    return 0.5 * keras.ops.sum(delta * gradient, axis=-1), gradient


def best_quadratic(index, low, high):
    hessian, centre = HESSIANS[index], CENTRES[index]
    found = optimize.lsq_linear(
        np.linalg.cholesky(hessian).T,
        np.linalg.cholesky(hessian).T @ centre,
        (low, high),
        tol=1e-14,
    )
    return found.x


@tiers.parametrize("bounds", [(0.0, 1.0), (-0.2, 0.7), (-np.inf, np.inf)])
def test_finds_the_minimum_of_quadratics_in_a_box(bounds):
    x = np.full((5, 6), 0.3, "float32")
    found = minimise(
        quadratic, keras.ops.convert_to_tensor(x), *bounds, num_steps=200, done=NOTHING_DONE
    )[0]
    expected = np.stack([best_quadratic(i, *bounds) for i in range(5)])
    assert np.isinf(bounds[0]) or np.any(
        (expected < bounds[0] + 1e-9) | (expected > bounds[1] - 1e-9)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_bounds_for_each_coordinate():
    low, high = (
        np.linspace(-0.1, 0.1, 6, dtype="float32"),
        np.linspace(0.3, 1.0, 6, dtype="float32"),
    )
    x = np.full((5, 6), 0.2, "float32")
    found = minimise(
        quadratic, keras.ops.convert_to_tensor(x), low, high, num_steps=200, done=NOTHING_DONE
    )[0]
    expected = np.stack([best_quadratic(i, low, high) for i in range(5)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.exhaustive
def test_agrees_with_scipy_on_the_problem_of_the_attack():
    x, y = numpy_reference.examples(8)
    targets = (y + 1) % 3

    def objective(point, i):
        z = numpy_reference.logits(point[None])
        loss = np.log(np.exp(z - z[0, targets[i]]).sum())
        gradient = numpy_reference.gradient(point[None], targets[i : i + 1])[0]
        return loss + np.sum((point - x[i]) ** 2), gradient + 2.0 * (point - x[i])

    network, clean = numpy_reference.keras_model(), keras.ops.convert_to_tensor(x)

    def function(point):
        def compute(point):
            losses = kr.losses.cross_entropy(targets, network(point))
            return losses + keras.ops.sum((point - clean) ** 2, axis=-1)

        return gradients.of(compute, point)

    found = minimise(function, clean, 0.0, 1.0, num_steps=100, done=keras.ops.zeros(8, "bool"))[0]
    for i, point in enumerate(np.asarray(found, "float64")):
        start = x[i].astype("float64")
        arguments = {"jac": True, "method": "L-BFGS-B", "bounds": [(0.0, 1.0)] * 6}
        best = optimize.minimize(objective, start, (i,), options={"ftol": 1e-14}, **arguments)
        assert objective(point, i)[0] == pytest.approx(best.fun, rel=1e-5)
        np.testing.assert_allclose(point, best.x, rtol=0, atol=2e-3)


def test_is_a_quasi_newton_method():
    # Steepest descent needs hundreds of steps in a valley of condition number 1000.
    scales = keras.ops.convert_to_tensor([[1.0, 1000.0]])

    def valley(x):
        return 0.5 * keras.ops.sum(scales * x**2, axis=-1), scales * x

    x = keras.ops.convert_to_tensor([[3.0, 1.0]])
    found = minimise(valley, x, -10.0, 10.0, num_steps=25, done=keras.ops.zeros(1, "bool"))[0]
    np.testing.assert_allclose(found, [[0.0, 0.0]], rtol=0, atol=1e-4)


@pytest.mark.exhaustive
def test_curved_valley():
    def rosenbrock(x):

        def compute(x):
            return (1.0 - x[:, 0]) ** 2 + 100.0 * (x[:, 1] - x[:, 0] ** 2) ** 2

        value, slopes = gradients.of(compute, x)
        return value, slopes

    x = keras.ops.convert_to_tensor([[-1.2, 1.0], [-1.2, 1.0]])
    done = keras.ops.zeros(2, "bool")
    found = minimise(rosenbrock, x, -2.0, 2.0, num_steps=100, done=done)[0]
    np.testing.assert_allclose(found, np.ones((2, 2)), rtol=0, atol=1e-2)
    # In the box x <= 0.5 the minimum lies where its face meets the parabola.
    found = minimise(rosenbrock, x, -2.0, 0.5, num_steps=100, done=done)[0]
    np.testing.assert_allclose(found, [[0.5, 0.25]] * 2, rtol=0, atol=1e-2)


@pytest.mark.exhaustive
def test_examples_do_not_mix_and_those_that_are_done_stay():
    x = keras.ops.convert_to_tensor(_RNG.uniform(size=(5, 6)), "float32")
    together = minimise(quadratic, x, 0.0, 1.0, num_steps=30, done=NOTHING_DONE)[0]
    done = keras.ops.convert_to_tensor([True, False, True, False, False])
    some = np.asarray(minimise(quadratic, x, 0.0, 1.0, num_steps=30, done=done)[0])
    np.testing.assert_array_equal(some[[0, 2]], np.asarray(x)[[0, 2]])
    np.testing.assert_allclose(some[[1, 3, 4]], np.asarray(together)[[1, 3, 4]], atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_num_steps_bounds_the_calls(num_steps):
    calls = []

    def counted(x):
        calls.append(1)
        return quadratic(x)

    x = keras.ops.convert_to_tensor(_RNG.uniform(size=(5, 6)), "float32")
    with backends.eager_loops():
        minimise(counted, x, 0.0, 1.0, num_steps=num_steps, done=NOTHING_DONE)
    assert len(calls) == num_steps + 1


@pytest.mark.exhaustive
def test_stops_by_itself():
    calls = []

    def counted(x):
        calls.append(1)
        return quadratic(x)

    with backends.eager_loops():
        minimise(counted, keras.ops.zeros((5, 6)), 0.0, 1.0, num_steps=10000, done=NOTHING_DONE)
    assert len(calls) < 150


@pytest.mark.exhaustive
def test_a_value_that_is_not_a_number_makes_the_step_shorter():
    def walled(x):
        value = keras.ops.where(x > 0.5, np.nan, -x)[:, 0]
        return value, keras.ops.where(x > 0.5, np.nan, -keras.ops.ones_like(x))

    x = keras.ops.convert_to_tensor([[0.0]])
    found = minimise(walled, x, 0.0, 1.0, num_steps=50, done=keras.ops.zeros(1, "bool"))[0]
    assert 0.3 < float(found[0, 0]) <= 0.5


def test_a_zero_gradient_moves_nothing():
    def flat(x):
        return keras.ops.zeros(2), keras.ops.zeros_like(x)

    x = keras.ops.convert_to_tensor([[[0.3], [0.2]], [[0.1], [0.9]]])
    found = minimise(flat, x, 0.0, 1.0, num_steps=50, done=keras.ops.zeros(2, "bool"))[0]
    np.testing.assert_array_equal(found, x)


@pytest.mark.exhaustive
@backends.with_and_without_xla
def test_a_compiled_function_returns_the_same(jit_compile):
    x = keras.ops.convert_to_tensor(_RNG.uniform(size=(5, 6)), "float32")
    expected = minimise(quadratic, x, 0.0, 1.0, num_steps=20, done=NOTHING_DONE)[0]

    def run(x):
        return minimise(quadratic, x, 0.0, 1.0, num_steps=20, done=NOTHING_DONE)[0]

    compiled = backends.traced(run, jit_compile)
    np.testing.assert_allclose(compiled(x), expected, rtol=0, atol=1e-3)
