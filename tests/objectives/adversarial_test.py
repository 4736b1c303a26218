import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import forward_passes
from tests.support import numpy_reference


def _loss(**arguments):
    return float(
        kr.objectives.Adversarial().loss(
            *forward_passes.forward_passes(forward_passes.model(), **arguments)
        )
    )


@pytest.mark.parametrize("weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_loss_of_the_adversarial_examples(weight):
    terms = forward_passes.cross_entropy(
        numpy_reference.logits(forward_passes.X_ADV.astype("float64"))
    )
    assert _loss(sample_weight=weight) == pytest.approx(
        forward_passes.mean(terms, weight), rel=1e-5
    )


def test_scaled_weights_scale_the_loss():
    once = _loss(sample_weight=forward_passes.SAMPLE_WEIGHT)
    assert _loss(sample_weight=3 * forward_passes.SAMPLE_WEIGHT) == pytest.approx(
        3 * once, rel=1e-6
    )


def test_without_a_perturbation_it_is_the_clean_loss():
    model = forward_passes.model()
    clean = model.evaluate(forward_passes.X, forward_passes.Y, verbose=0)
    found = kr.objectives.Adversarial().loss(
        *forward_passes.forward_passes(model, x_adv=forward_passes.X)
    )
    assert float(found) == pytest.approx(clean, rel=1e-6)


def test_regularisers_count_once():
    model = forward_passes.model(penalty=0.1)
    with_penalty = kr.objectives.Adversarial().loss(*forward_passes.forward_passes(model))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert float(with_penalty) - _loss() == pytest.approx(penalty, rel=1e-5)


def test_the_clean_batch_is_not_run():
    clean, adversarial = forward_passes.forward_passes(forward_passes.model())
    kr.objectives.Adversarial().loss(clean, adversarial)
    assert not clean.was_used
    assert adversarial.was_used


def test_batch_norm_sees_one_adversarial_pass():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    shape = keras.Input((numpy_reference.FEATURES,))
    model = keras.Sequential([shape, norm, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kr.objectives.Adversarial().loss(*forward_passes.forward_passes(model))
    np.testing.assert_allclose(norm.moving_mean, 0.1 * forward_passes.X_ADV.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        norm.moving_variance, 0.9 + 0.1 * forward_passes.X_ADV.var(axis=0), rtol=1e-5
    )
