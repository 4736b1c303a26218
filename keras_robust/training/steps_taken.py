"""The number of optimizer steps that a model has taken, also after an overflow."""

import keras
import numpy as np
from keras import ops

from keras_robust.backend.keras_internals import num_batches


def steps_taken(optimizer):
    """Returns `optimizer.iterations`, a tensor `()` in the dtype in which Keras counts.

    The dtype is int32 on JAX, and after 2**31 - 1 steps the counter overflows to negative numbers.
    They are replaced by the largest number, so that a schedule stays at its end.
    """
    iterations = optimizer.iterations + 0
    dtype = keras.backend.standardize_dtype(iterations.dtype)
    last = ops.convert_to_tensor(np.iinfo(dtype).max, dtype)
    return ops.where(iterations < 0, last, iterations)


def batches_seen(optimizer):
    """Returns the number of batches that the optimizer has seen, int32 `()`, modulo 2**32.

    It is part of a seed. `iterations` would not change within accumulated gradients.
    """
    return ops.cast(num_batches(optimizer) + 0, "int32")


def read_steps(optimizer):
    """Returns `steps_taken` as an int."""
    return int(ops.convert_to_numpy(steps_taken(optimizer)))
