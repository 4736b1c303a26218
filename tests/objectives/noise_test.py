import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust.objectives.noise import with_noise
from tests.support import forward_passes


@pytest.mark.parametrize("stddev", [0.1, 0.5])
def test_noise_has_its_standard_deviation(stddev):
    x = np.full((500, 20), 0.3, "float32")
    noise = with_noise(forward_passes.batch(x, ball=kr.Linf(0.1, None)), stddev) - x
    # 10,000 numbers: the standard error of the deviation is stddev / sqrt(20,000), 0.7%.
    assert np.std(noise) == pytest.approx(stddev, rel=0.03)
    assert abs(np.mean(noise)) < 0.04 * stddev


def test_noise_comes_from_the_seed_of_the_batch():
    batch = forward_passes.batch(ball=kr.Linf(0.1, None), seed=(5, 6))
    expected = forward_passes.X + 0.2 * np.asarray(
        backend.normal(forward_passes.X.shape, batch.seed)
    )
    np.testing.assert_allclose(with_noise(batch, 0.2), expected, rtol=1e-6)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.2, 0.5)])
def test_noise_is_clipped_to_the_bounds(bounds):
    free, found = (
        with_noise(forward_passes.batch(ball=kr.Linf(0.1, b)), 0.5) for b in (None, bounds)
    )
    np.testing.assert_allclose(found, np.clip(free, *bounds), rtol=1e-6)
    assert np.any(found != free)


def test_a_schedule_is_read_at_the_step_of_the_batch():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 10, 0.3)
    batch = forward_passes.batch(iteration=5)
    np.testing.assert_allclose(with_noise(batch, schedule), with_noise(batch, 0.2), rtol=1e-6)
