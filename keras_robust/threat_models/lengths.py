"""Euclidean lengths of perturbations of any size that float32 has."""

from keras import ops

from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example

LARGEST = 3e38
_PART = 0.125


def normalised(delta):
    """Returns the direction of length 1 and the length of each example, `(batch_size,)`.

    Squares of what is below 1e-19 or above 1e19 would leave float32: all is divided by the largest
    entry first. The direction of zeros is zero.

    Args:
        delta: float tensor `(batch_size, ...)`; infinite entries count as the largest number.
    """
    delta = ops.clip(delta, -LARGEST, LARGEST)
    largest = ops.max(flatten(ops.abs(delta)), axis=-1)
    # XLA may multiply by the reciprocal, which must not underflow either. It would cancel a part
    # that is the same for all examples.
    one = ops.ones_like(largest)
    part = ops.where(largest > 1.0, _PART * one, one)
    unit = ops.where(largest > 0.0, part * largest, 1.0)
    shares = per_example(part, delta) * delta / per_example(unit, delta)
    length = ops.sqrt(ops.sum(flatten(ops.square(shares)), axis=-1))
    return shares / per_example(ops.maximum(length, 1.0), delta), largest * length
