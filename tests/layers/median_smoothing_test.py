import keras
import numpy as np
import pytest
from scipy import ndimage

from keras_robust import layers
from tests.support import gradients
from tests.support import refusals

X = np.random.default_rng(0).uniform(size=(3, 6, 5, 2)).astype("float32")


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_values_are_those_of_scipy(size):
    expected = ndimage.median_filter(X, size=(1, size, size, 1), mode="reflect")
    np.testing.assert_array_equal(layers.MedianSmoothing(size)(X), expected)


def test_the_gradient_goes_to_the_values_that_were_chosen():
    weights = np.random.default_rng(1).normal(size=X.shape).astype("float32")
    x = keras.ops.convert_to_tensor(X)

    def compute(x):
        return layers.MedianSmoothing(3)(x)

    values, slopes = gradients.of(compute, x, weights)
    # All values differ, so that each median identifies its pixel.
    expected = np.zeros_like(X)
    for image, row, column, channel in np.ndindex(X.shape):
        chosen = X[image, ..., channel] == np.asarray(values[image, row, column, channel])
        assert chosen.sum() == 1
        expected[image, ..., channel][chosen] += weights[image, row, column, channel]
    np.testing.assert_allclose(slopes, expected, atol=1e-6)


def test_images_of_unknown_size():
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, layers.MedianSmoothing(2)(inputs))
    assert model.output_shape == (None, None, None, 2)
    expected = ndimage.median_filter(X, size=(1, 2, 2, 1), mode="reflect")
    np.testing.assert_array_equal(model.predict(X, verbose=0), expected)


@pytest.mark.parametrize("size", [0, 10, 2.0])
def test_wrong_size(size):
    refusals.assert_argument_refused(
        layers.MedianSmoothing, "`size` must be a whole number from 1 to 9. Received", size=size
    )


def test_inputs_that_are_not_images():
    with pytest.raises(ValueError, match="expected ndim=4"):
        layers.MedianSmoothing()(X[0])
