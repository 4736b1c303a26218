"""The margin: the lead of the best wrong class over the true class."""

import keras
import numpy as np
from keras import ops

from keras_robust.losses.labels import to_indices


def margin(y_true, logits):
    """Returns `max_{j != y} z_j - z_y`, shape `(batch_size,)`: positive when misclassified.

    This is the loss of Carlini and Wagner (2017), without their confidence. The loss grows
    with the logits and never saturates.

    Args:
        y_true: class indices, or rows whose largest entry marks the class.
        logits: float tensor `(batch_size, num_classes)`.

    Example:

    >>> import numpy as np
    >>> from keras_robust import losses
    >>> print(np.round(losses.margin(np.array([1]), np.array([[2.0, 5.0, 1.0]], "float32")), 3))
    [-3.]
    """
    logits = ops.convert_to_tensor(logits)
    true = ops.one_hot(to_indices(y_true, logits.shape[-1]), logits.shape[-1], dtype=logits.dtype)
    # Infinite, because the other logits may lie below any finite number.
    others = ops.where(true > 0, -np.inf, logits)
    return ops.max(others, axis=-1) - ops.sum(logits * true, axis=-1)


@keras.saving.register_keras_serializable(package="keras_robust")
class Margin(keras.losses.Loss):
    """Mean of `margin` over a batch, as a Keras loss.

    Call arguments: `y_true`, class indices `(batch_size,)`; `y_pred`, logits
    `(batch_size, num_classes)`; `sample_weight`, optional, `(batch_size,)`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> loss = kr.losses.Margin()
    >>> print(float(loss(np.array([1]), np.array([[2.0, 5.0, 1.0]], "float32"))))
    -3.0

    References:
        - [Carlini and Wagner, 2017](https://arxiv.org/abs/1608.04644)
    """

    def call(self, y_true, y_pred):
        return margin(y_true, y_pred)
