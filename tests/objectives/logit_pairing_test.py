import numpy as np
import pytest

import keras_robust as kr
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import streams


def _loss(weight=0.5, **arguments):
    objective = kr.objectives.LogitPairing(weight)
    return float(objective.loss(*streams.streams(streams.model(), **arguments)))


def _paper(scale=1.0, weight=0.5, sample_weight=None):
    """ALP with the last layer scaled: half of each loss, and the mean squared difference."""
    z, z_adv = (
        scale * numpy_reference.logits(x.astype("float64")) for x in (streams.X, streams.X_ADV)
    )
    supervised = (streams.cross_entropy(z) + streams.cross_entropy(z_adv)) / 2
    pairing = np.mean((z - z_adv) ** 2, axis=-1)
    return streams.mean(supervised + weight * pairing, sample_weight)


@pytest.mark.parametrize("weight", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("sample_weight", [None, streams.SAMPLE_WEIGHT])
def test_is_the_equation_of_the_paper(weight, sample_weight):
    expected = _paper(weight=weight, sample_weight=sample_weight)
    assert _loss(weight, sample_weight=sample_weight) == pytest.approx(expected, rel=1e-5)


def test_default_weight():
    found = kr.objectives.LogitPairing().loss(*streams.streams(streams.model()))
    assert float(found) == pytest.approx(_paper(weight=0.5), rel=1e-5)


def test_scaled_weights_scale_the_loss():
    once = _loss(sample_weight=streams.SAMPLE_WEIGHT)
    assert _loss(sample_weight=3 * streams.SAMPLE_WEIGHT) == pytest.approx(3 * once, rel=1e-6)


def test_without_a_perturbation_it_is_the_clean_loss():
    clean = streams.model().evaluate(streams.X, streams.Y, verbose=0)
    assert _loss(weight=100.0, x_adv=streams.X) == pytest.approx(clean, rel=1e-6)


def test_regularisers_count_once():
    model = streams.model(penalty=0.1)
    with_penalty = kr.objectives.LogitPairing(0.5).loss(*streams.streams(model))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert float(with_penalty) - _loss(0.5) == pytest.approx(penalty, rel=1e-5)


def test_gradients_flow_through_both_branches():
    model = streams.model()
    head = model.layers[-1].trainable_weights

    def compute():
        return kr.objectives.LogitPairing(4.0).loss(*streams.streams(model))

    loss, slopes = gradients.of(compute, head)
    # Along the weights of the last layer themselves: all logits grow by one factor.
    found = sum(np.sum(g * w) for g, w in zip(slopes, head, strict=True))
    expected = streams.slope(lambda scale: _paper(scale, weight=4.0))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("weight", [-1.0, float("inf"), "much"])
def test_wrong_weight(weight):
    message = "`weight` must be a number from 0 to inf, or a LearningRateSchedule. Received: wei"
    with pytest.raises(ValueError, match=message):
        kr.objectives.LogitPairing(weight)
