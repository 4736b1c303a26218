"""Inputs of any size: lengths and products must not overflow or underflow float32."""

import numpy as np
import pytest

import keras_robust as kr
from keras_robust.threat_models.lengths import normalised
from tests.support import backends
from tests.support import balls
from tests.support import linear_model
from tests.support import tiers

# Powers of two scale floats exactly. Squares overflow float32 beyond 2**64 and underflow below
# 2**-64.
SCALES = [2.0**90, 2.0**-90, 2.0**-40, 2.0**66]
RADII = {"L0": 2.0, "L1": 1.5, "L2": 0.7, "Linf": 0.25, "Joint": 0.7}


def ball(name, scale, bounds):
    box = None if bounds is None else tuple(scale * np.asarray(bound) for bound in bounds)
    if name == "L0":
        return kr.threat_models.L0(2, box)
    if name == "Joint":
        return kr.threat_models.Joint(kr.L2(scale * RADII[name], box), ["a"])
    return getattr(kr, name)(scale * RADII[name], box)


def points(scale, bounds):
    x, x_adv = balls.points(bounds)
    return np.float32(scale) * x, np.float32(scale) * x_adv


def boxes(name):
    return ["box", "channels"] if name == "L0" else ["none", "box", "channels"]


CASES = [(name, bounds) for name in RADII for bounds in boxes(name)]


@pytest.mark.parametrize("scale", [1e-36, 1e-25, 1.0, 1e19, 1e25, 3e38])
def test_lengths_of_all_sizes(scale):
    values = np.array([[0.6, -0.8], [0.0, 0.0], [0.0, 1.0]], "float32")
    direction, length = normalised(np.float32(scale) * values)
    np.testing.assert_allclose(direction, values, rtol=1e-6)
    np.testing.assert_allclose(length, np.float32([scale, 0.0, scale]), rtol=1e-6)


def test_infinite_entries_have_a_direction():
    direction, length = normalised(np.array([[-np.inf, 1.0]], "float32"))
    np.testing.assert_allclose(direction, [[-1.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(length, [3e38], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-36, 1.0, 1e38, 3e38])
def test_compiled_lengths_are_those_of_single_operations(scale):
    # XLA reorders products and quotients, and flushes denormal numbers to 0.
    values = np.float32(scale) * np.array([[0.6, -0.8], [0.0, 0.0], [0.0, 1.0]], "float32")
    compiled = backends.traced(normalised, jit_compile=True)
    for found, expected in zip(compiled(values), normalised(values), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
@tiers.parametrize(("name", "bounds"), CASES, one_for=lambda name, bounds: name)
def test_projection_and_distance_scale_with_the_inputs(name, bounds, scale):
    box = balls.BOUNDS[bounds]
    x, x_adv = points(1.0, box)
    expected = np.asarray(ball(name, 1.0, box).project(x_adv, x))
    distance = np.asarray(ball(name, 1.0, box).distance(x_adv, x))
    scaled, large = ball(name, scale, box), points(scale, box)
    found = scaled.project(large[1], large[0])
    np.testing.assert_allclose(found, np.float32(scale) * expected, rtol=2e-6)
    unit = 1.0 if name == "L0" else np.float32(scale)
    np.testing.assert_allclose(scaled.distance(*large), unit * distance, rtol=1e-6)
    if name != "L0":
        assert np.all(scaled.contains(found, large[0]))


@pytest.mark.parametrize("scale", SCALES[:2])
@tiers.parametrize(("name", "bounds"), CASES, one_for=lambda name, bounds: name)
def test_starts_and_best_points_scale_with_the_inputs(name, bounds, scale):
    box, seed = balls.BOUNDS[bounds], np.array([3, 4], "int32")
    (x, _), (large, _) = points(1.0, box), points(scale, box)
    direction = np.random.default_rng(5).normal(size=x.shape).astype("float32")
    one, other = ball(name, 1.0, box), ball(name, scale, box)
    pairs = [
        (one.random_start(x, seed), other.random_start(large, seed)),
        (
            one.linear_maximization_oracle(direction, x),
            other.linear_maximization_oracle(direction, large),
        ),
    ]
    for expected, found in pairs:
        np.testing.assert_allclose(found, np.float32(scale) * np.asarray(expected), rtol=1e-5)


@pytest.mark.parametrize("scale", SCALES[:2])
@tiers.parametrize(("name", "bounds"), CASES, one_for=lambda name, bounds: name)
def test_crossings_scale_with_the_inputs(name, bounds, scale):
    if name == "L0":
        return
    box = balls.BOUNDS[bounds]
    (x, _), (large, _) = points(1.0, box), points(scale, box)
    gradient = np.random.default_rng(5).normal(size=x.shape).astype("float32")
    change = np.linspace(-0.6, 0.6, len(x), dtype="float32")
    expected = np.asarray(ball(name, 1.0, box).project_onto_hyperplane(x, gradient, change))
    steeper = np.float32(2.0**20) * gradient
    change = np.float32(scale * 2.0**20) * change
    found = ball(name, scale, box).project_onto_hyperplane(large, steeper, change)
    np.testing.assert_allclose(found, np.float32(scale) * expected, rtol=1e-5, atol=scale * 1e-7)


@pytest.mark.parametrize("epsilon", [1e-25, 1e20, 1e30, 1e38])
@pytest.mark.parametrize("name", ["L1", "L2", "Linf"])
def test_sphere_starts_are_on_the_sphere(name, epsilon):
    x = np.zeros((4, 6), "float32")
    found = getattr(kr, name)(epsilon, None).random_start_on_sphere(x, np.array([1, 2], "int32"))
    order = {"L1": 1, "L2": 2, "Linf": np.inf}[name]
    size = np.linalg.norm(np.asarray(found, "float64") / epsilon, ord=order, axis=-1)
    # In L1 the start is a point up to a thousand radii away that is projected.
    np.testing.assert_allclose(size, 1.0, rtol=1e-3 if name == "L1" else 1e-5)


@tiers.parametrize("epsilon", [1e20, 1e-25, 1e30, 1e37])
@tiers.parametrize("name", ["L2", "L1", "Linf"])
def test_attacks_stay_in_huge_and_tiny_balls(name, epsilon):
    x = 0.0 * linear_model.examples()[0]
    attack = kr.attacks.PGD(num_steps=5, loss="margin")
    x_adv = attack(linear_model.logits, x, None, getattr(kr, name)(epsilon, None))
    size = balls.norm_of(np.asarray(x_adv, "float64") / epsilon, name)
    assert size.max() <= 1.0 + 1e-5
    # Steepest ascent on a linear model ends on the sphere. Tiny perturbations change no logit.
    assert size.min() > (0.95 if epsilon > 1.0 else -1.0)


@tiers.parametrize("name", ["L2", "L1", "Linf"])
def test_square_stays_in_huge_balls(name):
    x, y = linear_model.examples()
    attack = kr.attacks.Square(num_queries=10)
    x_adv = attack(linear_model.logits, x, y, getattr(kr, name)(1e25, None))
    assert 0.5 < balls.norm_of((x_adv - x) / 1e25, name).max() <= 1.0 + 1e-5
