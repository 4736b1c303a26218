import keras
import numpy as np
import pytest

from keras_robust import layers
from tests.support import gradients
from tests.support import refusals

X = np.random.default_rng(0).uniform(size=(4, 5, 2)).astype("float32")


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_values_and_gradient(bits):
    x = keras.ops.convert_to_tensor(X)

    def compute(x):
        return layers.BitDepth(bits)(x)

    values, slopes = gradients.of(compute, x, X)
    steps = 2**bits - 1
    np.testing.assert_allclose(values, np.round(X.astype("float64") * steps) / steps, atol=1e-6)
    np.testing.assert_allclose(slopes, X, rtol=1e-6)


def test_bounds_of_each_channel():
    layer = layers.BitDepth(1, bounds=([0.0, -1.0], 2.0))
    found = layer(np.array([[0.9, 0.4], [1.1, 0.6]]))
    np.testing.assert_allclose(found, [[0.0, -1.0], [2.0, 2.0]], atol=1e-6)


def test_without_bpda_there_is_no_gradient():
    x = keras.ops.convert_to_tensor(X)

    def compute(x):
        return layers.BitDepth(3, bpda=False)(x)

    values, slopes = gradients.of(compute, x)
    np.testing.assert_array_equal(values, layers.BitDepth(3)(X))
    np.testing.assert_array_equal(slopes, np.zeros_like(X))


def test_many_bits_survive_half_precision():
    """8 bits in bfloat16, whose values near 1 are 1/256 apart: rounded once, at the end."""
    x = np.linspace(0.9, 1.0, 50).astype("float32")[None]
    found = layers.BitDepth(8, dtype="mixed_bfloat16")(x)
    expected = keras.ops.cast(np.round(x * 255.0) / 255.0, "bfloat16")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", [0, 17, 2.5, None])
def test_wrong_bits(bits):
    refusals.assert_argument_refused(
        layers.BitDepth, "`bits` must be a whole number from 1 to 16. Received", bits=bits
    )
