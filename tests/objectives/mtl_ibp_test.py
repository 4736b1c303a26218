import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.objectives import IBP
from keras_robust.objectives import MTLIBP
from keras_robust.objectives import Adversarial
from tests.support import backends
from tests.support import boxes
from tests.support import forward_passes
from tests.support import refusals


def _loss(objective, model=None, **arguments):
    model = model or forward_passes.model()
    return float(objective.loss(*forward_passes.forward_passes(model, **arguments)))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_a_linear_model_in_closed_form(alpha, sample_weight):
    low, high = (np.clip(forward_passes.X + sign * 0.1, 0.0, 1.0) for sign in (-1, 1))
    worst = forward_passes.cross_entropy(boxes.linear_margins(low, high))
    attacked = forward_passes.cross_entropy(boxes.linear_logits(forward_passes.X_ADV))
    expected = forward_passes.mean(alpha * worst + (1.0 - alpha) * attacked, sample_weight)
    found = _loss(MTLIBP(alpha), boxes.linear(), sample_weight=sample_weight)
    assert found == pytest.approx(expected, rel=1e-5)


def test_its_ends_are_ibp_and_adversarial_training():
    for model in (forward_passes.model(0.1), boxes.relu()):
        assert _loss(MTLIBP(1.0), model) == pytest.approx(_loss(IBP(0.0), model), rel=1e-6)
        assert _loss(MTLIBP(0.0), model) == pytest.approx(_loss(Adversarial(), model), rel=1e-6)
    assert _loss(MTLIBP(1.0)) > 1.05 * _loss(MTLIBP(0.0))


def test_a_scheduled_alpha_is_read_at_the_step():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 1.0)
    assert _loss(MTLIBP(schedule), iteration=4) == pytest.approx(_loss(MTLIBP(0.4)), rel=1e-5)


def test_the_penalty_is_that_of_ibp_whatever_alpha():
    model = boxes.relu()
    penalty = _loss(IBP(0.0, regularization=0.5), model) - _loss(IBP(0.0), model)
    assert penalty > 0.05
    for alpha in (0.2, 1.0):
        added = _loss(MTLIBP(alpha, regularization=0.5), model) - _loss(MTLIBP(alpha), model)
        assert added == pytest.approx(penalty, rel=1e-3)


def test_the_attack_ends_in_a_corner_of_the_ball():
    model = boxes.relu()
    ball = kr.Linf(0.1, None)
    batch = forward_passes.batch(ball=ball)
    attack = MTLIBP().default_attack
    found = MTLIBP().perturb(attack, forward_passes.CountedClassifier(model), batch)
    change = np.abs(np.asarray(found.x_adv) - forward_passes.X)
    assert np.mean(change > 0.0999) > 0.9 and np.max(change) < 0.1001


def test_an_argument_out_of_range_is_refused():
    refusals.assert_argument_refused(
        MTLIBP, "`alpha` must be a number from 0 to 1.0.*alpha=1.5", alpha=1.5
    )


@pytest.mark.exhaustive
@backends.with_and_without_xla
def test_a_fit_lowers_the_bound(jit_compile):
    first, last = boxes.bounds_of_a_fit(MTLIBP(0.5, regularization=0.1), jit_compile)
    assert last < 0.9 * first
