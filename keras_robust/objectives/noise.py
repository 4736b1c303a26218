"""Gaussian noise on the examples of a batch."""

from keras import ops

from keras_robust import backend


def with_noise(batch, stddev):
    """Returns the examples of a `training.Batch` with Gaussian noise, clipped to the bounds.

    Args:
        batch: a `training.Batch`.
        stddev: float, or a `LearningRateSchedule` over optimizer steps.
    """
    stddev = stddev(batch.iteration) if callable(stddev) else stddev
    noisy = batch.x + stddev * backend.normal(ops.shape(batch.x), batch.seed)
    bounds = batch.threat_model.bounds
    return noisy if bounds is None else ops.clip(noisy, *bounds)
