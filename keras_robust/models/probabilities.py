"""Probabilities among the outputs of a model, and the logits that they come from."""

from keras import ops

# The losses of Keras clip probabilities at the same number.
_TINY = 1e-7
# In bfloat16 each probability has an error of up to 2**-9, so that sums are off by about this much.
_SUM_SLACK = 4e-3


def are_probabilities(outputs):
    """Returns a scalar bool tensor: whether all rows of float32 `outputs` are probabilities."""
    return ops.all(rows_of_probabilities(outputs))


def rows_of_probabilities(outputs):
    """Returns a bool tensor: which rows of float32 `outputs` are probabilities.

    The tolerance allows probabilities that were computed in half precision.
    """
    sums = ops.sum(outputs, axis=-1)
    return ops.logical_and(ops.all(outputs >= 0.0, axis=-1), ops.abs(sums - 1.0) < _SUM_SLACK)


def inverse_activation(outputs):
    """Returns logits from probabilities; they saturate where a probability is 0 or 1."""
    outputs = ops.clip(ops.cast(outputs, "float32"), _TINY, 1.0 - _TINY)
    if outputs.shape[-1] == 1:
        return ops.log(outputs) - ops.log(1.0 - outputs)
    return ops.log(outputs)
