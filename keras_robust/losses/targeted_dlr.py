"""The targeted difference of logits ratio."""

from keras import ops

from keras_robust.losses.labels import to_indices

_TINY = 1e-12  # Avoids a division by zero if the four largest logits are equal.


def targeted_dlr(y_true, targets, logits):
    """Returns `-(z_y - z_t) / (z_p1 - (z_p3 + z_p4) / 2)`, shape `(batch_size,)`.

    `z_p1 >= z_p2 >= ...` are the sorted logits, and `t` is the target. The loss is invariant to
    shift and scale of the logits.

    Args:
        y_true: class indices, or rows whose largest entry marks the class.
        targets: int tensor `(batch_size,)`, the target classes.
        logits: float tensor `(batch_size, num_classes)`, at least 4 classes.

    Raises:
        ValueError: with fewer than four classes, where the loss is not defined.

    Example:

    >>> import numpy as np
    >>> from keras_robust import losses
    >>> logits = np.array([[2.0, 5.0, 1.0, 0.0]], "float32")
    >>> print(np.round(losses.targeted_dlr(np.array([1]), np.array([0]), logits), 3))
    [-0.667]

    References:
        - [Croce and Hein, 2020](https://arxiv.org/abs/2003.01690)
    """
    logits = ops.convert_to_tensor(logits)
    num_classes = logits.shape[-1]
    if num_classes < 4:
        raise ValueError(
            'The loss "dlr" towards a target needs at least 4 classes; use loss="margin". '
            f"Received: logits of shape {tuple(logits.shape)}"
        )
    top = ops.top_k(logits, 4)[0]
    lead = lead_of(targets, to_indices(y_true, num_classes), logits)
    return lead / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + _TINY)


def lead_of(targets, labels, logits):
    """Returns `z_t - z_y`, shape `(batch_size,)`, for class indices `t` and `y`."""
    num_classes = logits.shape[-1]
    both = ops.one_hot(targets, num_classes, dtype=logits.dtype)
    both = both - ops.one_hot(labels, num_classes, dtype=logits.dtype)
    return ops.sum(logits * both, axis=-1)
