"""Conversion of labels: class indices, one-hot rows, soft rows, a binary column."""

import keras
from keras import ops


def to_indices(y, num_classes):
    """Returns int32 class indices `(batch_size,)`.

    Args:
        y: indices of shape `(batch_size,)` or `(batch_size, 1)`, or rows
            `(batch_size, num_classes)`, whose largest entry marks the class.
        num_classes: int.

    Raises:
        ValueError: for labels of another shape.
    """
    y = ops.convert_to_tensor(y)
    if _are_rows(y, num_classes):
        return ops.cast(ops.argmax(y, axis=-1), "int32")
    if len(y.shape) > 2 or (len(y.shape) == 2 and y.shape[-1] not in (1, None)):
        raise ValueError(
            f"Labels must be class indices, or rows with one entry for each of the {num_classes} "
            f"classes. Received: labels of shape {tuple(y.shape)}"
        )
    y = ops.reshape(y, (-1,))
    # A cast would turn a soft binary label such as 0.9 into class 0.
    if keras.backend.is_float_dtype(y.dtype):
        y = ops.round(y)
    return ops.cast(y, "int32")


def to_rows(y, num_classes):
    """Returns the labels as float32 rows of probabilities `(batch_size, num_classes)`."""
    y = ops.convert_to_tensor(y)
    if _are_rows(y, num_classes):
        return ops.cast(y, "float32")
    # A column of floats may hold soft binary labels, the probabilities of class 1.
    if num_classes == 2 and keras.backend.is_float_dtype(y.dtype):
        y = ops.reshape(ops.cast(y, "float32"), (-1, 1))
        return ops.concatenate([1.0 - y, y], axis=-1)
    return ops.one_hot(to_indices(y, num_classes), num_classes, dtype="float32")


def _are_rows(y, num_classes):
    return len(y.shape) == 2 and y.shape[-1] == num_classes
