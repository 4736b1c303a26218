"""Euclidean lengths that neither overflow nor underflow in float32."""

from keras import ops

from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example

LARGEST = 3e38  # Near the largest float32, 3.4e38.
_PART = 0.125  # A power of two, so that multiplying by it does not round.


def normalised(delta):
    """Returns the direction, of length 1, and the length `(batch_size,)` of each example.

    Squares of entries below 1e-19 or above 1e19 leave the range of float32, so all entries are
    divided by the largest one first. The direction of a zero perturbation is zero.

    Args:
        delta: float tensor `(batch_size, ...)`; infinite entries count as the largest number.
    """
    delta = ops.clip(delta, -LARGEST, LARGEST)
    largest = ops.max(flatten(ops.abs(delta)), axis=-1)
    # XLA may multiply by the reciprocal, which must not underflow either. A factor that is the same
    # for all examples would be canceled by XLA.
    one = ops.ones_like(largest)
    part = ops.where(largest > 1.0, _PART * one, one)
    unit = ops.where(largest > 0.0, part * largest, 1.0)
    shares = per_example(part, delta) * delta / per_example(unit, delta)
    length = ops.sqrt(ops.sum(flatten(ops.square(shares)), axis=-1))
    # The largest share is 1, so only a perturbation of zeros has a length below 1.
    return shares / per_example(ops.maximum(length, 1.0), delta), largest * length
