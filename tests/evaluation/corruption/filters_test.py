import math

import numpy as np
import pytest
import scipy.ndimage

from keras_robust.evaluation.corruption import filters


def image(height=9, width=11, channels=3):
    return np.random.default_rng(0).uniform(size=(height, width, channels))


# `np.pad` and `scipy.ndimage` have other words for the same continuation.
@pytest.mark.parametrize(("mode", "other"), [("reflect", "mirror"), ("edge", "nearest")])
def test_convolution_equals_scipy_for_each_channel(mode, other):
    x, kernel = image(), np.random.default_rng(1).uniform(size=(3, 5))
    expected = [scipy.ndimage.convolve(x[..., i], kernel, mode=other) for i in range(3)]
    np.testing.assert_allclose(filters.convolve(x, kernel, mode), np.stack(expected, -1))


def test_a_smoothed_impulse_is_a_gaussian_in_its_channel():
    x = np.zeros((31, 31, 2))
    x[15, 15, 1] = 1.0
    found = filters.smooth(x, 2.0)
    assert found[..., 0].max() == 0.0
    expected = np.exp(-(3.0**2 + 4.0**2) / (2.0 * 2.0**2)) / (2.0 * math.pi * 2.0**2)
    np.testing.assert_allclose(found[18, 19, 1], expected, rtol=1e-3)


@pytest.mark.parametrize(("radius", "pixels"), [(0.5, 1), (1, 5), (3, 29), (10, 317)])
def test_a_disk_without_a_blurred_edge_has_equal_entries(radius, pixels):
    kernel = filters.disk_kernel(radius, 0.1)
    expected = np.sort(np.r_[np.zeros(kernel.size - pixels), np.full(pixels, 1.0 / pixels)])
    np.testing.assert_allclose(np.sort(kernel.ravel()), expected, atol=1e-12)


@pytest.mark.parametrize(("radius", "stddev"), [(0.3, 0.4), (1.5, 0.1), (8, 0.5), (10, 0.5)])
def test_a_disk_sums_to_one_and_is_symmetric(radius, stddev):
    kernel = filters.disk_kernel(radius, stddev)
    assert kernel.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(kernel, kernel.T)
    np.testing.assert_allclose(kernel, kernel[::-1])


def test_the_blurred_edge_of_one_pixel():
    tap = math.exp(-1.0 / (2.0 * 0.4**2))
    whole = 1.0 + 2.0 * tap
    kernel = filters.disk_kernel(0.3, 0.4)
    np.testing.assert_allclose(kernel[0], np.array([tap, 1.0, tap]) * tap / whole**2)


@pytest.mark.parametrize(
    ("angle", "step"), [(0, (0, 1)), (90, (1, 0)), (-90, (-1, 0)), (180, (0, -1))]
)
def test_a_motion_reads_a_line_that_starts_at_the_pixel(angle, step):
    kernel = filters.motion_kernel(2, 1.5, angle)
    weights = np.exp(-(np.arange(5) ** 2) / (2.0 * 1.5**2))
    x = np.zeros((21, 21, 1))
    x[10, 10] = 1.0
    found = filters.convolve(x, kernel, "edge")[..., 0]
    # The pixel `i` steps before the bright one reads it with the weight of step `i`.
    line = [found[10 - i * step[0], 10 - i * step[1]] for i in range(5)]
    np.testing.assert_allclose(line, weights / weights.sum(), atol=1e-12)
    assert kernel.sum() == pytest.approx(1.0)


def test_an_oblique_motion_goes_through_the_nearest_pixels():
    rows, columns = np.nonzero(filters.motion_kernel(2, 1.5, 30.0))
    # Four steps of (sin 30, cos 30) = (0.5, 0.87), halves rounded down.
    assert sorted(zip((4 - rows).tolist(), (4 - columns).tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 2),
        (1, 3),
        (2, 3),
    ]


@pytest.mark.parametrize("factor", [1.0, 1.05, 1.25, 2.25, 4.5])
@pytest.mark.parametrize("shape", [(28, 31, 3), (9, 8, 1)])
def test_zoom_equals_scipy_on_the_middle(factor, shape):
    x = image(*shape)
    crops = [math.ceil(side / factor) for side in shape[:2]]
    top, left = ((shape[axis] - crops[axis]) // 2 for axis in (0, 1))
    middle = x[top : top + crops[0], left : left + crops[1]]
    large = scipy.ndimage.zoom(middle, (factor, factor, 1), order=1)
    top, left = ((large.shape[axis] - shape[axis]) // 2 for axis in (0, 1))
    expected = large[top : top + shape[0], left : left + shape[1]]
    np.testing.assert_allclose(filters.zoom(x, factor), expected, atol=1e-12)


def test_samples_between_pixels_are_interpolated():
    x = image(4, 4, 2)
    rows, columns = np.full((1, 1), 1.25), np.full((1, 1), 2.5)
    found = filters.sample(x, rows, columns, "mirror")
    weights = np.outer([0.75, 0.25], [0.5, 0.5])[..., None]
    np.testing.assert_allclose(found[0, 0], (weights * x[1:3, 2:4]).sum(axis=(0, 1)))


# Pixel -1 is pixel 1 if the edge is not repeated, and pixel 0 if it is.
@pytest.mark.parametrize(("mode", "row"), [("mirror", 1), ("reflect", 0)])
def test_samples_outside_are_continued(mode, row):
    x = image(4, 4, 1)
    found = filters.sample(x, np.full((1, 1), -1.0), np.full((1, 1), 2.0), mode)
    np.testing.assert_allclose(found[0, 0], x[row, 2])
