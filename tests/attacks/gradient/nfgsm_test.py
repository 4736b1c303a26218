import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust import models
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

NFGSM = kr.attacks.NFGSM
SEED = np.array([5, 6], "int32")
EPSILON = {"Linf": 0.08, "L2": 0.2, "L1": 0.4}


def perturb(attack, ball, count=8, seed=SEED):
    """Returns the result of the attack in a train step, and the examples."""
    x, y = numpy_reference.examples(count)
    classifier = models.Classifier(numpy_reference.keras_model())
    found = attack.perturb(classifier, keras.ops.convert_to_tensor(x), y, ball, seed)
    return np.asarray(found.x_adv), x.astype("float64"), y


@pytest.mark.parametrize("noise", [0.5, 2.0])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None], ids=["box", "free"])
def test_is_the_algorithm_of_the_paper(noise, bounds):
    x_adv, x, y = perturb(NFGSM(noise=noise), kr.Linf(0.08, bounds))
    low, high = bounds or (-np.inf, np.inf)
    uniform = np.asarray(backend.uniform(x.shape, SEED, -1.0, 1.0), "float64")
    start = np.clip(x + noise * 0.08 * uniform, low, high)
    gradient = numpy_reference.gradient(start, y)
    expected = np.clip(start + 0.08 * np.sign(gradient), low, high)
    np.testing.assert_allclose(x_adv, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_in_other_norms_the_noise_fills_the_larger_ball(norm):
    epsilon = EPSILON[norm]
    ball = getattr(kr.threat_models, norm)(epsilon)
    x_adv, x, y = perturb(NFGSM(noise=1.5), ball)
    start = np.asarray(
        ball.scaled(1.5).random_start(keras.ops.convert_to_tensor(x, "float32"), SEED)
    )
    gradient = numpy_reference.gradient(start.astype("float64"), y)
    moved = numpy_reference.step(start.astype("float64"), gradient, norm, epsilon, (0.0, 1.0))
    np.testing.assert_allclose(x_adv, np.clip(moved, 0.0, 1.0), rtol=0, atol=3e-6)


@pytest.mark.parametrize("norm", EPSILON)
def test_leaves_the_ball_but_not_the_larger_ball(norm):
    ball = getattr(kr.threat_models, norm)(EPSILON[norm])
    x_adv, x, _ = perturb(NFGSM(), ball, count=60)
    distance = np.asarray(ball.distance(x_adv, x.astype("float32")))
    assert distance.max() > 1.5 * EPSILON[norm]
    assert distance.max() <= 3.0 * EPSILON[norm] * (1.0 + 1e-5)
    assert x_adv.min() >= 0.0 and x_adv.max() <= 1.0


@tiers.parametrize("norm", EPSILON)
def test_without_noise_it_is_fgsm(norm):
    ball = getattr(kr.threat_models, norm)(EPSILON[norm])
    expected, *_ = perturb(kr.attacks.FGSM(), ball)
    np.testing.assert_array_equal(perturb(NFGSM(noise=0.0), ball)[0], expected)


def test_default_noise_is_twice_epsilon():
    ball = kr.Linf(0.08)
    default, *_ = perturb(NFGSM(), ball)
    np.testing.assert_array_equal(perturb(NFGSM(noise=2.0), ball)[0], default)


def test_an_epsilon_per_channel():
    epsilon = np.linspace(0.02, 0.12, numpy_reference.FEATURES)
    x_adv, x, _ = perturb(NFGSM(), kr.Linf(epsilon, None), count=200)
    reach = np.abs(x_adv - x).max(axis=0)
    assert np.all(reach <= 3.0 * epsilon + 1e-6)
    assert np.all(reach > 2.5 * epsilon)


def test_evaluation_refuses_it():
    x, y = numpy_reference.examples()
    message = r'NFGSM makes examples for training.*Use another .*"pgd".*Received: NFGSM\(noise=3'
    with refusals.assert_refused(message):
        kr.evaluate(numpy_reference.keras_model(), (x, y), attacks=["pgd", NFGSM(noise=3.0)])
    with pytest.raises(ValueError, match="NFGSM makes examples for training"):
        kr.RobustValidation((x, y), attack="nfgsm")


def test_training_accepts_it():
    assert type(kr.AdvTrain(attack="n_fgsm").attack) is NFGSM


@pytest.mark.parametrize("noise", [-0.1, float("inf"), float("nan"), "2", None])
def test_wrong_noise(noise):
    refusals.assert_argument_refused(
        NFGSM, r"`noise` must be a number >= 0.*Received: noise=", noise=noise
    )
