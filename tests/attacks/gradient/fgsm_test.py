import numpy as np
import pytest

import keras_robust as kr
from tests.support import numpy_reference
from tests.support import tiers

FGSM = kr.attacks.FGSM


@tiers.parametrize("loss", ["cross_entropy", "margin"])
@tiers.parametrize(("norm", "epsilon"), [("Linf", 0.05), ("L2", 0.1), ("L1", 0.2)])
def test_is_one_step_of_length_epsilon(norm, epsilon, loss):
    x, y = numpy_reference.examples()
    arguments = {"step_size": epsilon, "num_steps": 1, "loss": loss}
    expected = numpy_reference.attack(x, y, norm, epsilon, (0.0, 1.0), **arguments)
    attack = FGSM(loss=loss)
    ball = getattr(kr.threat_models, norm)(epsilon)
    x_adv = attack(numpy_reference.keras_model(), x, y, ball)
    np.testing.assert_allclose(x_adv, expected, rtol=0, atol=2e-6)


def test_by_hand():
    # The margin of class 1 over class 0 grows along (-2, 4, 0). The third feature has no gradient
    # and does not change.
    weights = np.array([[1.0, -1.0], [-2.0, 2.0], [3.0, 3.0]], "float32")
    x = np.array([[0.5, 0.2, 0.5], [0.95, 0.05, 0.5]], "float32")
    x_adv = FGSM()(lambda x: x @ weights, x, np.array([0, 1]), kr.threat_models.Linf(0.1))
    # The second example is of class 1, but class 0 leads by .95 - .1: it is returned unchanged.
    np.testing.assert_allclose(x_adv, [[0.4, 0.3, 0.5], x[1]], atol=1e-6)


def test_least_likely_goes_towards_the_class_of_the_smallest_logit():
    # The logits are (x_0, x_1, x_2). At x, class 0 is predicted and class 2 is the least likely.
    # The step towards class 2 lowers the first two and raises the last. A step away from class 0
    # would raise x_1 as well.
    x = np.array([[0.6, 0.5, 0.4]], "float32")
    ball = kr.threat_models.Linf(0.1)
    towards = FGSM(targeted="least_likely")(lambda x: 1.0 * x, x, np.array([0]), ball)
    np.testing.assert_allclose(towards, [[0.5, 0.4, 0.5]], atol=1e-6)
    away = FGSM()(lambda x: 1.0 * x, x, np.array([0]), ball)
    np.testing.assert_allclose(away, [[0.5, 0.6, 0.5]], atol=1e-6)


def test_has_two_arguments():
    assert FGSM().get_config() == {"targeted": False, "loss": None}
    with pytest.raises(TypeError, match="num_steps"):
        FGSM(num_steps=2)
