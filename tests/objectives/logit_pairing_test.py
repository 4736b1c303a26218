import numpy as np
import pytest

import keras_robust as kr
from tests.support import forward_passes
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals


def _loss(weight=0.5, **arguments):
    objective = kr.objectives.LogitPairing(weight)
    return float(
        objective.loss(*forward_passes.forward_passes(forward_passes.model(), **arguments))
    )


def _paper(scale=1.0, weight=0.5, sample_weight=None):
    """ALP with the last layer scaled: half of each loss, and the mean squared difference."""
    z, z_adv = (
        scale * numpy_reference.logits(x.astype("float64"))
        for x in (forward_passes.X, forward_passes.X_ADV)
    )
    supervised = (forward_passes.cross_entropy(z) + forward_passes.cross_entropy(z_adv)) / 2
    pairing = np.mean((z - z_adv) ** 2, axis=-1)
    return forward_passes.mean(supervised + weight * pairing, sample_weight)


@pytest.mark.parametrize("weight", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_equation_of_the_paper(weight, sample_weight):
    expected = _paper(weight=weight, sample_weight=sample_weight)
    assert _loss(weight, sample_weight=sample_weight) == pytest.approx(expected, rel=1e-5)


def test_default_weight():
    found = kr.objectives.LogitPairing().loss(
        *forward_passes.forward_passes(forward_passes.model())
    )
    assert float(found) == pytest.approx(_paper(weight=0.5), rel=1e-5)


def test_scaled_weights_scale_the_loss():
    once = _loss(sample_weight=forward_passes.SAMPLE_WEIGHT)
    assert _loss(sample_weight=3 * forward_passes.SAMPLE_WEIGHT) == pytest.approx(
        3 * once, rel=1e-6
    )


def test_without_a_perturbation_it_is_the_clean_loss():
    clean = forward_passes.model().evaluate(forward_passes.X, forward_passes.Y, verbose=0)
    assert _loss(weight=100.0, x_adv=forward_passes.X) == pytest.approx(clean, rel=1e-6)


def test_regularisers_count_once():
    model = forward_passes.model(penalty=0.1)
    with_penalty = kr.objectives.LogitPairing(0.5).loss(*forward_passes.forward_passes(model))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert float(with_penalty) - _loss(0.5) == pytest.approx(penalty, rel=1e-5)


def test_gradients_flow_through_both_branches():
    model = forward_passes.model()
    head = model.layers[-1].trainable_weights

    def compute():
        return kr.objectives.LogitPairing(4.0).loss(*forward_passes.forward_passes(model))

    loss, slopes = gradients.of(compute, head)
    # The derivative along the weights of the last layer scales all logits by one factor.
    found = sum(np.sum(g * w) for g, w in zip(slopes, head, strict=True))
    expected = forward_passes.slope(lambda scale: _paper(scale, weight=4.0))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("weight", [-1.0, float("inf"), "much"])
def test_wrong_weight(weight):
    message = "`weight` must be a number from 0 to inf, or a LearningRateSchedule. Received: wei"
    refusals.assert_argument_refused(kr.objectives.LogitPairing, message, weight=weight)
