import numpy as np
import pytest

from keras_robust.evaluation.corruption.textures import frost_texture
from keras_robust.evaluation.corruption.textures import plasma


class Highest:
    """Random numbers that are all the largest."""

    def uniform(self, low, high, size):
        return np.full(size, high)


def test_the_smallest_cloud():
    # The corner has height 0. The middle is the mean of four corners, plus 1. The other two pixels
    # are the mean of two middles and two corners, 0.5, plus 1.
    found = plasma((2, 2), 2.0, Highest())
    np.testing.assert_allclose(found, np.array([[0.0, 1.5], [1.5, 1.0]]) / 1.5)


def test_a_cloud_of_two_scales():
    found = plasma((4, 4), 2.0, Highest())
    # The coarse scale as above; then, with the amplitude 1 / 4, the middles of squares, and the
    # pixels between two middles and two corners.
    coarse, fine = np.array([[0.0, 1.5], [1.5, 1.0]]), 0.25
    middles = np.full((2, 2), coarse.mean() + fine)
    expected = np.zeros((4, 4))
    expected[::2, ::2], expected[1::2, 1::2] = coarse, middles
    expected[::2, 1::2] = (2.0 * middles + coarse + coarse[:, ::-1]) / 4.0 + fine
    expected[1::2, ::2] = (2.0 * middles + coarse + coarse[::-1]) / 4.0 + fine
    np.testing.assert_allclose(found, expected / expected.max())


@pytest.mark.parametrize("shape", [(28, 28), (33, 20), (8, 64)])
def test_a_cloud_of_any_shape_is_part_of_a_square(shape):
    side = 64 if max(shape) > 32 else 32
    whole = plasma((side, side), 2.0, np.random.default_rng(0))
    found = plasma(shape, 2.0, np.random.default_rng(0))
    np.testing.assert_array_equal(found, whole[: shape[0], : shape[1]])
    assert (whole.min(), whole.max()) == (0.0, 1.0)


def test_a_cloud_with_more_decay_is_smoother():
    smooth, rough = (plasma((64, 64), decay, np.random.default_rng(0)) for decay in (3.0, 1.4))
    steps = [np.abs(np.diff(cloud, axis=0)).mean() for cloud in (smooth, rough)]
    assert steps[0] < 0.5 * steps[1]


@pytest.mark.parametrize("shape", [(28, 28), (40, 64)])
def test_ice_is_bluish_and_in_part_clear(shape):
    found = np.stack([frost_texture(shape, np.random.default_rng(seed)) for seed in range(10)])
    assert found.shape == (10, *shape, 3)
    assert found.min() >= 0.0 and found.max() <= 1.0
    red, green, blue = np.moveaxis(found, -1, 0)
    assert np.all(red <= green) and np.all(green <= blue)
    # Neither clear nor white altogether.
    assert 0.3 < found.mean() < 0.5
    assert np.mean(blue < 0.2) > 0.1 and np.mean(blue > 0.8) > 0.05


def test_ice_depends_on_the_seed():
    one, other = (frost_texture((16, 16), np.random.default_rng(seed)) for seed in (0, 1))
    assert np.abs(one - other).mean() > 0.05
