import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers

Universal = kr.threat_models.Universal
EPSILON = 0.15


def examples(count=40):
    """Returns inputs near both bounds, the kernel of a linear model, and its classes."""
    x, _ = linear_fit.data(count)
    weights = linear_fit.initial_weights()
    return x, weights, np.argmax(x @ weights, axis=-1)


def linear_model(weights):
    return lambda x: keras.ops.matmul(x, weights)


def summed_gradient(x, y, weights):
    """Returns the sum over the examples of the gradient of the cross-entropy, in float64."""
    error = linear_fit.softmax(x.astype("float64") @ weights) - np.eye(weights.shape[1])[y]
    return np.sum(error @ weights.T, axis=0)


BALLS = {
    "Linf": (kr.Linf(EPSILON), lambda g: EPSILON * np.sign(g)),
    "L2": (kr.L2(0.3), lambda g: 0.3 * g / np.linalg.norm(g)),
    "L2-free": (kr.L2(0.3, bounds=None), lambda g: 0.3 * g / np.linalg.norm(g)),
    "L1": (kr.L1(0.3), lambda g: 0.3 * np.sign(g) * (np.abs(g) == np.abs(g).max())),
}


@tiers.parametrize("name", BALLS)
def test_one_step_is_along_the_sum_of_the_gradients(name):
    x, weights, y = examples()
    ball, best = BALLS[name]
    delta = best(summed_gradient(x, y, weights))
    expected = x + delta if ball.bounds is None else np.clip(x + delta, 0.0, 1.0)
    attack, model = kr.attacks.FGSM(), linear_model(weights)
    for batch_size in (256, 3):
        found = attack.run(model, x, y, Universal(ball), batch_size=batch_size)
        np.testing.assert_allclose(found.x_adv, expected, rtol=0, atol=1e-5)
        logits = expected @ weights
        np.testing.assert_array_equal(found.success, np.argmax(logits, axis=-1) != y)
        losses = kr.losses.cross_entropy(y, logits.astype("float32"))
        np.testing.assert_allclose(found.loss, losses, rtol=0, atol=1e-4)
        assert 0 < found.success.sum() < len(x)


def binary():
    """Returns inputs far from the bounds, logits `[0, <slope, x>]`, and unequal classes."""
    rng = np.random.default_rng(1)
    x, slope = rng.uniform(0.4, 0.6, size=(30, 6)).astype("float32"), rng.normal(size=6)
    scores = (x - 0.5) @ slope
    keep = np.argsort(scores)[8:]
    weights = np.stack([np.zeros(6), slope], axis=1).astype("float32")
    return x[keep], weights, (scores[keep] > 0.0).astype("int32"), slope


ATTACKS = [
    kr.attacks.APGD(num_steps=10, loss="margin"),
    kr.attacks.PGD(num_steps=5, loss="margin"),
    kr.attacks.MomentumPGD(num_steps=5, loss="margin"),
]


@pytest.mark.exhaustive
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_reach_the_closed_form_of_a_linear_model(attack):
    x, weights, y, slope = binary()
    # The mean margin grows by the difference of the classes times <slope, delta>.
    sign = np.sign(np.sum(y == 0) - np.sum(y == 1))
    model = linear_model(weights)
    shifted = lambda given: model(given - 0.5)  # noqa: E731
    found = attack.run(shifted, x, y, Universal(kr.Linf(0.1)))
    expected = x + 0.1 * sign * np.sign(slope)
    np.testing.assert_allclose(found.x_adv, expected, rtol=0, atol=1e-5)
    assert len(np.unique(found.queries)) == 1 and not found.zero_gradient.any()


def test_evaluation_counts_the_mistakes_of_one_perturbation():
    x, weights, y = examples()
    y[:2] = (y[:2] + 1) % 3
    # The perturbation is found on the examples that are right.
    delta = EPSILON * np.sign(summed_gradient(x[2:], y[2:], weights))
    logits = np.clip(x + delta, 0.0, 1.0) @ weights
    robust = (np.argmax(logits, axis=-1) == y) & (np.arange(len(x)) >= 2)
    ball = Universal(kr.Linf(EPSILON))
    report = kr.evaluate(linear_model(weights), (x, y), ball, kr.attacks.FGSM())
    np.testing.assert_array_equal(report.robust, robust)
    assert 0.1 < robust.mean() < 0.9
    loaded = kr.RobustnessReport.from_dict(report.to_dict())
    assert loaded.threat_model["class_name"] == "Universal"


@pytest.mark.exhaustive
def test_sanity_checks_run():
    x, weights, y = examples()
    checks = kr.sanity_check(linear_model(weights), (x, y), Universal(kr.Linf(EPSILON)))
    verdicts = {check.name: check.verdict for check in checks.checks}
    assert verdicts["reported success"] == verdicts["epsilon 0"] == "passed"
    assert len(verdicts) == 18


def sgd_step(x, y, weights):
    error = linear_fit.softmax(x @ weights) - np.eye(weights.shape[1])[y]
    return weights - linear_fit.LEARNING_RATE * x.T @ error / len(x)


def batches(x, y):
    for start in range(0, len(x), linear_fit.BATCH_SIZE):
        rows = slice(start, start + linear_fit.BATCH_SIZE)
        yield x[rows].astype("float64"), y[rows]


def test_training_steps_are_on_the_perturbation_of_each_batch():
    x, y = linear_fit.data()
    weights = linear_fit.initial_weights().astype("float64")
    for own_x, own_y in batches(x, y):
        delta = EPSILON * np.sign(summed_gradient(own_x, own_y, weights))
        weights = sgd_step(np.clip(own_x + delta, 0.0, 1.0), own_y, weights)
    model = linear_fit.make_model()
    callback = kr.AdvTrain(Universal(kr.Linf(EPSILON)), attack="fgsm", warmup=0)
    linear_fit.fit(model, callback, x, y)
    np.testing.assert_allclose(linear_fit.weights(model), weights, rtol=0, atol=2e-5)


@pytest.mark.exhaustive
def test_free_alternates_steps_of_one_perturbation_and_of_the_weights():
    x, y = linear_fit.data()
    weights, delta = linear_fit.initial_weights().astype("float64"), np.zeros(4)
    # Two epochs, so that a full batch follows the short one.
    for own_x, own_y in [*batches(x, y), *batches(x, y)]:
        x_adv = np.clip(own_x + delta, 0.0, 1.0)
        gradient = summed_gradient(x_adv, own_y, weights)
        weights = sgd_step(x_adv, own_y, weights)
        delta = np.clip(delta + EPSILON * np.sign(gradient), -EPSILON, EPSILON)
    model = linear_fit.make_model()
    ball, objective = Universal(kr.Linf(EPSILON)), kr.objectives.Free(num_replays=1)
    callback = kr.AdvTrain(ball, objective=objective, warmup=0)
    linear_fit.fit(model, callback, x, y, epochs=2)
    np.testing.assert_allclose(linear_fit.weights(model), weights, rtol=0, atol=2e-5)


@pytest.mark.parametrize("start", ["random_start", "random_start_on_sphere"])
@pytest.mark.parametrize("seed", [np.array([1, 2]), np.arange(80).reshape(40, 2)])
def test_random_starts_are_one_point_of_the_ball(start, seed):
    x, _, _ = examples()
    delta = np.asarray(getattr(Universal(kr.L2(0.3, None)), start)(x, seed.astype("int32"))) - x
    np.testing.assert_allclose(delta, np.stack([delta[0]] * len(x)), rtol=0, atol=1e-6)
    assert 0.01 < np.linalg.norm(delta[0]) < 0.3001


def test_directions_are_those_of_the_sum():
    gradient = np.array([[1.0, -3.0], [2.0, 4.0], [-5.0, 1.0]], "float32")
    x, ball = np.full_like(gradient, 0.5), Universal(kr.Linf(0.1))
    expected = np.array([[-1.0, 1.0]] * 3)
    np.testing.assert_array_equal(ball.steepest_direction(gradient), expected)
    np.testing.assert_allclose(ball.step(x, gradient, 0.2), x + 0.2 * expected, rtol=1e-6)
    found = ball.linear_maximization_oracle(gradient, x)
    np.testing.assert_allclose(found, x + 0.1 * expected, rtol=1e-6)


def test_contains_asks_for_one_perturbation():
    x, _, _ = examples()
    ball = Universal(kr.Linf(0.2))
    delta = np.array([0.2, -0.1, 0.0, -0.2], "float32")
    x_adv = np.clip(x + delta, 0.0, 1.0)
    assert np.any(x_adv - x < delta - 0.05)
    assert np.all(ball.contains(x_adv, x))
    other = x_adv.copy()
    middle = np.argmin(np.abs(x[:, 2] - 0.5))
    other[middle, 2] += 0.01
    assert np.all(kr.Linf(0.2).contains(other, x)) and not np.any(ball.contains(other, x))
    assert not np.any(Universal(kr.Linf(0.1)).contains(x_adv, x))


def test_several_perturbations_are_refused():
    x, weights, y = examples()
    ball, model = Universal(kr.Linf(EPSILON)), linear_model(weights)
    message = r"num_restarts=1.*Received: .* with 3 searches, under Universal"
    with refusals.assert_refused(message):
        kr.attacks.PGD(num_restarts=3)(model, x, y, ball)
    with refusals.assert_refused(r"takes one attack.*Received: 2 attacks under Universal\("):
        kr.evaluate(model, (x, y), ball, ["fgsm", "pgd"])
    with refusals.assert_refused(r"one value per example.*inputs of shape \(None, 8\)"):
        Universal(kr.L2(np.ones(8)))
    with refusals.assert_refused(r"for one tensor.*Received: Universal\("):
        Universal(ball)
