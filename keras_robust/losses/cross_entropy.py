"""Cross-entropy per example, from logits."""

from keras import ops

from keras_robust.losses.labels import to_rows


def cross_entropy(y_true, logits):
    """Returns `-sum_j y_j log softmax(logits)_j`, shape `(batch_size,)`.

    FGSM and PGD maximize this loss. Its gradient vanishes in float32 if the model is very
    confident; the gradient of `margin` does not.

    Args:
        y_true: class indices, one-hot rows or soft rows.
        logits: float tensor `(batch_size, num_classes)`.

    Example:

    >>> import numpy as np
    >>> from keras_robust import losses
    >>> print(np.round(losses.cross_entropy(np.array([0]), np.zeros((1, 4), "float32")), 3))
    [1.386]
    """
    logits = ops.convert_to_tensor(logits)
    rows = to_rows(y_true, logits.shape[-1])
    return -ops.sum(rows * ops.log_softmax(logits, axis=-1), axis=-1)
