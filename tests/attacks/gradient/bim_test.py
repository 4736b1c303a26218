import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from tests.support import numpy_reference
from tests.support import tiers

BIM = kr.attacks.BIM
EPSILON = {"Linf": 0.05, "L2": 0.2, "L1": 0.3}


def last_point(attack, ball):
    x, y = numpy_reference.examples()
    classifier = models.Classifier(numpy_reference.keras_model())
    x = keras.ops.convert_to_tensor(x)
    problem = kr.attacks.SearchProblem(classifier, x, y, ball, None, keep_best=False)
    return attack.search(problem).x_adv


@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("norm", EPSILON)
def test_two_steps_are_the_float64_steps(norm, loss, bounds):
    x, y = numpy_reference.examples()
    epsilon = EPSILON[norm]
    # Two steps of 0.7 epsilon leave the ball, so that the projection is tested.
    arguments = {"step_size": 0.7 * epsilon, "num_steps": 2, "loss": loss}
    expected = numpy_reference.attack(x, y, norm, epsilon, bounds, **arguments)
    ball = getattr(kr.threat_models, norm)(epsilon, bounds)
    # The tolerance is that of two float32 gradients of a sum over 8 units.
    np.testing.assert_allclose(last_point(BIM(**arguments), ball), expected, rtol=0, atol=5e-6)


@tiers.parametrize("num_steps", [10, 12, 20, 23])
def test_long_loops_take_every_step_once(num_steps):
    # Short steps never leave the ball, so that each one changes the result.
    x, y = numpy_reference.examples()
    arguments = {"step_size": 0.01, "num_steps": num_steps}
    expected = numpy_reference.attack(x, y, "L2", 1.0, None, **arguments)
    found = last_point(BIM(**arguments), kr.threat_models.L2(1.0, None))
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def test_the_default_step_is_epsilon_over_the_number_of_steps():
    x, y = numpy_reference.examples()
    expected = numpy_reference.attack(x, y, "L2", 0.2, None, step_size=0.05, num_steps=4)
    found = last_point(BIM(num_steps=4), kr.threat_models.L2(0.2, None))
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def test_the_default_step_follows_the_radius_of_each_example():
    x, y = numpy_reference.examples()
    epsilon = np.linspace(0.05, 0.25, len(x))
    expected = [
        numpy_reference.attack(x[[i]], y[[i]], "L2", e, None, step_size=e / 4, num_steps=4)
        for i, e in enumerate(epsilon)
    ]
    found = last_point(BIM(num_steps=4), kr.threat_models.L2(epsilon, None))
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=0, atol=5e-6)


def test_starts_at_the_example():
    assert BIM().random_start is False
    with pytest.raises(TypeError, match="random_start"):
        BIM(random_start=True)
