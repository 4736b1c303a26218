import keras
import numpy as np
from scipy import stats

import keras_robust as kr
from keras_robust.attacks.score_based.pixel_candidates import PixelGenes
from keras_robust.backend import counter_rng


def test_genes_are_shares_of_rows_columns_and_box():
    x = np.zeros((1, 4, 5, 2), "float32")
    pixels = PixelGenes(x, kr.L0(2, ([0.0, -1.0], [1.0, 3.0]), per_pixel=True), 2)
    # The pixels are at row 2 of 4, column 0 of 5, and at row 3, column 4. Their colors are .25, .5
    # and 0, 1 as shares of the box.
    genes = np.array([[0.5, 0.1, 0.25, 0.5, 0.99, 0.8, 0.0, 1.0]], "float32")
    expected = x.copy()
    expected[0, 2, 0], expected[0, 3, 4] = [0.25, 1.0], [0.0, 3.0]
    np.testing.assert_allclose(pixels.image(genes), expected, atol=1e-6)


def test_positions_wrap_around_and_colours_clip():
    pixels = PixelGenes(np.zeros((1, 4, 5, 1), "float32"), kr.L0(1), 2)
    genes = np.array([[[-0.25, 1.5, -0.25, 0.5, 0.5, 1.5]]], "float32")
    np.testing.assert_allclose(pixels.wrapped(genes), [[[0.75, 0.5, 0.0, 0.5, 0.5, 1.0]]])


def test_the_first_generation_is_uniform_in_place_and_normal_in_colour():
    x = np.zeros((2, 4, 5, 1), "float32")
    keys = counter_rng.make_keys(keras.ops.convert_to_tensor([[1, 2], [1, 3]]), 2)
    genes = np.asarray(PixelGenes(x, kr.L0(1), 1).random_genes(keys, 5000))
    assert genes.shape == (5000, 2, 3)
    for example in range(2):
        assert stats.kstest(genes[:, example, 0], "uniform").pvalue > 1e-3
        assert stats.kstest(genes[:, example, 1], "uniform").pvalue > 1e-3
        colour = genes[:, example, 2]
        inside = colour[(colour > 0.0) & (colour < 1.0)]
        normal = stats.truncnorm(-1.0, 1.0, loc=0.5, scale=0.5)
        assert stats.kstest(inside, normal.cdf).pvalue > 1e-3
        # The bounds are one standard deviation away, so that 16% lie beyond each.
        np.testing.assert_allclose(
            [np.mean(colour == 0.0), np.mean(colour == 1.0)], 0.159, atol=0.02
        )
    assert np.abs(np.corrcoef(genes.reshape(5000, 6).T) - np.eye(6)).max() < 0.06
