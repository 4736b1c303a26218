import colorsys

import numpy as np
import pytest

from keras_robust.evaluation.corruption import filters
from keras_robust.evaluation.corruption import textures
from keras_robust.evaluation.corruption import weather


def image(channels=3):
    return np.random.default_rng(0).uniform(size=(16, 20, channels))


def rng():
    return np.random.default_rng(1)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_flakes_snow_whitens(channels):
    x = image(channels)
    luma = x if channels == 1 else x @ np.array([[0.299], [0.587], [0.114]])
    expected = 0.7 * x + 0.3 * np.maximum(x, 1.5 * luma + 0.5)
    # Noise of 0.1 is never above 0.5.
    found = weather.snow(x, rng(), (0.1, 0.0, 2.0, 0.5), (8, 3), 0.7)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_flakes_are_noise_above_the_threshold_in_motion():
    x, draws = image(), rng()
    flakes = filters.zoom(draws.normal(0.3, 0.3, (16, 20, 1)), 1.75)
    flakes = np.where(flakes < 0.5, 0.0, np.minimum(flakes, 1.0))
    kernel = filters.motion_kernel(4, 2.0, draws.uniform(-135.0, -45.0))
    flakes = filters.convolve(flakes, kernel, "edge")
    found = weather.snow(x, rng(), (0.3, 0.3, 1.75, 0.5), (4, 2.0), 1.0)
    np.testing.assert_allclose(found, x + flakes + flakes[::-1, ::-1], atol=1e-12)
    assert flakes.max() > 0.3


@pytest.mark.parametrize("channels", [1, 3])
def test_frost_adds_ice(channels):
    x, ice = image(channels), textures.frost_texture((16, 20), rng())
    if channels == 1:
        ice = ice @ np.array([[0.299], [0.587], [0.114]])
    np.testing.assert_allclose(weather.frost(x, rng(), 0.8, 0.6), 0.8 * x + 0.6 * ice)


def test_fog_adds_a_cloud_and_keeps_the_brightest_value():
    x = 0.5 * image()
    cloud = textures.plasma((16, 20), 2.0, rng())[..., None]
    expected = (x + 1.5 * cloud) * x.max() / (x.max() + 1.5)
    np.testing.assert_allclose(weather.fog(x, rng(), 1.5, 2.0), expected)
    assert expected.max() <= x.max()


def test_fog_leaves_a_black_image_black():
    np.testing.assert_array_equal(weather.fog(np.zeros((16, 20, 3)), rng(), 1.5, 2.0), 0.0)


def test_brightness_adds_to_the_value_of_hsv():
    x = image()
    x[0, 0] = 0.0
    expected = np.zeros_like(x)
    for place in np.ndindex(16, 20):
        hue, saturation, value = colorsys.rgb_to_hsv(*x[place])
        expected[place] = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1.0))
    np.testing.assert_allclose(weather.brightness(x, rng(), 0.3), expected, atol=1e-12)


def test_brightness_adds_to_gray():
    x = np.array([0.0, 0.5, 0.9]).reshape(1, 3, 1)
    found = weather.brightness(x, rng(), 0.3)
    np.testing.assert_allclose(found.ravel(), [0.3, 0.8, 1.0])
