import re

import keras
import numpy as np
import pytest
from scipy import stats

import keras_robust as kr
from tests.support import refusals

Linf = kr.threat_models.Linf


def test_projection_by_hand():
    # From x = (.3, 1, 0) with radius .1: .5 becomes .4; .95 is inside; -.05 is in the ball, but
    # outside of the box.
    x = np.array([[0.3, 1.0, 0.0]], "float32")
    x_adv = np.array([[0.5, 0.95, -0.05]], "float32")
    np.testing.assert_allclose(Linf(0.1).project(x_adv, x), [[0.4, 0.95, 0.0]], atol=1e-6)
    np.testing.assert_allclose(Linf(0.1, None).project(x_adv, x), [[0.4, 0.95, -0.05]], atol=1e-6)


def test_epsilon_for_each_channel_and_for_each_example():
    x = np.full((2, 1, 1, 3), 0.5, "float32")
    x_adv = np.ones_like(x)
    channels = Linf([0.1, 0.2, 0.3]).project(x_adv, x)
    np.testing.assert_allclose(channels, [[[[0.6, 0.7, 0.8]]]] * 2, atol=1e-6)
    examples = Linf(np.array([0.1, 0.2]).reshape(2, 1, 1, 1)).project(x_adv, x)
    np.testing.assert_allclose(examples, [[[[0.6] * 3]], [[[0.7] * 3]]], atol=1e-6)


def test_an_epsilon_per_channel_is_not_mistaken_for_one_per_example():
    x = np.zeros((3, 2, 2, 3), "float32")
    channels = Linf([0.1, 0.2, 0.3])
    of_rows = channels.epsilon_for_rows([2, 1], x)
    np.testing.assert_allclose(of_rows, [[[[0.1, 0.2, 0.3]]]])
    examples = Linf(np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1, 1))
    np.testing.assert_allclose(examples.epsilon_for_rows([2, 1], x).ravel(), [0.3, 0.2])


def test_contains_with_an_epsilon_for_each_channel():
    linf, x = Linf([0.1, 0.2]), np.full((2, 2), 0.5, "float32")
    x_adv = x + np.array([[0.09, 0.19], [0.19, 0.09]], "float32")
    np.testing.assert_array_equal(linf.contains(x_adv, x), [True, False])


def test_random_start_is_uniform():
    # 40000 x 6 numbers: the mean of u has deviation eps / sqrt(3 n), its square mean eps^2 / 3.
    x = np.zeros((40000, 6), "float32")
    start = np.asarray(Linf(0.3, None).random_start(x, keras.ops.convert_to_tensor([5, 6])))
    assert stats.kstest(start.ravel(), stats.uniform(-0.3, 0.6).cdf).pvalue > 1e-3
    np.testing.assert_allclose(start.mean(axis=0), 0.0, atol=5 * 0.3 / np.sqrt(3 * 40000))
    np.testing.assert_allclose(start.var(), 0.3**2 / 3, rtol=0.01)
    correlation = np.corrcoef(start.T) - np.eye(6)
    assert np.abs(correlation).max() < 0.03


@pytest.mark.parametrize(
    ("epsilon", "bounds"),
    [
        (8, (0, 1)),
        (1.0, (0, 1)),
        ("255/255", (0, 1)),
        ([0.1, 2.0], (-1, 1)),
        (0.5, (0.0, [1.0, 0.5])),
    ],
)
def test_epsilon_as_large_as_the_box_is_refused(epsilon, bounds):
    message = r"as large as the box of valid inputs.*epsilon='8/255' for \(0, 1\). Received: eps"
    with refusals.assert_refused(message):
        Linf(epsilon, bounds)


def test_grey_levels_need_their_own_box():
    assert Linf(8, (0, 255)).epsilon == 8.0
    assert Linf(8, None).epsilon == 8.0
    assert Linf().epsilon == pytest.approx(8 / 255)


@pytest.mark.parametrize("shape", [(29,), (30, 1), (7, 1), (2, 1, 30)])
def test_an_epsilon_that_does_not_broadcast_is_refused(shape):
    message = f"epsilon of shape {shape} for inputs of shape (5, 30)"
    with refusals.assert_refused("must broadcast against the inputs.*" + re.escape(message)):
        kr.Linf(np.full(shape, 0.1), None).check_shape((5, 30))


@pytest.mark.parametrize("shape", [(), (1,), (30,), (5, 1), (5, 30), (1, 30)])
def test_an_epsilon_that_broadcasts_is_taken(shape):
    kr.Linf(np.full(shape, 0.1), None).check_shape((5, 30))


def test_an_epsilon_per_example_does_not_fit_a_batch_of_unknown_size():
    with refusals.assert_refused(
        r"must broadcast.*shape \(5, 1\) for inputs of shape \(None, 30\)"
    ):
        kr.Linf(np.full((5, 1), 0.1), None).check_shape((None, 30))
