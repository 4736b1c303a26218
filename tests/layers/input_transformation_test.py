import keras
import numpy as np
import pytest
from keras import ops

import keras_robust as kr
from keras_robust.layers.input_transformation import InputTransformation
from keras_robust.layers.input_transformation import check_count
from tests.support import gradients
from tests.support import refusals

X = np.array([[0.2, 0.7], [0.9, 0.4]], "float32")


class Step(InputTransformation):
    """`g(x) = 1[x > 1/2]`, `s(x) = x^2`."""

    def transform(self, x):
        return ops.cast(x > 0.5, x.dtype)

    def surrogate(self, x):
        return ops.square(x)


def gradient(layer, x=X):
    x = keras.ops.convert_to_tensor(x)

    def compute(x):
        return layer(x)

    values, slopes = gradients.of(compute, x)
    return np.asarray(values), np.asarray(slopes)


def test_value_of_the_step_and_gradient_of_the_surrogate():
    values, slopes = gradient(Step())
    np.testing.assert_array_equal(values, [[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(slopes, 2 * X, rtol=1e-6)


def test_without_bpda_the_gradient_is_zero_and_the_value_the_same():
    values, slopes = gradient(Step(bpda=False))
    np.testing.assert_array_equal(values, [[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(slopes, np.zeros_like(X))


def test_the_value_is_exact_where_a_sum_of_floats_would_not_be():
    x = np.random.default_rng(0).uniform(size=(1000, 1)).astype("float32")
    values, _ = gradient(Step(), x)
    assert set(np.unique(values)) == {0.0, 1.0}


def test_second_derivatives_are_those_of_the_surrogate():
    x = keras.ops.convert_to_tensor(X)

    def compute(x):
        def compute(x):
            return Step()(x)

        values, slopes = gradients.of(compute, x)
        return slopes

    slopes, slopes = gradients.of(compute, x)
    np.testing.assert_allclose(slopes, np.full_like(X, 2.0), rtol=1e-6)


def test_bounds_of_each_channel_there_and_back():
    layer = Step(bounds=([0.0, -1.0], [2.0, 1.0]))
    unit = layer.to_unit(keras.ops.convert_to_tensor(X))
    np.testing.assert_allclose(unit, [[0.1, 0.85], [0.45, 0.7]], rtol=1e-6)
    np.testing.assert_allclose(layer.from_unit(unit), X, rtol=1e-6)
    assert layer.get_config()["bounds"] == [[0.0, -1.0], [2.0, 1.0]]


@pytest.mark.exhaustive
def test_attacks_succeed_with_bpda_and_fail_without():
    """`logits = (0, 4 (1[x > 1/2] - 1/2))` per value: a step of 0.2 crosses the threshold."""
    x, y = np.array([[0.4], [0.6], [0.1]], "float32"), np.array([0, 1, 0])
    successes = {}
    for bpda in (True, False):
        model = keras.Sequential([keras.Input((1,)), Step(bpda=bpda), keras.layers.Dense(2)])
        model.set_weights([np.array([[0.0, 4.0]]), np.array([0.0, -2.0])])
        found = kr.attacks.FGSM().run(model, x, y, kr.Linf(0.2))
        successes[bpda] = found.success.tolist()
        assert (found.zero_gradient.mean() == 1.0) == (not bpda)
    assert successes == {True: [True, True, False], False: [False, False, False]}


def test_integers_are_read_as_numbers():
    np.testing.assert_array_equal(Step()(np.array([[0, 1, 2]])), [[0.0, 1.0, 1.0]])


@pytest.mark.parametrize("bounds", [None, (1.0, 0.0), 3.0])
def test_wrong_bounds(bounds):
    refusals.assert_argument_refused(Step, r"Received: bounds=", bounds=bounds)


@pytest.mark.parametrize("value", [0, 9, 2.0, True, "3"])
def test_counts(value):
    with pytest.raises(ValueError, match="`bits` must be a whole number from 1 to 8.*Received"):
        check_count("bits", value, 1, 8)
    assert check_count("bits", 8, 1, 8) == 8
