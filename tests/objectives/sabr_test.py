import numpy as np
import pytest

import keras_robust as kr
from keras_robust.objectives import IBP
from keras_robust.objectives import SABR
from tests.support import backends
from tests.support import boxes
from tests.support import forward_passes
from tests.support import refusals


class Asked(kr.attacks.PGD):
    """Attack that returns its arguments instead of adversarial examples."""

    def perturb(self, *request):
        return request


def _loss(objective, model=None, **arguments):
    model = model or forward_passes.model()
    return float(objective.loss(*forward_passes.forward_passes(model, **arguments)))


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_the_attack_searches_the_rest_of_the_radius(ratio):
    batch = forward_passes.batch(ball=kr.Linf(0.2, (-1.0, 2.0)))
    _, x, y, ball, seed = SABR(ratio).perturb(Asked(), "classifier", batch)
    assert float(ball.radius) == pytest.approx(0.2 * (1.0 - ratio), rel=1e-6, abs=1e-9)
    assert ball.bounds == (-1.0, 2.0)
    assert (x is batch.x, y is batch.y, seed is batch.seed) == (True, True, True)


@pytest.mark.parametrize("ratio", [0.2, 0.7])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_a_linear_model_in_closed_form(ratio, sample_weight):
    x_adv = np.clip(forward_passes.X_ADV, 0.0, 1.0)
    ends = (np.clip(x_adv + sign * ratio * 0.1, 0.0, 1.0) for sign in (-1.0, 1.0))
    worst = forward_passes.cross_entropy(boxes.linear_margins(*ends))
    found = _loss(SABR(ratio), boxes.linear(), x_adv=x_adv, sample_weight=sample_weight)
    assert found == pytest.approx(forward_passes.mean(worst, sample_weight), rel=1e-5)


@pytest.mark.parametrize("bounds", [None, (0.3, 0.7)])
def test_of_two_classes_the_worst_of_the_box_is_that_of_the_ball(bounds):
    """Attack and box move each feature of a linear model in the same direction, up to epsilon."""
    model, ball = boxes.linear(classes=2), kr.Linf(0.1, bounds)
    x = np.clip(forward_passes.X, *(bounds or (0.0, 1.0)))
    y, losses = np.array([1, 0, 1, 1]), []
    for ratio in (0.1, 0.6, 1.0):
        objective = SABR(ratio)
        batch = forward_passes.batch(x, y, ball=ball)
        classifier = forward_passes.CountedClassifier(model)
        x_adv = objective.perturb(objective.default_attack, classifier, batch).x_adv
        losses.append(_loss(objective, model, x=x, x_adv=x_adv, y=y, ball=ball))
    expected = _loss(IBP(0.0), model, x=x, y=y, ball=ball)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_the_whole_ball_is_ibp_and_no_box_is_adversarial_training():
    for model in (forward_passes.model(0.1), boxes.relu()):
        x = forward_passes.X
        assert _loss(SABR(1.0), model, x_adv=x) == pytest.approx(_loss(IBP(0.0), model), rel=1e-6)
        near = _loss(kr.objectives.Adversarial(), model)
        assert _loss(SABR(1e-6), model) == pytest.approx(near, rel=1e-4)


def test_the_penalty_is_that_of_the_small_box():
    model = boxes.relu()
    ball = kr.Linf(0.04)
    penalty = _loss(IBP(0.0, regularization=0.5), model, ball=ball, x=forward_passes.X_ADV)
    penalty -= _loss(IBP(0.0), model, ball=ball, x=forward_passes.X_ADV)
    assert penalty > 0.05
    added = _loss(SABR(0.4, regularization=0.5), model) - _loss(SABR(0.4), model)
    assert added == pytest.approx(penalty, rel=1e-3)


@pytest.mark.parametrize("ratio", [0.0, 1.5, -0.25])
def test_an_argument_out_of_range_is_refused(ratio):
    refusals.assert_argument_refused(
        SABR, "`subselection_ratio` must be a number above 0", subselection_ratio=ratio
    )
    with refusals.assert_refused("`subselection_ratio` must be a number.*='half'"):
        SABR("half")


@pytest.mark.exhaustive
@backends.with_and_without_xla
def test_a_fit_lowers_the_bound(jit_compile):
    first, last = boxes.bounds_of_a_fit(SABR(0.5, regularization=0.1), jit_compile)
    assert last < 0.9 * first
