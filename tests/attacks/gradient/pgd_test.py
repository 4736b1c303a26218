import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust import models
from tests.support import numpy_reference

PGD = kr.attacks.PGD
SEED = keras.ops.convert_to_tensor([3, 4])
EPSILON = {"Linf": 0.05, "L2": 0.2, "L1": 0.3}


def last_point(attack, ball):
    x, y = numpy_reference.examples()
    classifier = models.Classifier(numpy_reference.keras_model())
    x = keras.ops.convert_to_tensor(x)
    problem = kr.attacks.SearchProblem(classifier, x, y, ball, SEED, keep_best=False)
    return np.asarray(attack.search(problem).x_adv)


def steps(start, norm, epsilon, step_size, num_steps):
    """Returns the result of float64 steps around `x` from another point."""
    x, y = numpy_reference.examples()
    x, x_adv = x.astype("float64"), np.asarray(start, "float64")
    for _ in range(num_steps):
        gradient = numpy_reference.gradient(x_adv, y)
        moved = numpy_reference.step(x_adv, gradient, norm, step_size, (0.0, 1.0))
        x_adv = numpy_reference.project(moved, x, norm, epsilon, (0.0, 1.0))
    return x_adv


@pytest.mark.parametrize("norm", EPSILON)
def test_two_steps_from_the_random_start_are_the_float64_steps(norm):
    x, _ = numpy_reference.examples()
    epsilon = EPSILON[norm]
    ball = getattr(kr.threat_models, norm)(epsilon)
    expected = steps(ball.random_start(x, SEED), norm, epsilon, epsilon / 3, 2)
    found = last_point(PGD(num_steps=2, step_size=epsilon / 3), ball)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def test_the_default_step_is_two_and_a_half_epsilon_over_the_number_of_steps():
    x, _ = numpy_reference.examples()
    ball = kr.threat_models.L2(0.2)
    expected = steps(ball.random_start(x, SEED), "L2", 0.2, 2.5 * 0.2 / 5, 5)
    np.testing.assert_allclose(last_point(PGD(num_steps=5), ball), expected, rtol=0, atol=5e-6)


def test_without_a_random_start_it_starts_at_the_example():
    x, _ = numpy_reference.examples()
    expected = steps(x, "L2", 0.2, 0.1, 2)
    found = last_point(
        PGD(num_steps=2, step_size=0.1, random_start=False), kr.threat_models.L2(0.2)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def test_the_gaussian_start_is_close_to_the_example():
    x, _ = numpy_reference.examples()
    ball = kr.threat_models.L2(0.2)
    noise = 0.001 * backend.normal(x.shape, SEED)
    expected = steps(x + noise, "L2", 0.2, 0.05, 2)
    found = last_point(PGD(num_steps=2, step_size=0.05, random_start="gaussian"), ball)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)
    plain = last_point(PGD(num_steps=2, step_size=0.05, random_start=False), ball)
    assert 1e-5 < np.abs(found - plain).max() < 0.01


def test_the_gaussian_start_of_one_thousandth_stays_in_a_small_ball():
    ball = kr.threat_models.Linf(1e-4)
    found = last_point(PGD(num_steps=1, step_size=1e-6, random_start="gaussian"), ball)
    x, _ = numpy_reference.examples()
    assert np.abs(found - x).max() <= 1e-4 + 1e-7
