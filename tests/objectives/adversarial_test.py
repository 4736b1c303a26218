import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import numpy_reference
from tests.support import streams


def _loss(**arguments):
    return float(kr.objectives.Adversarial().loss(*streams.streams(streams.model(), **arguments)))


@pytest.mark.parametrize("weight", [None, streams.SAMPLE_WEIGHT])
def test_is_the_loss_of_the_adversarial_examples(weight):
    terms = streams.cross_entropy(numpy_reference.logits(streams.X_ADV.astype("float64")))
    assert _loss(sample_weight=weight) == pytest.approx(streams.mean(terms, weight), rel=1e-5)


def test_scaled_weights_scale_the_loss():
    once = _loss(sample_weight=streams.SAMPLE_WEIGHT)
    assert _loss(sample_weight=3 * streams.SAMPLE_WEIGHT) == pytest.approx(3 * once, rel=1e-6)


def test_without_a_perturbation_it_is_the_clean_loss():
    model = streams.model()
    clean = model.evaluate(streams.X, streams.Y, verbose=0)
    found = kr.objectives.Adversarial().loss(*streams.streams(model, x_adv=streams.X))
    assert float(found) == pytest.approx(clean, rel=1e-6)


def test_regularisers_count_once():
    model = streams.model(penalty=0.1)
    with_penalty = kr.objectives.Adversarial().loss(*streams.streams(model))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert float(with_penalty) - _loss() == pytest.approx(penalty, rel=1e-5)


def test_the_clean_batch_is_not_run():
    clean, adversarial = streams.streams(streams.model())
    kr.objectives.Adversarial().loss(clean, adversarial)
    assert not clean.was_used
    assert adversarial.was_used


def test_batch_norm_sees_one_adversarial_pass():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    shape = keras.Input((numpy_reference.FEATURES,))
    model = keras.Sequential([shape, norm, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kr.objectives.Adversarial().loss(*streams.streams(model))
    np.testing.assert_allclose(norm.moving_mean, 0.1 * streams.X_ADV.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        norm.moving_variance, 0.9 + 0.1 * streams.X_ADV.var(axis=0), rtol=1e-5
    )
