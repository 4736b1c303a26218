import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_model
from tests.support import tiers

X = np.random.default_rng(0).beta(0.5, 0.5, size=(8, 5)).astype("float32")
GRADIENT = np.random.default_rng(1).normal(size=(8, 5)).astype("float32")
GRADIENT[3, 1:3] = 0.0
CHANGE = np.array([0.3, -0.3, 0.01, -0.8, 0.0, 1.2, -1.0, 0.5], "float32")
BOX = {"box": (0.0, 1.0), "channels": ([-0.5, 0.0, 0.0, 0.0, -1.0], [1.0, 1.0, 2.0, 1.0, 1.5])}
BOX["free"] = None


def smallest_radius(norm, bounds):
    """Returns the radius whose closed-form best step just makes the change, by bisection."""
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    direction = (np.sign(CHANGE)[:, None] * GRADIENT).astype("float64")
    below, above = np.zeros(8), np.full(8, 30.0)
    for _ in range(60):
        middle = 0.5 * (below + above)
        gain = [
            linear_model.largest_gain(d[None], x[None].astype("float64"), norm, m, low, high)[0]
            for d, x, m in zip(direction, X, middle, strict=True)
        ]
        enough = np.array(gain) >= np.abs(CHANGE)
        below, above = np.where(enough, below, middle), np.where(enough, middle, above)
    return np.where(above > 29.0, np.inf, above)


@tiers.parametrize("box", BOX)
@tiers.parametrize("norm", ["L1", "L2", "Linf"])
def test_is_the_shortest_step_that_makes_the_change(norm, box):
    ball = getattr(kr.threat_models, norm)(0.5, BOX[box])
    step = np.asarray(ball.project_onto_hyperplane(X, GRADIENT, CHANGE))
    expected = smallest_radius(norm, BOX[box])
    reachable = np.isfinite(expected)
    assert reachable.sum() >= 5
    made = (GRADIENT.astype("float64") * step).sum(-1)
    np.testing.assert_allclose(made[reachable], CHANGE[reachable], rtol=1e-4, atol=1e-6)
    size = np.asarray(ball.distance(X + step, X))
    np.testing.assert_allclose(size[reachable], expected[reachable], rtol=1e-3, atol=1e-6)
    low, high = BOX[box] or (-np.inf, np.inf)
    assert np.all(X + step >= np.asarray(low) - 1e-6) and np.all(
        X + step <= np.asarray(high) + 1e-6
    )


@pytest.mark.parametrize("norm", ["L1", "L2", "Linf"])
def test_an_unreachable_change_ends_in_the_corner_of_the_box(norm):
    ball = getattr(kr.threat_models, norm)(0.5)
    step = np.asarray(ball.project_onto_hyperplane(X, GRADIENT, np.full(8, 50.0, "float32")))
    corner = np.where(GRADIENT > 0, 1.0, np.where(GRADIENT < 0, 0.0, X))
    np.testing.assert_allclose(X + step, corner, atol=1e-6)


@pytest.mark.parametrize("norm", ["L1", "L2", "Linf"])
def test_without_a_gradient_nothing_moves(norm):
    ball = getattr(kr.threat_models, norm)(0.5)
    step = np.asarray(ball.project_onto_hyperplane(X, np.zeros_like(X), CHANGE))
    np.testing.assert_array_equal(step, np.zeros_like(X))


@pytest.mark.parametrize("box", BOX)
@pytest.mark.parametrize(
    ("norm", "scale"),
    [(norm, scale) for norm in ("L1", "L2", "Linf") for scale in (1e-20, 1e-8, 1e8, 1e20)]
    + [(norm, scale) for norm in ("L2", "Linf") for scale in (1e-30, 1e30)],
)
def test_the_size_of_the_gradient_does_not_matter(norm, box, scale):
    ball = getattr(kr.threat_models, norm)(0.5, BOX[box])
    scale = np.float32(scale)
    step = np.asarray(ball.project_onto_hyperplane(X, scale * GRADIENT, scale * CHANGE))
    expected = np.asarray(ball.project_onto_hyperplane(X, GRADIENT, CHANGE))
    np.testing.assert_allclose(step, expected, rtol=1e-4, atol=1e-6)


def test_threat_models_without_one_norm_are_refused():
    parts = kr.threat_models.get({"a": "linf", "b": kr.L2(0.1)})
    with pytest.raises(ValueError, match="need one norm: L1, L2 or Linf. Received: PerInput"):
        parts.project_onto_hyperplane(X, GRADIENT, CHANGE)
