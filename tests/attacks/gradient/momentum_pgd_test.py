import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

MomentumPGD = kr.attacks.MomentumPGD
EPSILON = {"Linf": 0.05, "L2": 0.2, "L1": 0.3}


def last_point(attack, ball, model):
    x, y = numpy_reference.examples()
    x = keras.ops.convert_to_tensor(x)
    classifier = models.Classifier(model)
    problem = kr.attacks.SearchProblem(classifier, x, y, ball, None, keep_best=False)
    return attack.search(problem).x_adv


@tiers.parametrize("decay", [0.0, 0.5, 1.0])
@tiers.parametrize("norm", EPSILON)
def test_two_steps_are_the_float64_steps(norm, decay):
    x, y = numpy_reference.examples()
    epsilon = EPSILON[norm]
    arguments = {"step_size": 0.4 * epsilon, "num_steps": 2, "decay": decay}
    expected = numpy_reference.attack(x, y, norm, epsilon, (0.0, 1.0), **arguments)
    ball = getattr(kr.threat_models, norm)(epsilon)
    found = last_point(MomentumPGD(**arguments), ball, numpy_reference.keras_model())
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def test_the_memory_lasts_for_more_than_two_steps():
    # Ten steps inside the ball in L2, where the direction depends on the whole memory.
    x, y = numpy_reference.examples()
    arguments = {"step_size": 0.05, "num_steps": 10, "decay": 0.9}
    expected = numpy_reference.attack(x, y, "L2", 1.0, None, **arguments)
    ball = kr.threat_models.L2(1.0, None)
    found = last_point(MomentumPGD(**arguments), ball, numpy_reference.keras_model())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_gradient_is_normalised_per_example():
    # The gradient of the second example is 1e-15 times as large; its steps must be the same.
    x = np.array([[0.5, 0.4], [0.5, 0.4]], "float32")
    weights = np.array([[1.0, -1.0], [2.0, -2.0]], "float32")
    scale = np.array([[1.0], [1e-15]], "float32")
    attack = MomentumPGD(num_steps=3, loss="margin")
    x_adv = attack(lambda x: scale * (x @ weights), x, np.array([0, 0]), kr.threat_models.L2(0.1))
    np.testing.assert_allclose(x_adv[1], x_adv[0], rtol=0, atol=1e-6)
    assert np.linalg.norm(x_adv[1] - x[1]) == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize("decay", [-0.1, float("nan")])
def test_bad_decay(decay):
    refusals.assert_argument_refused(
        MomentumPGD, f"`decay` must not be negative. Received: decay={decay}", decay=decay
    )
