import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from tests.support import forward_passes
from tests.support import numpy_reference
from tests.support import refusals


class Refusing(kr.attacks.Attack):
    def perturb(self, *request):
        raise AssertionError("Clean logit pairing makes no attack.")


def _perturb(objective, x, bounds=None, seed=forward_passes.SEED):
    batch = forward_passes.batch(x, ball=kr.threat_models.Linf(0.1, bounds), seed=seed)
    return objective.perturb(Refusing(), None, batch)


def _paper(x, weight, sample_weight=None):
    """CLP: the loss of the noisy examples, and pairs half a batch apart."""
    z = numpy_reference.logits(x.astype("float64"))
    pairs = np.array([np.mean((z[i] - z[i - len(z) // 2]) ** 2) for i in range(len(z))])
    return forward_passes.mean(forward_passes.cross_entropy(z) + weight * pairs, sample_weight)


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_equation_of_the_paper(weight, sample_weight):
    objective = kr.objectives.CleanLogitPairing(weight)
    found = objective.loss(
        *forward_passes.forward_passes(forward_passes.model(), sample_weight=sample_weight)
    )
    expected = _paper(forward_passes.X_ADV, weight, sample_weight)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_pairs_are_half_a_batch_apart():
    # Logits 0, 1, 10, 100 and a constant: pairs (0, 10), (1, 100) and the same once more.
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
    model.layers[0].set_weights([np.eye(2, dtype="float32")])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0], [100.0, 0.0]], "float32")
    y = np.zeros(4, "int64")
    without, paired = (
        float(
            kr.objectives.CleanLogitPairing(weight).loss(
                *forward_passes.forward_passes(model, x, x, y)
            )
        )
        for weight in (0.0, 1.0)
    )
    assert paired - without == pytest.approx((100.0 + 9801.0) / 2 / 2, rel=1e-5)


def test_an_odd_batch_is_paired_cyclically():
    x, y = forward_passes.X_ADV[:3], forward_passes.Y[:3]
    z = numpy_reference.logits(x.astype("float64"))
    pairs = [np.mean((z[i] - z[(i + 1) % 3]) ** 2) for i in range(3)]
    found = kr.objectives.CleanLogitPairing(2.0).loss(
        *forward_passes.forward_passes(forward_passes.model(), x, x, y)
    )
    expected = np.mean(forward_passes.cross_entropy(z, y)) + 2.0 * np.mean(pairs)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_scaled_weights_scale_the_loss():
    objective, model = kr.objectives.CleanLogitPairing(), forward_passes.model()
    once, thrice = (
        float(
            objective.loss(
                *forward_passes.forward_passes(
                    model, sample_weight=k * forward_passes.SAMPLE_WEIGHT
                )
            )
        )
        for k in (1, 3)
    )
    assert thrice == pytest.approx(3 * once, rel=1e-6)


def test_regularisers_count_once():
    with_penalty, without = (
        float(
            kr.objectives.CleanLogitPairing().loss(
                *forward_passes.forward_passes(forward_passes.model(penalty))
            )
        )
        for penalty in (0.1, 0.0)
    )
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert with_penalty - without == pytest.approx(penalty, rel=1e-5)


def test_without_noise_and_weight_it_is_plain_training():
    objective, model = (
        kr.objectives.CleanLogitPairing(0.0, noise_stddev=0.0),
        forward_passes.model(),
    )
    found = objective.loss(
        *forward_passes.forward_passes(model, x_adv=_perturb(objective, forward_passes.X).x_adv)
    )
    assert float(found) == pytest.approx(
        model.evaluate(forward_passes.X, forward_passes.Y, verbose=0), rel=1e-6
    )


def test_the_clean_batch_is_not_run():
    clean, adversarial = forward_passes.forward_passes(forward_passes.model())
    kr.objectives.CleanLogitPairing().loss(clean, adversarial)
    assert not clean.was_used


@pytest.mark.parametrize("stddev", [0.1, 0.5])
def test_noise_has_its_standard_deviation(stddev):
    x = np.full((500, 20), 0.3, "float32")
    noise = _perturb(kr.objectives.CleanLogitPairing(noise_stddev=stddev), x).x_adv - x
    # 10,000 numbers: the standard error of the deviation is stddev / sqrt(20,000), 0.7%.
    assert np.std(noise) == pytest.approx(stddev, rel=0.03)
    assert abs(np.mean(noise)) < 0.04 * stddev


def test_noise_comes_from_the_seed():
    objective = kr.objectives.CleanLogitPairing(noise_stddev=0.2)
    expected = forward_passes.X + 0.2 * np.asarray(
        backend.normal(forward_passes.X.shape, np.array(forward_passes.SEED))
    )
    np.testing.assert_allclose(_perturb(objective, forward_passes.X).x_adv, expected, rtol=1e-6)
    other = _perturb(objective, forward_passes.X, seed=(3, 5)).x_adv
    assert np.all(other != expected)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.2, 0.5)])
def test_noise_is_clipped_to_the_bounds(bounds):
    objective = kr.objectives.CleanLogitPairing(noise_stddev=0.5)
    x = np.clip(forward_passes.X, *bounds)
    free = _perturb(objective, x).x_adv
    found = _perturb(objective, x, bounds)
    np.testing.assert_allclose(found.x_adv, np.clip(free, *bounds), rtol=1e-6)
    assert np.any(found.x_adv != free)
    assert not np.any(found.zero_gradient)


@pytest.mark.parametrize("name", ["weight", "noise_stddev"])
def test_wrong_arguments(name):
    message = (
        f"`{name}` must be a number from 0 to inf, or a LearningRateSchedule. Received: {name}"
    )
    refusals.assert_argument_refused(kr.objectives.CleanLogitPairing, message, **{name: -0.1})
