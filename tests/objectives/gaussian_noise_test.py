import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust.objectives import GaussianNoise
from tests.support import forward_passes
from tests.support import numpy_reference
from tests.support import refusals


class Refusing(kr.attacks.Attack):
    def perturb(self, *request):
        raise AssertionError("Noise needs no attack.")


def _perturb(objective, **circumstances):
    batch = forward_passes.batch(**circumstances)
    return batch, objective.perturb(Refusing(), None, batch).x_adv


@pytest.mark.parametrize("stddev", [0.1, 2.0])
def test_noise_is_that_of_the_seed_and_is_not_clipped(stddev):
    batch, found = _perturb(GaussianNoise(stddev))
    noise = np.asarray(backend.normal(forward_passes.X.shape, batch.seed))
    np.testing.assert_allclose(found, forward_passes.X + stddev * noise, rtol=1e-5, atol=1e-6)
    assert stddev < 1.0 or np.any(found < 0.0) and np.any(found > 1.0)


def test_default_and_schedule():
    _, quarter = _perturb(GaussianNoise())
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 0.5)
    _, scheduled = _perturb(GaussianNoise(schedule), iteration=5)
    np.testing.assert_allclose(quarter, scheduled, rtol=1e-6)
    _, other = _perturb(GaussianNoise(), seed=(1, 2))
    assert np.all(other != quarter)


@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_the_loss_is_that_of_the_noisy_examples(sample_weight):
    clean, noisy = forward_passes.forward_passes(
        forward_passes.model(), sample_weight=sample_weight
    )
    found = GaussianNoise().loss(clean, noisy)
    z = numpy_reference.logits(forward_passes.X_ADV.astype("float64"))
    expected = forward_passes.mean(forward_passes.cross_entropy(z), sample_weight)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert not clean.was_used


def test_regularisers_count_once():
    with_penalty, without = (
        float(GaussianNoise().loss(*forward_passes.forward_passes(forward_passes.model(penalty))))
        for penalty in (0.1, 0.0)
    )
    expected = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert with_penalty - without == pytest.approx(expected, rel=1e-5)


def test_wrong_noise():
    refusals.assert_argument_refused(
        GaussianNoise, "`noise_stddev` must be a number from 0.*Received", noise_stddev=-0.1
    )


@pytest.mark.exhaustive
def test_a_fit_trains_what_smoothing_certifies():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(256, 2)).astype("float32")
    y = (x[:, 0] > x[:, 1]).astype("int32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"])
    noisy = kr.AdvTrain(objective=GaussianNoise(0.1), attack=Refusing())
    history = model.fit(x, y, epochs=5, verbose=0, callbacks=[noisy]).history
    assert set(history) == {"accuracy", "loss"}
    assert history["accuracy"][-1] > 0.9
    found = kr.certification.Smoothing(0.1, num_samples=500).certify(model, x[:10])
    assert np.mean(found.predictions == y[:10]) > 0.7
