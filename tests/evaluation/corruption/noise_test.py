import numpy as np
import pytest

from keras_robust.evaluation.corruption import noise

SHAPE = (100, 100, 3)


def rng():
    return np.random.default_rng(0)


def test_gaussian_noise_has_its_standard_deviation_and_no_mean():
    found = noise.gaussian_noise(np.full(SHAPE, 0.5), rng(), 0.08) - 0.5
    assert found.std() == pytest.approx(0.08, rel=0.02)
    assert abs(found.mean()) < 4 * 0.08 / np.sqrt(found.size)


def test_the_channels_have_their_own_noise():
    found = noise.gaussian_noise(np.full(SHAPE, 0.5), rng(), 0.08).reshape(-1, 3)
    np.testing.assert_allclose(np.corrcoef(found.T), np.eye(3), atol=0.05)


@pytest.mark.parametrize("value", [0.1, 0.8])
def test_shot_noise_has_the_mean_and_the_variance_of_counts(value):
    found = noise.shot_noise(np.full(SHAPE, value), rng(), 25)
    assert found.mean() == pytest.approx(value, rel=0.02)
    assert found.var() == pytest.approx(value / 25, rel=0.05)
    np.testing.assert_allclose(found * 25, np.round(found * 25), atol=1e-9)


def test_impulse_noise_replaces_a_share_by_black_and_white():
    found = noise.impulse_noise(np.full(SHAPE, 0.5), rng(), 0.17)
    assert np.mean(found != 0.5) == pytest.approx(0.17, rel=0.05)
    assert np.mean(found[found != 0.5]) == pytest.approx(0.5, abs=0.03)
    assert set(np.unique(found)) == {0.0, 0.5, 1.0}
