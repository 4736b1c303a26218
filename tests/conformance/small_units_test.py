"""Inputs in any unit: a model that rescales its inputs is as robust as the one that does not."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import tiers

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(4, 3)).astype("float32")
X = RNG.uniform(size=(64, 4)).astype("float32")
Y = np.argmax(X @ WEIGHTS, axis=-1)
EPSILON = 0.02
VOLTS = 1e-5


def _model(unit):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, use_bias=False)])
    model.set_weights([WEIGHTS / unit])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def _in(unit):
    return (X * unit).astype("float32"), kr.Linf(EPSILON * unit, bounds=(0, unit))


@tiers.parametrize("unit", [VOLTS, 1e-3, 1.0, 1e4])
def test_the_robust_accuracy_is_the_exact_one(unit):
    x, ball = _in(unit)
    report = kr.evaluate(_model(unit), (x, Y), ball, attacks="pgd")
    exact = kr.certification.exact_linear(_model(1.0), X, Y, kr.Linf(EPSILON)).robust.mean()
    assert 0.0 < exact < 1.0
    assert report.robust_accuracy == exact
    assert np.abs(report.x_adv - x).max() <= EPSILON * unit * (1.0 + 1e-4)
    wanted = kr.evaluate(_model(1.0), (X, Y), kr.Linf(EPSILON), attacks="pgd").median_distance
    np.testing.assert_allclose(report.median_distance / unit, wanted, rtol=1e-3)


@pytest.mark.parametrize(
    "judge",
    [
        lambda x, ball: kr.evaluate(_model(VOLTS), (x, Y), ball, attacks="fgsm"),
        lambda x, ball: kr.certify(_model(VOLTS), (x, Y), "interval", bounds=ball.bounds),
        lambda x, ball: _model(VOLTS).fit(x, Y, verbose=0, callbacks=[kr.AdvTrain(ball)]),
        lambda x, ball: kr.RobustValidation((x, Y), ball),
    ],
    ids=["evaluate", "certify", "AdvTrain", "RobustValidation"],
)
def test_inputs_outside_of_a_small_box_are_refused(judge):
    x, ball = _in(VOLTS)
    with pytest.raises(ValueError, match="must lie in"):
        judge(1.01 * x, ball)


@pytest.mark.parametrize("cls", [kr.Linf, kr.L2, kr.L1])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_ball_forgives_its_own_rounding_and_no_more(cls, unit):
    ball = cls(0.1 * unit, bounds=(0, unit))
    x = np.full((1, 4), 0.5 * unit, "float32")
    step = np.array([[0.1, 0.0, 0.0, 0.0]], "float32") * unit
    assert np.all(ball.contains(x + step * (1.0 + 5e-6), x))
    assert not np.any(ball.contains(x + step * 1.001, x))
    edge, whole = np.full((1, 4), unit, "float32"), ball.with_epsilon(np.inf)
    assert np.all(whole.contains(edge * (1.0 + 5e-6), edge))
    assert not np.any(whole.contains(edge * 1.001, edge))
