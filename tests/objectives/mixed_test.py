import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import forward_passes
from tests.support import numpy_reference
from tests.support import refusals


def _loss(alpha, **arguments):
    return float(
        kr.objectives.Mixed(alpha).loss(
            *forward_passes.forward_passes(forward_passes.model(), **arguments)
        )
    )


def _terms():
    clean, adversarial = forward_passes.X.astype("float64"), forward_passes.X_ADV.astype("float64")
    return (forward_passes.cross_entropy(numpy_reference.logits(x)) for x in (clean, adversarial))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_weighted_sum_of_both_losses(alpha, weight):
    clean, adversarial = _terms()
    expected = forward_passes.mean(alpha * clean + (1 - alpha) * adversarial, weight)
    assert _loss(alpha, sample_weight=weight) == pytest.approx(expected, rel=1e-5)


def test_default_is_half_of_each():
    clean, adversarial = _terms()
    found = kr.objectives.Mixed().loss(*forward_passes.forward_passes(forward_passes.model()))
    assert float(found) == pytest.approx(np.mean((clean + adversarial) / 2), rel=1e-5)


def test_scaled_weights_scale_the_loss():
    once = _loss(0.3, sample_weight=forward_passes.SAMPLE_WEIGHT)
    assert _loss(0.3, sample_weight=3 * forward_passes.SAMPLE_WEIGHT) == pytest.approx(
        3 * once, rel=1e-6
    )


def test_without_a_perturbation_it_is_the_clean_loss():
    clean = forward_passes.model().evaluate(forward_passes.X, forward_passes.Y, verbose=0)
    assert _loss(0.3, x_adv=forward_passes.X) == pytest.approx(clean, rel=1e-6)


def test_regularisers_count_once():
    model = forward_passes.model(penalty=0.1)
    with_penalty = kr.objectives.Mixed(0.3).loss(*forward_passes.forward_passes(model))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert float(with_penalty) - _loss(0.3) == pytest.approx(penalty, rel=1e-5)


def test_activity_regularisers_are_those_of_their_own_pass():
    model = keras.Sequential(
        [
            keras.Input((numpy_reference.FEATURES,)),
            keras.layers.Dense(3, activity_regularizer=keras.regularizers.L2(0.2)),
        ]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = kr.objectives.Mixed(0.3).loss(*forward_passes.forward_passes(model))
    terms = []
    for x in (forward_passes.X, forward_passes.X_ADV):
        z = x.astype("float64") @ np.asarray(model.layers[0].kernel)
        # Whether Keras divides an activity regulariser by the batch size depends on its version.
        model(x)
        penalty = float(model.losses[0])
        assert penalty > 0.0
        terms.append(np.mean(forward_passes.cross_entropy(z)) + penalty)
    assert float(found) == pytest.approx(0.3 * terms[0] + 0.7 * terms[1], rel=1e-5)


def test_batch_norm_sees_one_clean_and_one_adversarial_pass():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    shape = keras.Input((numpy_reference.FEATURES,))
    model = keras.Sequential([shape, norm, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kr.objectives.Mixed(0.3).loss(*forward_passes.forward_passes(model))
    after_clean = 0.1 * forward_passes.X.mean(0)
    expected = 0.9 * after_clean + 0.1 * forward_passes.X_ADV.mean(0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), "0.5", None])
def test_wrong_alpha(alpha):
    message = r"`alpha` must be a number from 0 to 1.0, or a LearningRateSchedule. Received: alph"
    refusals.assert_argument_refused(kr.objectives.Mixed, message, alpha=alpha)
