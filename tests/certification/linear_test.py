import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_model
from tests.support import refusals
from tests.support import tiers

EPSILON = {"Linf": 0.12, "L2": 0.2, "L1": 0.25}
KERNEL = np.array([[1.0, -0.6, 0.3], [-0.4, 1.2, 0.1]], "float32")
BIAS = np.array([0.1, -0.2, 0.25], "float32")
every_norm = tiers.parametrize("norm", EPSILON)


def model(x):
    return keras.ops.matmul(x, KERNEL) + BIAS


def examples(count=40):
    x = np.random.default_rng(3).uniform(size=(count, 2)).astype("float32")
    y = np.argmax(x @ KERNEL + BIAS, axis=-1)
    y[::7] = (y[::7] + 1) % 3
    return x, y


def feasible(x, norm, bounds, steps=201):
    """Returns a fine grid of the intersection of the ball around one point with the box."""
    epsilon = EPSILON[norm]
    side = np.linspace(-epsilon, epsilon, steps)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    order = {"Linf": np.inf, "L2": 2, "L1": 1}[norm]
    points = x + grid[np.linalg.norm(grid, ord=order, axis=-1) <= epsilon + 1e-12]
    return points if bounds is None else np.clip(points, *bounds)


@every_norm
@tiers.parametrize("bounds", [(0.0, 1.0), (0.1, 0.9), None])
def test_margins_match_a_grid_of_all_feasible_inputs(norm, bounds):
    x, y = examples()
    x = x if bounds is None else np.clip(x, *bounds).astype("float32")
    found = kr.certification.exact_linear(model, x, y, getattr(kr, norm)(EPSILON[norm], bounds))
    worst = np.empty(len(x))
    for i, (one, label) in enumerate(zip(x.astype("float64"), y, strict=True)):
        z = feasible(one, norm, bounds) @ KERNEL.astype("float64") + BIAS
        worst[i] = np.max(np.delete(z, label, axis=1) - z[:, [label]])
    # The grid misses the maximum by at most one step, 2 epsilon / 200, times the slopes.
    assert np.all(found.margin >= worst - 1e-6)
    np.testing.assert_allclose(found.margin, worst, rtol=0, atol=0.01 * EPSILON[norm] * 4)
    clear = np.abs(worst) > 0.01
    np.testing.assert_array_equal(found.robust[clear], (worst < 0)[clear])
    assert 0.2 < found.robust.mean() < 0.8
    assert type(found.robust) is np.ndarray and found.robust.dtype == bool
    assert found.margin.dtype == np.float32


@pytest.mark.exhaustive
@every_norm
def test_the_best_attack_reaches_the_exact_robust_accuracy(norm):
    x, y = linear_model.examples(20)
    ball = getattr(kr, norm)(linear_model.EPSILON[norm])
    steps = {"num_steps": 24, "step_size": ball.epsilon * (0.25 if norm == "L1" else 5.0)}
    found = kr.certification.exact_linear(linear_model.keras_model(), x, y, ball)
    x_adv = kr.attacks.PGD(**steps)(linear_model.logits, x, y, ball)
    np.testing.assert_allclose(linear_model.margin(x_adv, y), found.margin, rtol=0, atol=1e-5)
    robust = kr.evaluate(linear_model.logits, (x, y), ball, attacks=kr.attacks.PGD(**steps))
    assert robust.robust_accuracy == found.robust.mean()


def test_a_binary_model_has_the_distance_to_its_hyperplane():
    w, b = np.array([3.0, -4.0]), 0.5
    head = keras.layers.Dense(1, activation="sigmoid")
    network = keras.Sequential([keras.Input((2,)), head])
    head.set_weights([w[:, None], np.array([b])])
    network.compile("sgd", "binary_crossentropy")
    x, _ = examples()
    z = x @ w + b
    y = (z > 0).astype("float32")[:, None]
    found = kr.certification.exact_linear(network, x, y, kr.L2(0.1, None))
    np.testing.assert_allclose(found.margin, 0.1 * 5.0 - np.abs(z), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.robust, np.abs(z) / 5.0 > 0.1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_a_radius_for_each_example_and_any_batch_size(batch_size):
    x, y = examples(10)
    radii = np.linspace(0.0, 0.3, 10)
    ball = kr.L2(radii)
    found = kr.certification.exact_linear(model, x, y, ball, batch_size=batch_size)
    for i in range(10):
        alone = kr.certification.exact_linear(model, x[i : i + 1], y[i : i + 1], kr.L2(radii[i]))
        assert found.margin[i] == pytest.approx(alone.margin[0], abs=1e-6)
        assert found.robust[i] == alone.robust[0]


def test_labels_in_rows():
    x, y = examples()
    expected = kr.certification.exact_linear(model, x, y, "linf")
    found = kr.certification.exact_linear(model, x, np.eye(3)[y], kr.Linf("8/255"))
    np.testing.assert_array_equal(found.margin, expected.margin)


def test_a_tie_is_not_robust():
    x, y = np.array([[0.5, 0.5]], "float32"), np.array([0])
    found = kr.certification.exact_linear(lambda x: x, x, y, kr.Linf(0.0))
    assert found.margin[0] == 0.0 and not found.robust[0]


def test_a_model_that_is_not_affine_is_refused():
    x, y = examples()
    with pytest.raises(ValueError, match="known for models whose logits are affine.*Received"):
        kr.certification.exact_linear(lambda x: keras.ops.tanh(model(x)), x, y, kr.Linf(0.1))


def test_wrong_data():
    x, y = examples()
    with refusals.assert_refused(r"Labels must be class indices from 0 to 2.*from 0 to 3"):
        kr.certification.exact_linear(model, x, np.where(y == 2, 3, y), kr.Linf(0.1))
    with pytest.raises(ValueError, match="one label per example. Received: y=None"):
        kr.certification.exact_linear(model, x, None, kr.Linf(0.1))
    with refusals.assert_refused(r"each of the 3 classes.*Received: labels of shape \("):
        kr.certification.exact_linear(model, x, np.eye(4)[y], kr.Linf(0.1))
    with pytest.raises(ValueError, match="Inputs must lie in the bounds"):
        kr.certification.exact_linear(model, 2 * x, y, kr.Linf(0.1))
    with pytest.raises(ValueError, match="Unknown threat model"):
        kr.certification.exact_linear(model, x, y, "l3")


@every_norm
@tiers.parametrize("bounds", [(0.0, 1.0), (0.1, [0.9, 0.8]), None])
def test_radii_are_where_the_exact_answer_changes(norm, bounds):
    x, _ = examples()
    low, high = bounds or (0.0, 1.0)
    x = np.clip(x, low, high).astype("float32")
    method = kr.certification.Linear(norm, bounds=bounds)
    found = method.certify(model, x, batch_size=7)
    np.testing.assert_array_equal(found.predictions, np.argmax(model(x), axis=-1))
    for factor in (0.999, 1.001):
        radii = (factor * found.radii).astype("float32")
        if norm == "Linf":
            radii = radii[:, None]
        ball = getattr(kr, norm)(0.0, bounds).with_epsilon(radii)
        robust = kr.certification.exact_linear(model, x, found.predictions, ball).robust
        # If no valid input is a mistake, the radius is the size of the box.
        inside = found.radii < 0.7
        assert inside.sum() > 20
        np.testing.assert_array_equal(robust[inside], factor < 1.0)


def test_the_distance_to_a_hyperplane():
    w, b = np.array([3.0, -4.0]), 0.5
    x, _ = examples()
    z = x @ w + b

    def plane(x):
        return keras.ops.matmul(x, np.stack([0.0 * w, w], -1).astype("float32")) + np.float32(
            [0, b]
        )

    for norm, dual in (("L2", 5.0), ("Linf", 7.0), ("L1", 4.0)):
        found = kr.certification.Linear(norm, bounds=None).certify(plane, x)
        np.testing.assert_allclose(found.radii, np.abs(z) / dual, rtol=1e-4, atol=1e-6)


def test_a_constant_model_is_certified_everywhere():
    def constant(x):
        return 0.0 * x + np.float32([0.0, 1.0])

    x, _ = examples()
    free = kr.certification.Linear("L2", bounds=None).certify(constant, x)
    assert np.all(free.radii == np.finfo("float32").max)
    boxed = kr.certification.Linear("L2").certify(constant, x)
    np.testing.assert_allclose(boxed.radii, 2**0.5, rtol=1e-6)


def test_radii_of_other_models_and_arguments_are_refused():
    x, _ = examples()
    with pytest.raises(ValueError, match="known for models whose logits are affine"):
        kr.certification.Linear().certify(lambda x: keras.ops.tanh(model(x)), x)
    with pytest.raises(ValueError, match="`norm` must be one of .*Received: norm='L0'"):
        kr.certification.Linear("L0")
    refusals.assert_argument_refused(
        kr.certification.Linear, "`num_steps` must be a whole number", num_steps=0
    )
