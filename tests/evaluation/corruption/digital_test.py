import io
import sys

import numpy as np
import PIL.Image
import pytest

from keras_robust.evaluation.corruption import digital


def image(channels=3):
    return np.random.default_rng(0).uniform(size=(16, 20, channels))


def rng():
    return np.random.default_rng(1)


def test_contrast_shrinks_the_distance_to_the_mean_of_the_channel():
    x = np.array([[[0.2, 0.0], [0.6, 1.0]]])
    found = digital.contrast(x, rng(), 0.5)
    np.testing.assert_allclose(found, [[[0.3, 0.25], [0.5, 0.75]]])


def coordinates(height=48, width=60):
    """An image whose channels are the row and the column of each pixel."""
    return np.stack(np.mgrid[:height, :width], axis=-1).astype("float64")


def test_no_elastic_transform():
    x = image()
    np.testing.assert_allclose(digital.elastic_transform(x, rng(), 0.0, 0.1, 0.0), x)


def test_three_points_of_an_elastic_transform_are_moved():
    # An affine map: each pixel shows where it comes from, except at the edges.
    found = digital.elastic_transform(coordinates(), rng(), 0.0, 0.1, 0.08)
    inner = np.s_[14:34, 14:46]
    places = np.c_[coordinates()[inner].reshape(-1, 2), np.ones(20 * 32)]
    fit, residual, _, _ = np.linalg.lstsq(places, found[inner].reshape(-1, 2), rcond=None)
    assert np.max(residual) < 1e-12
    # Around the middle (30, 24), as columns and rows.
    points = np.array([[46, 40], [46, 8], [14, 8]])
    moved = points + rng().uniform(-0.08 * 48, 0.08 * 48, (3, 2))
    assert np.abs(moved - points).max() > 2.0
    back = np.c_[moved[:, ::-1], np.ones(3)] @ fit
    np.testing.assert_allclose(back[:, ::-1], points, atol=1e-9)


def test_an_elastic_transform_displaces_pixels_smoothly():
    strength, smoothness = 0.5, 0.05
    found = digital.elastic_transform(coordinates(), rng(), strength, smoothness, 0.0)
    inner = np.s_[14:34, 14:46]
    moves = (found - coordinates())[inner]
    # The mean of uniform numbers, of variance 1 / 3, under a Gaussian of deviation s has the
    # variance 1 / 3 / (4 pi s^2).
    expected = strength * 48 / np.sqrt(3 * 4 * np.pi * (smoothness * 48) ** 2)
    assert moves.std() == pytest.approx(expected, rel=0.2)
    assert np.abs(np.diff(moves, axis=0)).mean() < 0.5 * moves.std()
    # Down and across are drawn one after the other.
    assert abs(np.corrcoef(moves.reshape(-1, 2).T)[0, 1]) < 0.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("share", "small"), [(0.65, (13, 10)), (0.25, (5, 4))])
def test_pixelation_is_a_box_filter_of_pillow(channels, share, small):
    x = image(channels)
    picture = PIL.Image.fromarray(np.rint(255.0 * x).astype("uint8").squeeze())
    box = PIL.Image.Resampling.BOX
    expected = np.asarray(picture.resize(small, box).resize((20, 16), box)) / 255.0
    found = digital.pixelate(x, rng(), share)
    np.testing.assert_array_equal(found, expected.reshape(x.shape))


def test_pixels_are_means_of_blocks():
    x = image(1)
    means = x.reshape(8, 2, 10, 2).mean(axis=(1, 3))
    found = digital.pixelate(x, rng(), 0.5)[..., 0]
    # Pillow rounds after each axis, and the image was rounded before.
    np.testing.assert_allclose(found, np.kron(means, np.ones((2, 2))), atol=1.5 / 255.0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [7, 80])
def test_compression_is_that_of_pillow(channels, quality):
    x, file = image(channels), io.BytesIO()
    picture = PIL.Image.fromarray(np.rint(255.0 * x).astype("uint8").squeeze())
    picture.save(file, "JPEG", quality=quality)
    expected = np.asarray(PIL.Image.open(file)).reshape(x.shape) / 255.0
    found = digital.jpeg_compression(x, rng(), quality)
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (16, 20, channels)


@pytest.mark.parametrize("name", ["pixelate", "jpeg_compression"])
def test_without_pillow_the_error_says_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_robust\[corruptions\]'") as caught:
        getattr(digital, name)(image(), rng(), 0.5)
    assert str(caught.value).count(name) == 1
