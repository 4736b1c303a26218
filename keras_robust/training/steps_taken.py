"""How many optimizer steps a model has behind it, also where the counter has run over."""

import keras
import numpy as np
from keras import ops

from keras_robust.backend.keras_internals import num_batches


def steps_taken(optimizer):
    """Returns `optimizer.iterations`, a tensor `()` in the dtype in which Keras counts.

    That is int32 on JAX, which goes on with negative numbers after 2**31 - 1 steps: they stand for
    the largest number, so that what has grown along the steps stays grown.
    """
    iterations = optimizer.iterations + 0
    dtype = keras.backend.standardize_dtype(iterations.dtype)
    last = ops.convert_to_tensor(np.iinfo(dtype).max, dtype)
    return ops.where(iterations < 0, last, iterations)


def batches_seen(optimizer):
    """Returns how many batches the optimizer has seen, int32 `()`, modulo 2**32: part of a seed.

    Gradient accumulation divides `iterations`; here every batch counts.
    """
    return ops.cast(num_batches(optimizer) + 0, "int32")


def read_steps(optimizer):
    """Returns `steps_taken` as an int."""
    return int(ops.convert_to_numpy(steps_taken(optimizer)))
