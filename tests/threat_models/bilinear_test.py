import keras
import numpy as np
import scipy.ndimage

from keras_robust import backend
from keras_robust.threat_models import bilinear

SHAPE = (3, 4, 5, 2)


def positions(low, high, count=2):
    """Returns rows and columns in and around the images."""
    rng = np.random.default_rng(2)
    return [rng.uniform(low, high + side, size=(3, count, 6)).astype("float32") for side in (4, 5)]


def test_values_are_those_of_scipy_with_zeros_outside():
    x = np.random.default_rng(1).normal(size=SHAPE).astype("float32")
    rows, columns = positions(-2.0, 1.0)
    found = np.asarray(bilinear.sample(x, rows, columns))
    for image in range(3):
        for channel in range(2):
            expected = scipy.ndimage.map_coordinates(
                x[image, :, :, channel].astype("float64"),
                [rows[image], columns[image]],
                order=1,
                mode="grid-constant",
            )
            np.testing.assert_allclose(found[image, :, :, channel], expected, rtol=0, atol=1e-5)


def test_whole_positions_return_pixels_bit_for_bit():
    x = np.random.default_rng(1).normal(size=SHAPE).astype("float32")
    rows, columns = np.meshgrid(np.arange(4.0), np.arange(5.0), indexing="ij")
    rows, columns = (np.stack([one] * 3).astype("float32") for one in (rows, columns))
    np.testing.assert_array_equal(bilinear.sample(x, rows, columns), x)


def test_the_gradient_with_respect_to_the_positions_is_the_slope():
    x = np.random.default_rng(1).normal(size=SHAPE).astype("float32")
    # Inside of the image, between pixels, where the value is smooth.
    rows, columns = positions(0.0, -1.0)
    given = np.stack([rows, columns], axis=1)

    def total(where):
        values = keras.ops.sum(bilinear.sample(x, where[:, 0], where[:, 1]), axis=(1, 2, 3))
        return values, values

    _, gradient = backend.value_and_input_gradient(total, keras.ops.convert_to_tensor(given))
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    image = np.arange(3)[:, None, None]
    one, other = (x[image, top + 1, left + side] - x[image, top, left + side] for side in (0, 1))
    share = (columns - left)[..., None]
    expected = np.sum((1.0 - share) * one + share * other, axis=-1)
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=0, atol=1e-5)
    one, other = (x[image, top + side, left + 1] - x[image, top + side, left] for side in (0, 1))
    share = (rows - top)[..., None]
    expected = np.sum((1.0 - share) * one + share * other, axis=-1)
    np.testing.assert_allclose(gradient[:, 1], expected, rtol=0, atol=1e-5)
