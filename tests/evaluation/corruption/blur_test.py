import numpy as np
import pytest
import scipy.ndimage

from keras_robust.evaluation.corruption import blur
from keras_robust.evaluation.corruption import filters


def image(shape=(12, 15, 3)):
    return np.random.default_rng(0).uniform(size=shape)


def rng():
    return np.random.default_rng(1)


CALLS = {
    "defocus": lambda x: blur.defocus_blur(x, rng(), 3, 0.1),
    "glass": lambda x: blur.glass_blur(x, rng(), 0.9, 2, 1),
    "motion": lambda x: blur.motion_blur(x, rng(), 8, 2.0),
    "zoom": lambda x: blur.zoom_blur(x, rng(), 1.26, 0.01),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_constant_image_does_not_change(name):
    np.testing.assert_allclose(CALLS[name](np.full((12, 15, 3), 0.7)), 0.7)


@pytest.mark.parametrize("name", CALLS)
def test_channels_are_blurred_alike(name):
    x = image((12, 15, 1))
    found = CALLS[name](np.concatenate([x, 2.0 * x], axis=-1))
    np.testing.assert_allclose(found[..., 1:], 2.0 * CALLS[name](x))
    np.testing.assert_allclose(found[..., :1], CALLS[name](x))


def test_defocus_is_the_mean_over_a_disk():
    x = image()
    rows, columns = np.mgrid[-3:4, -3:4]
    disk = (rows**2 + columns**2 <= 9)[..., None] / 29.0
    expected = scipy.ndimage.convolve(x, disk, mode="mirror")
    np.testing.assert_allclose(blur.defocus_blur(x, rng(), 3, 0.1), expected, atol=1e-12)


@pytest.mark.parametrize(("distance", "rounds"), [(1, 2), (3, 1)])
def test_glass_takes_the_values_of_neighbors(distance, rounds):
    x, draws = image(), rng()
    expected, height, width = x.copy(), *x.shape[:2]
    for _ in range(rounds):
        shape = (2, height - 2 * distance, width - 2 * distance)
        moves = draws.integers(-distance, distance, size=shape)
        for i, row in enumerate(range(height - distance, distance, -1)):
            for j, column in enumerate(range(width - distance, distance, -1)):
                down, across = moves[:, i, j]
                expected[row, column] = expected[row + down, column + across]
    # So small a Gaussian is the identity.
    found = blur.glass_blur(x, rng(), 0.05, distance, rounds)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.mean(found != x) > 0.2


def test_glass_smooths_before_and_after():
    x = image()
    moved = blur.glass_blur(filters.smooth(x, 0.6), rng(), 0.05, 1, 1)
    expected = filters.smooth(moved, 0.6)
    np.testing.assert_allclose(blur.glass_blur(x, rng(), 0.6, 1, 1), expected, atol=1e-12)


def test_motion_has_a_random_angle_of_at_most_45_degrees():
    x = np.zeros((41, 41, 1))
    x[20, 20] = 1.0
    angles = []
    for seed in range(100):
        found = blur.motion_blur(x, np.random.default_rng(seed), 8, 6.0)[..., 0]
        rows, columns = np.nonzero(found > 1e-6)
        assert columns.max() == 20 and columns.min() <= 20 - 11
        # The line ends 16 steps before the bright pixel.
        end = np.argmin(columns)
        angles.append(np.degrees(np.arctan2(20 - rows[end], 20 - columns[end])))
    assert -48.0 < min(angles) < -35.0 and 35.0 < max(angles) < 48.0


def test_zoom_blur_is_the_mean_of_the_image_and_its_enlargements():
    x = image()
    parts = [x] + [filters.zoom(x, factor) for factor in (1.0, 1.03, 1.06)]
    expected = np.mean(parts, axis=0)
    np.testing.assert_allclose(blur.zoom_blur(x, rng(), 1.08, 0.03), expected)
    assert np.abs(expected - x).max() > 0.05
