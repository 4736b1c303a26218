import keras
import numpy as np
import pytest
from scipy import optimize

import keras_robust as kr
from keras_robust import models
from keras_robust.attacks.minimum_norm.to_boundary import to_boundary
from tests.support import linear_model
from tests.support import numpy_reference
from tests.support import tiers

BALLS = {"L1": kr.L1(3.0), "L2": kr.L2(2.0), "Linf": kr.Linf(0.9)}
ORDER = {"L1": 1, "L2": 2, "Linf": np.inf}
# Half of the last interval of the bisection, and the required lead.
RESOLUTION = 1.0 / 4096.0 + 1e-4


def moved(model, x, y, point, ball, **attack_loss):
    problem = kr.attacks.SearchProblem(models.Classifier(model), x, y, ball, seed=None)
    return np.asarray(to_boundary(problem, point, **attack_loss))


def kinked(x):
    """Returns logits with the lead `s - 1` of class 1, five times as steep beyond `s = 0.5`."""
    along = keras.ops.sum(x, axis=-1)
    lead = along - 1.0 + 4.0 * keras.ops.relu(along - 0.5)
    return keras.ops.stack([0.0 * lead, lead], axis=-1)


@pytest.mark.parametrize("norm", BALLS)
def test_ends_on_the_boundary_of_a_linear_model(norm):
    x, y = linear_model.examples()
    radius = 1.3 * np.array([_distance(*row, norm) for row in zip(x, y, strict=True)])
    points = [
        linear_model.best(one[None], [label], norm, size, (0.0, 1.0))[0]
        for one, label, size in zip(x, y, radius, strict=True)
    ]
    found = moved(linear_model.logits, x, y, np.stack(points).astype("float32"), BALLS[norm])
    size = np.linalg.norm((found - x).reshape(len(x), -1), ORDER[norm], axis=-1)
    lead = linear_model.margin(found.astype("float64"), y)
    assert np.all(lead > 0.0) and np.all(lead < 0.02)
    # In Linf and L2 the path passes through the nearest mistake, as long as no bound is active.
    assert np.all(size <= radius) and np.all(size >= radius / 1.3 - 1e-5)


def _distance(x, y, norm):
    def gap(radius):
        best = linear_model.best(x[None], [y], norm, radius, (0.0, 1.0))
        return linear_model.margin(best, [y])[0]

    return optimize.brentq(gap, 1e-4, 20.0)


def test_ends_on_the_boundary_of_a_piecewise_linear_model():
    # The tangent at 0 has its zero at s = 1, the model at 1.2 / 2 = 0.6.
    x, y = np.zeros((2, 2), "float32"), np.array([0, 0])
    point = np.array([[0.5, 0.5], [1.0, 0.2]], "float32")
    found = moved(kinked, x, y, point, kr.L2(1.0, None))
    np.testing.assert_allclose(found.sum(axis=-1), 0.6, rtol=0, atol=1.2 * RESOLUTION)
    np.testing.assert_allclose(found[1, 0], 5.0 * found[1, 1], rtol=1e-5)


@pytest.mark.parametrize("attack", [kr.attacks.DeepFool(), kr.attacks.DeepFool(overshoot=0.5)])
def test_deepfool_ends_on_the_boundary_of_a_piecewise_linear_model(attack):
    x, y = np.zeros((1, 2), "float32"), np.array([0])
    found = attack.run(kinked, x, y, kr.L2(1.0, None))
    np.testing.assert_allclose(-found.loss, 0.6 / np.sqrt(2.0), rtol=1e-3)


def test_in_l0_features_are_restored_one_by_one():
    # Each feature adds its weight to the lead, which must reach 1. Two features are enough.
    weights = np.array([0.7, 0.5, 0.2, 0.1], "float32")

    def model(x):
        lead = keras.ops.sum(x * weights, axis=-1) - 1.0
        return keras.ops.stack([0.0 * lead, lead], axis=-1)

    x, point = np.zeros((1, 4), "float32"), np.array([[1.0, 0.9, 0.8, 0.7]], "float32")
    found = moved(model, x, np.array([0]), point, kr.L0(4))
    np.testing.assert_array_equal(found, point * np.array([[1.0, 1.0, 0.0, 0.0]], "float32"))


@pytest.mark.parametrize(
    ("attack_loss", "y", "expected"),
    [
        ({}, 0, 0.25),
        ({"confidence": 0.5}, 0, 0.5),
        ({"targeted": True}, 2, 0.6),
        ({"targeted": "least_likely"}, 0, 0.25),
    ],
)
def test_stops_at_the_success_criterion_of_the_attack(attack_loss, y, expected):
    # Class 1 leads from 0.25 on, by 0.5 at 0.5; class 2 leads from 0.6 on.
    def model(x):
        s = x[:, 0]
        return keras.ops.stack([0.25 - s, s - 0.25, 5.0 * s - 2.65], axis=-1)

    x, point = np.zeros((1, 1), "float32"), np.ones((1, 1), "float32")
    found = moved(model, x, np.array([y]), point, kr.Linf(0.9), **attack_loss)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3 * RESOLUTION)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_mistake_leads_by_more_than_rounding(offset):
    # The larger the logits are, the larger is the rounding error of their difference.
    def model(x):
        s = x[:, 0]
        return keras.ops.stack([offset - 1e-3 * s, offset + 0.0 * s + 1e-3 * (s - 1.0)], axis=-1)

    x, y = np.zeros((1, 1), "float32"), np.array([0])
    point = np.full((1, 1), 0.5005, "float32")
    found = moved(model, x, y, point, kr.L2(1.0, None))
    if offset:
        # No nearer point has such a lead, so that the point is returned unchanged.
        np.testing.assert_array_equal(found, point)
    else:
        assert 0.5 < found[0, 0] < 0.51
        assert 2e-3 * (found[0, 0] - 0.5) >= 1e-8


def test_a_mistake_too_close_to_the_boundary_moves_a_little_farther():
    def model(x):
        return keras.ops.stack([1.0 - x[:, 0], x[:, 0] - 1.0], axis=-1)

    x, point = np.zeros((1, 1), "float32"), np.array([[1.0 + 1e-7]], "float32")
    found = moved(model, x, np.array([0]), point, kr.L2(2.0, None))
    # The required lead is 1e-5 of the logit 1.
    assert 1.0 + 0.5e-5 <= found[0, 0] <= 1.0 + 1.1 / 128


def test_points_that_are_no_mistake_are_unchanged():
    x, y = linear_model.examples()
    ball = kr.L2(1.0)
    np.testing.assert_array_equal(moved(linear_model.logits, x, y, x, ball), x)
    np.testing.assert_array_equal(moved(linear_model.logits, x, 1 - y, x, ball), x)
    near = np.clip(x + np.float32(1e-4), 0.0, 1.0)
    np.testing.assert_array_equal(moved(linear_model.logits, x, y, near, ball), near)


MINIMUM_NORM = {
    "DDN": (kr.attacks.DDN(num_steps=60), ("L2",)),
    "DeepFool": (kr.attacks.DeepFool(), ("L1", "L2", "Linf")),
    "FAB": (kr.attacks.FAB(num_steps=20), ("L1", "L2", "Linf")),
    "TargetedFAB": (kr.attacks.TargetedFAB(num_steps=20, num_targets=1), ("L1", "L2", "Linf")),
    "FMN": (kr.attacks.FMN(num_steps=60), ("L1", "L2", "Linf")),
    "PDPGD": (kr.attacks.PDPGD(num_steps=200), ("L1", "L2", "Linf")),
    "CarliniWagner": (kr.attacks.CarliniWagner(num_steps=100, learning_rate=0.05), ("L2",)),
    "EAD": (kr.attacks.EAD(num_steps=100, learning_rate=0.05), ("L1", "L2")),
    "LBFGS": (kr.attacks.LBFGS(), ("L2",)),
    "HopSkipJump": (kr.attacks.HopSkipJump(num_steps=3), ("L2", "Linf")),
    "Boundary": (kr.attacks.Boundary(num_steps=200, orthogonal_step=0.1), ("L2",)),
}


@tiers.parametrize(
    ("name", "norm"),
    [(name, norm) for name, (_, norms) in MINIMUM_NORM.items() for norm in norms],
)
def test_every_minimum_norm_attack_ends_on_the_boundary(name, norm):
    x, y = numpy_reference.examples(8)
    x = np.clip(x, 0.0, 1.0)
    model = numpy_reference.keras_model()
    attack, ball = MINIMUM_NORM[name][0], BALLS[norm].with_epsilon(np.float32(np.inf))
    found = attack.run(model, x, y, ball)
    size = np.linalg.norm((found.x_adv - x).reshape(len(x), -1), ORDER[norm], axis=-1)
    attacked = found.success & (size > 0.0)
    assert np.sum(attacked) > 2
    rows = np.arange(len(x))

    def leads(points):
        logits = numpy_reference.logits(points.astype("float64"))
        own = logits[rows, y]
        logits[rows, y] = -np.inf
        return logits.max(axis=-1) - own

    # The point is a mistake in float64 too, and a point nearer by 1/1000 is not.
    assert np.all(leads(found.x_adv)[attacked] > 0.0)
    nearer = np.asarray(ball.with_radii((1.0 - 1e-3) * size, x).project(found.x_adv, x))
    assert np.all(leads(nearer)[attacked] < 1e-5)


def test_every_minimum_norm_attack_is_tested():
    others = {"JSMA", "SigmaZero"}  # They are tested in their own files, because they need L0.
    classes = [cls for cls in kr.attacks.ALL if issubclass(cls, kr.attacks.MinimumNormAttack)]
    assert {cls.__name__ for cls in classes} == {*MINIMUM_NORM, *others}
