import numpy as np
import pytest
from scipy import fft

from keras_robust.layers import jpeg_steps as steps

PIL = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("quality", [1, 25, 49, 50, 75, 90, 100])
def test_tables_are_those_that_pillow_writes(quality, tmp_path):
    path = tmp_path / "image.jpg"
    PIL.new("RGB", (8, 8)).save(path, quality=quality)
    with PIL.open(path) as image:
        # Pillow gives a table row by row.
        written = [np.reshape(image.quantization[i], (8, 8)) for i in (0, 1)]
    np.testing.assert_array_equal(steps.quantization_tables(quality), written)


def test_coefficients_are_those_of_scipy_and_come_back():
    x = RNG.uniform(size=(2, 16, 24, 3)).astype("float32")
    found = steps.dct(x)
    assert found.shape == (2, 2, 8, 3, 8, 3)
    block = x[1, 8:, 8:16, 2].astype("float64")
    np.testing.assert_allclose(found[1, 1, :, 1, :, 2], fft.dctn(block, norm="ortho"), atol=1e-5)
    np.testing.assert_allclose(steps.inverse_dct(found), x, atol=1e-5)


def test_colours_are_those_of_pillow_and_come_back():
    rgb = RNG.integers(0, 256, size=(4, 4, 3)).astype("uint8")
    expected = np.asarray(PIL.fromarray(rgb).convert("YCbCr"), "float32")
    ycc = steps.to_ycc(rgb.astype("float32"))
    np.testing.assert_allclose(ycc, expected, atol=1.0)
    np.testing.assert_allclose(steps.to_rgb(ycc), rgb, atol=1e-3)
    np.testing.assert_allclose(
        steps.to_ycc(np.float32([[60, 60, 60]])), [[60, 128, 128]], atol=1e-4
    )


def test_padding_repeats_the_edge():
    x = RNG.uniform(size=(2, 3, 5, 1)).astype("float32")
    expected = np.pad(x, [(0, 0), (0, 1), (0, 3), (0, 0)], mode="edge")
    np.testing.assert_array_equal(steps.pad(x, 2, 8), expected)


def test_halving_averages_and_doubling_interpolates():
    x = np.float32([[0, 4, 8, 8], [4, 8, 0, 0]])[None, ..., None]
    np.testing.assert_allclose(steps.halve(x)[0, ..., 0], [[4.0, 4.0]])
    found = steps.double(np.float32([[0, 8]])[None, ..., None])[0, ..., 0]
    np.testing.assert_allclose(found, [[0, 2, 6, 8]] * 2)
    tall = steps.double(np.float32([[0], [8]])[None, ..., None])[0, ..., 0]
    np.testing.assert_allclose(tall, [[0, 0], [2, 2], [6, 6], [8, 8]])
