import keras
import numpy as np
import pytest

from keras_robust import layers
from tests.support import backends
from tests.support import refusals
from tests.support import tiers


def test_codes_by_hand():
    found = layers.Thermometer(4)(np.array([[0.0, 0.25], [0.74, 1.0]], "float32"))
    expected = [[1, 0, 0, 0, 1, 1, 0, 0], [1, 1, 1, 0, 1, 1, 1, 1]]
    np.testing.assert_array_equal(found, expected)


def test_the_number_of_ones_is_the_level():
    x = np.random.default_rng(0).uniform(size=(2, 3, 4, 3)).astype("float32")
    found = np.asarray(layers.Thermometer(10)(x)).reshape(2, 3, 4, 3, 10)
    np.testing.assert_array_equal(found.sum(-1), np.floor(10 * x) + 1)
    assert (np.diff(found, axis=-1) <= 0).all()


def slopes(x, layer):
    """The slope of every channel of one value."""
    x = keras.ops.convert_to_tensor([[x]])
    return np.ravel(backends.jacobian(layer, x))


@tiers.parametrize("x", [0.01, 0.3, 0.52, 0.99])
def test_gradient_is_that_of_the_ramps(x):
    """`clip((x - k / l) l / 2 + 1/2, 0, 1)`: slope `l / 2` within a level of the threshold."""
    thresholds = np.arange(8) / 8
    expected = np.where(np.abs(x - thresholds) < 1 / 8, 4.0, 0.0)
    expected[0] = 0.0
    np.testing.assert_allclose(slopes(x, layers.Thermometer(8)), expected)


def test_bounds_scale_codes_and_slopes():
    layer = layers.Thermometer(8, bounds=(-1.0, 1.0))
    np.testing.assert_array_equal(
        layer(np.array([[0.04]])), layers.Thermometer(8)(np.array([[0.52]]))
    )
    np.testing.assert_allclose(slopes(0.04, layer), slopes(0.52, layers.Thermometer(8)) / 2)


def test_without_bpda_there_is_no_gradient():
    layer = layers.Thermometer(8, bpda=False)
    np.testing.assert_array_equal(
        layer(np.array([[0.3]])), layers.Thermometer(8)(np.array([[0.3]]))
    )
    np.testing.assert_array_equal(slopes(0.3, layer), np.zeros(8))


def test_shape_of_the_output():
    assert layers.Thermometer(4)(keras.Input((7, 5, 3))).shape == (None, 7, 5, 12)


@pytest.mark.parametrize("levels", [1, 257, 4.0])
def test_wrong_levels(levels):
    refusals.assert_argument_refused(
        layers.Thermometer, "`levels` must be a whole number from 2 to 256. Rec", levels=levels
    )
