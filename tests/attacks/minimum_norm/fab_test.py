import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import backends
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import tiers


def distance_to_boundary(x, y, norm, bounds):
    """Returns the radius at which the closed-form attack just succeeds, by bisection."""
    low, high = np.zeros(len(x)), np.full(len(x), 20.0)
    for _ in range(50):
        middle = 0.5 * (low + high)
        wins = [
            linear_model.margin(linear_model.best(a[None], b[None], norm, m, bounds), b[None])[0]
            > 0.0
            for a, b, m in zip(x, y, middle, strict=True)
        ]
        low, high = np.where(wins, low, middle), np.where(wins, middle, high)
    return np.where(high > 19.9, np.inf, high)


@tiers.parametrize("bounds", [(0.0, 1.0), None])
@tiers.parametrize("norm", ["L1", "L2", "Linf"])
@tiers.parametrize("name", ["FAB", "TargetedFAB"])
def test_finds_the_distance_to_the_boundary_of_a_linear_model(name, norm, bounds):
    x, y = linear_model.examples()
    ball = getattr(kr.threat_models, norm)(0.5, bounds).with_epsilon(np.inf)
    attack = getattr(kr.attacks, name)(num_steps=30)
    if name == "TargetedFAB":
        attack = attack.clone(num_targets=1)
    found = attack.run(linear_model.logits, x, y, ball)
    expected = distance_to_boundary(x, y, norm, bounds)
    reachable = np.isfinite(expected)
    assert reachable.any()
    np.testing.assert_array_equal(found.success, reachable)
    # The search ends behind the boundary by at most 5% of the last step.
    ratio = -found.loss[reachable] / expected[reachable]
    assert ratio.min() > 0.9999 and ratio.max() < 1.02
    size = np.asarray(ball.distance(found.x_adv, x))
    np.testing.assert_allclose(size[reachable], -found.loss[reachable], rtol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("norm", ["L1", "L2", "Linf"])
def test_untargeted_and_all_targets_find_the_nearest_of_three_classes(norm):
    x, y = numpy_reference.examples(8)
    ball = getattr(kr.threat_models, norm)(0.5).with_epsilon(np.inf)
    model = numpy_reference.keras_model()
    one = kr.attacks.FAB(num_steps=60).run(model, x, y, ball)
    other = kr.attacks.TargetedFAB(num_targets=2, num_steps=60).run(model, x, y, ball)
    near = kr.attacks.TargetedFAB(num_targets=1, num_steps=60).run(model, x, y, ball)
    # In L1 the last step of a search can be worse than its first steps.
    both = one.success & other.success
    assert both.mean() >= (0.8 if norm == "L1" else 1.0)
    np.testing.assert_allclose(one.loss[both], other.loss[both], rtol=0.05)
    assert np.all(other.loss >= near.loss)


@pytest.mark.usefixtures("search_alone")
def test_one_step_is_that_of_the_paper():
    x, y = linear_model.examples(3)
    attack = kr.attacks.TargetedFAB(num_targets=1, num_steps=1)
    ball = kr.L2(1.0, bounds=None).with_epsilon(np.inf)
    found = attack.run(linear_model.logits, x, y, ball)
    # At the example itself both steps are the same, with an overshoot of 5%.
    ascent = linear_model.ascent(y)
    lead = linear_model.margin(x, y)
    step = -1.05 * lead / (ascent**2).sum(-1)
    expected = x + (step[:, None] * ascent).reshape(x.shape)
    np.testing.assert_allclose(found.x_adv, expected, rtol=0, atol=1e-5)


def tangents(x, labels):
    """Returns the leads of the three classes of `SLANTED` and their gradients, in float64."""
    z = x.astype("float64") @ SLANTED + [0.1, 0.0, -0.2]
    rows = np.arange(len(x))
    leads = z - z[rows, labels][:, None]
    return leads, SLANTED.T[None] - SLANTED.T[labels][:, None]


SLANTED = np.random.default_rng(5).normal(size=(4, 3)) * [1.0, 0.3, 5.0]
DUAL = {
    "L1": lambda g: np.abs(g).max(-1),
    "L2": lambda g: np.sqrt((g**2).sum(-1)),
    "Linf": lambda g: np.abs(g).sum(-1),
}


@pytest.mark.parametrize("scale", [1e-20, 1.0])
@pytest.mark.parametrize("norm", DUAL)
def test_the_nearest_boundary_is_chosen_on_both_sides(norm, scale):
    x = np.random.default_rng(6).uniform(size=(60, 4)).astype("float32")
    labels = np.arange(60) % 3
    is_hidden = x[:, 0] > 0.7

    def model(x):
        logits = x @ SLANTED.astype("float32") + np.array([0.1, 0.0, -0.2], "float32")
        nothing = np.array([[0.0, 0.0, np.inf]], "float32")
        return scale * (logits + keras.ops.where(x[:, :1] > 0.7, nothing, 0.0))

    leads, gradients = tangents(x, labels)
    far = np.abs(leads) / np.maximum(DUAL[norm](gradients), 1e-30)
    far[np.arange(60), labels] = np.inf
    # A single non-finite logit makes all leads unusable.
    is_usable = ~is_hidden
    nearest = far.argmin(-1)
    rows = np.arange(60)
    assert np.any(leads[rows, nearest] > 0) and len(set(nearest[is_usable])) == 3
    signed = np.where(np.isinf(far), np.inf, -leads / np.maximum(DUAL[norm](gradients), 1e-30))
    assert np.any((signed.argmin(-1) != nearest)[is_usable])
    ball = getattr(kr.threat_models, norm)(0.5)
    problem = kr.attacks.SearchProblem(models.Classifier(model), x, labels, ball, seed=None)
    linearise = kr.attacks.FAB().linearisation(
        problem, keras.ops.convert_to_tensor(labels, "int32"), np.zeros((60, 3), "float32")
    )
    lead, gradient = linearise(keras.ops.convert_to_tensor(x))
    np.testing.assert_array_equal(np.isfinite(lead), is_usable)
    expected = leads[rows, nearest][is_usable], gradients[rows, nearest][is_usable]
    np.testing.assert_allclose(np.asarray(lead)[is_usable] / scale, expected[0], atol=1e-5)
    np.testing.assert_allclose(np.asarray(gradient)[is_usable] / scale, expected[1], rtol=1e-5)


@pytest.mark.exhaustive
@backends.tensorflow_only("JAX draws other starts, of which fewer are where it says nothing")
def test_non_finite_logits_restart_the_search_at_the_example():
    x = np.full((6, 4), 0.5, "float32")
    x[5, 0] = 0.1

    def model(x):
        hidden = keras.ops.any(x < 0.4, axis=-1, keepdims=True)
        lead = keras.ops.sum(x, axis=-1, keepdims=True) - 2.4
        return keras.ops.concatenate([0.0 * lead, lead], -1) + keras.ops.where(
            hidden, float("nan"), 0.0
        )

    seed = np.stack([np.arange(6), np.arange(6)], axis=1).astype("int32")
    ball = kr.Linf(0.4)
    start = np.asarray(ball.with_epsilon(0.2).random_start_on_sphere(x, seed))
    assert np.sum(np.any(start < 0.4, axis=-1)) >= 4
    attack = kr.attacks.FAB(num_steps=10, num_restarts=2)
    classifier, y = models.Classifier(model), np.zeros(6, int)
    problem = kr.attacks.SearchProblem(classifier, x, y, ball, seed, restart=1)
    found = attack.nearest(problem)
    np.testing.assert_array_equal(found.success, [True] * 5 + [False])
    distance = -np.asarray(found.loss)[:5]
    assert np.all(distance > 0.0999) and np.all(distance < 0.12)
    assert np.all(np.isfinite(found.x_adv))


@pytest.mark.usefixtures("search_alone")
@pytest.mark.exhaustive
def test_gradients_are_counted():
    x, y = numpy_reference.examples(4)
    found = kr.attacks.FAB(num_steps=5).run(numpy_reference.keras_model(), x, y, kr.Linf(1e-3))
    # One query for the clean logits, two per wrong class and one more in each step, and three to
    # judge the result.
    np.testing.assert_array_equal(found.queries, [1 + 5 * (2 * 2 + 1) + 3] * 4)


@pytest.mark.exhaustive
def test_points_outside_of_the_ball_are_no_success():
    x, y = linear_model.examples()
    distance = distance_to_boundary(x, y, "L2", None)
    ball = kr.L2(float(np.median(distance)), bounds=None)
    found = kr.attacks.TargetedFAB(num_targets=1).run(linear_model.logits, x, y, ball)
    np.testing.assert_array_equal(found.success, distance < np.median(distance))
    np.testing.assert_allclose(-found.loss, distance, rtol=0.02)


@pytest.mark.exhaustive
def test_a_constant_model_has_no_mistakes_and_no_gradient():
    x, y = np.full((2, 3), 0.5, "float32"), np.array([0, 1])

    def model(x):
        return 0.0 * x + np.array([[1.0, 0.0, -1.0]], "float32")

    found = kr.attacks.FAB(num_steps=5).run(model, x, y, kr.L2(0.5))
    np.testing.assert_array_equal(found.success, [False, True])
    np.testing.assert_array_equal(found.x_adv, x)
    assert found.zero_gradient.all() and found.loss[0] < -1e38 and found.loss[1] == 0.0


def test_restarts_begin_at_other_points():
    x, y = numpy_reference.examples(6)
    classifier = models.Classifier(numpy_reference.keras_model())
    seed = np.stack([np.arange(6), np.arange(6)], axis=1).astype("int32")
    attack = kr.attacks.FAB(num_steps=1, num_restarts=2)
    problem = kr.attacks.SearchProblem(classifier, x, y, kr.Linf(0.2), seed)
    first, second = (attack.nearest(problem._replace(restart=restart)).x_adv for restart in (0, 1))
    assert np.abs(np.asarray(first) - np.asarray(second)).max() > 1e-3


def test_threat_models_without_one_norm_are_refused():
    x = {"a": np.full((1, 2), 0.5, "float32"), "b": np.full((1, 2), 0.5, "float32")}
    parts = {"a": kr.Linf(0.1), "b": kr.L2(0.1)}
    with pytest.raises(ValueError, match="need one norm: L1, L2 or Linf. Received: PerInput"):
        kr.attacks.FAB(num_steps=1).run(
            lambda i: i["a"] - i["b"], x, np.array([0]), parts_of(parts)
        )


def parts_of(parts):
    return kr.threat_models.get(parts)
