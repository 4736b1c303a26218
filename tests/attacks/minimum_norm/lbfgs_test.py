import keras
import numpy as np
import pytest
from scipy import optimize
from scipy import special

import keras_robust as kr
from tests.support import backends
from tests.support import linear_fit
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

LBFGS = kr.attacks.LBFGS
_RNG = np.random.default_rng(23)
KERNEL = _RNG.normal(size=(5, 4)).astype("float32")
BIAS = np.array([0.1, 0.0, -0.2, 0.3], "float32")
FAR = kr.L2(10.0)


def linear(x):
    return keras.ops.matmul(x, KERNEL) + BIAS


def logits(x):
    return np.asarray(x, "float64") @ KERNEL + BIAS


def examples(count=10):
    x = _RNG.beta(0.6, 0.6, size=(count, 5)).astype("float32")
    return x, np.argmax(logits(x), axis=-1)


def solve(x, target, weight):
    """Returns the minimum of `weight CE + ||r||^2` in the unit box, unique by convexity."""

    def objective(point):
        z, delta = logits(point), point - x
        gradient = weight * KERNEL @ (special.softmax(z) - np.eye(4)[target]) + 2.0 * delta
        return weight * (special.logsumexp(z) - z[target]) + delta @ delta, gradient

    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
    bounds = [(0.0, 1.0)] * 5
    start = x.astype("float64")
    return optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    ).x


def reference(x, y, target, initial_weight=1e-2, search_steps=5):
    """Returns the search for `c` in NumPy, for one example; `None` if no `c` is large enough."""
    weight, failed, worked, best, halvings = initial_weight, 0.0, np.inf, None, 0
    while halvings < search_steps and weight <= 1e6:
        halvings += np.isfinite(worked)
        point = solve(x, target, weight)
        if np.argmax(logits(point)) != y:
            worked, best = weight, point
        else:
            failed = weight
        weight = 0.5 * (failed + worked) if np.isfinite(worked) else 10.0 * weight
    return best


def runner_up(x, y):
    return np.argmax(np.where(np.eye(4)[y] > 0, -np.inf, logits(x)), axis=-1)


@pytest.mark.usefixtures("search_alone")
@tiers.parametrize(
    "arguments", [{}, {"search_steps": 2}, {"initial_weight": 0.7}, {"targeted": "least_likely"}]
)
def test_is_the_search_of_the_paper(arguments):
    x, y = examples()
    targets = runner_up(x, y) if "targeted" not in arguments else np.argmin(logits(x), axis=-1)
    found = LBFGS(**arguments).run(linear, x, y, FAR)
    settings = {name: value for name, value in arguments.items() if name != "targeted"}
    expected = [reference(*row, **settings) for row in zip(x, y, targets, strict=True)]
    np.testing.assert_allclose(found.x_adv, np.stack(expected), rtol=0, atol=2e-3)
    assert found.success.all()
    np.testing.assert_array_equal(np.argmax(logits(found.x_adv), axis=-1) != y, True)


@pytest.mark.exhaustive
def test_targeted_leads_to_the_label():
    x, y = examples()
    targets = (y + 1) % 4
    found = LBFGS(targeted=True).run(linear, x, targets, FAR)
    assert found.success.mean() > 0.7
    np.testing.assert_array_equal(np.argmax(logits(found.x_adv), axis=-1) == targets, found.success)
    with pytest.raises(ValueError, match="A targeted attack needs target labels"):
        LBFGS(targeted=True)(linear, x, None, FAR)


@tiers.parametrize("bounds", [(0.0, 1.0), None])
def test_finds_the_distance_to_the_boundary_of_a_linear_model(bounds):
    x, y = linear_model.examples()
    found = LBFGS(search_steps=20).run(linear_model.logits, x, y, kr.L2(10.0, bounds))
    assert found.success.all()
    reached = np.linalg.norm((found.x_adv - x).reshape(len(x), -1), axis=-1)
    for i in range(len(x)):
        one = x[i : i + 1]

        def gap(radius, one=one, i=i):
            best = linear_model.best(one, y[i : i + 1], "L2", radius, bounds)
            return linear_model.margin(best, y[i : i + 1])[0]

        assert reached[i] == pytest.approx(optimize.brentq(gap, 1e-4, 5.0), rel=2e-3)


@pytest.mark.exhaustive
def test_large_perturbations_are_projected_onto_the_ball():
    x, y = linear_model.examples()
    far = LBFGS().run(linear_model.logits, x, y, kr.L2(10.0))
    delta = (far.x_adv - x).reshape(len(x), -1)
    distance = np.linalg.norm(delta, axis=-1)
    epsilon = np.median(distance) * 0.98
    near = LBFGS().run(linear_model.logits, x, y, kr.L2(epsilon))
    expected = delta * np.minimum(1.0, epsilon / distance)[:, None]
    np.testing.assert_allclose((near.x_adv - x).reshape(len(x), -1), expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(near.success, distance <= epsilon)
    assert 0 < near.success.sum() < len(x)
    largest = LBFGS().run(linear_model.logits, x, y, kr.Linf(0.05))
    # The way back under Linf clips what the search found, and under L2 it shortens it.
    found = (largest.x_adv - x).reshape(len(x), -1)
    lengths = np.max(np.where(np.abs(found) < 0.0499, found / delta, 1.0), axis=-1)
    assert np.all(lengths >= 1.0) and np.all(lengths < 1.2) and np.abs(found).max() < 0.050001
    expected = np.clip(lengths[:, None] * delta, -0.05, 0.05)
    # Where a bound of the box is met, the two ways differ.
    assert np.sum(np.abs(found - expected) < 1e-5) >= found.size - 2


@pytest.mark.exhaustive
def test_examples_that_no_weight_breaks_are_unchanged():
    def stubborn(x):
        # The second class is not predicted anywhere in the unit box.
        return keras.ops.stack([x[:, 0] + 2.0, x[:, 1]], axis=-1)

    x = np.array([[0.5, 0.5], [0.1, 0.9]], "float32")
    found = LBFGS().run(stubborn, x, np.array([0, 0]), FAR)
    np.testing.assert_array_equal(found.x_adv, x)
    assert not found.success.any() and not found.zero_gradient.any()


@pytest.mark.exhaustive
def test_a_zero_gradient_is_reported():
    def has_zero_gradient(x):
        flat = keras.ops.stack([x[:, 0] + 1.0, x[:, 1]], axis=-1)
        return flat * keras.ops.cast([[1.0], [0.0]], "float32")

    x = np.array([[0.5, 0.5], [0.1, 0.9]], "float32")
    found = LBFGS().run(has_zero_gradient, x, np.array([0, 0]), FAR)
    np.testing.assert_array_equal(found.zero_gradient, [False, True])


@pytest.mark.exhaustive
def test_an_example_does_not_depend_on_the_rest_of_the_batch():
    x, y = numpy_reference.examples(4)
    model = numpy_reference.keras_model()
    together = LBFGS().run(model, x, y, FAR)
    for i in range(4):
        alone = LBFGS().run(model, x[i : i + 1], y[i : i + 1], FAR)
        np.testing.assert_allclose(alone.x_adv[0], together.x_adv[i], rtol=0, atol=1e-3)


@pytest.mark.exhaustive
@backends.with_and_without_xla
def test_trains_as_the_inner_search_of_a_mixed_objective(jit_compile):
    x, y = linear_fit.data(8)
    model = linear_fit.make_model(jit_compile=jit_compile)
    before = linear_fit.initial_weights()
    x_adv = LBFGS()(lambda x: keras.ops.matmul(x, before), x, y, kr.Linf(0.1))
    robust = linear_fit.adv_train(attack="lbfgs", objective="mixed")
    history = linear_fit.fit(model, robust, x, y)
    gradient = 0.0
    for inputs in (x, x_adv):
        error = linear_fit.softmax(inputs @ before) - np.eye(linear_fit.NUM_CLASSES)[y]
        gradient = gradient + 0.5 * inputs.T @ error / len(x)
    expected = before - linear_fit.LEARNING_RATE * gradient
    np.testing.assert_allclose(linear_fit.weights(model), expected, rtol=0, atol=1e-4)
    accuracy = np.mean(np.argmax(x_adv @ before, axis=-1) == y)
    assert history.history["adv_accuracy"] == [pytest.approx(accuracy)]


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"initial_weight": 0.0}, "`initial_weight` must be a number > 0. Received: 0.0"),
        ({"initial_weight": "1"}, "`initial_weight` must be a number > 0. Received: '1'"),
        ({"initial_weight": float("inf")}, "`initial_weight` must be a number > 0. Received: inf"),
        ({"search_steps": 0}, "`search_steps` must be an int >= 1. Received: 0"),
        ({"num_steps": 2.0}, "`num_steps` must be an int >= 1. Received: 2.0"),
        ({"targeted": "most_likely"}, "`targeted` must be one of .*Received: 'most_likely'"),
    ],
)
def test_wrong_arguments(arguments, message):
    refusals.assert_argument_refused(LBFGS, message, **arguments)
