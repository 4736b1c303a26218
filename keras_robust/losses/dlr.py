"""The difference of logits ratio (DLR): a margin that is invariant to the scale of the logits."""

import keras
from keras import ops

from keras_robust.losses.labels import to_indices
from keras_robust.losses.margin import margin

_TINY = 1e-12  # Avoids a division by zero if the three largest logits are equal.


def dlr(y_true, logits):
    """Returns `-(z_y - max_{j != y} z_j) / (z_p1 - z_p3)`, shape `(batch_size,)`.

    `z_p1 >= z_p2 >= ...` are the sorted logits. The loss is invariant to shift and scale of the
    logits, which defeats models that mask their gradients by large logits.

    Args:
        y_true: class indices, or rows whose largest entry marks the class.
        logits: float tensor `(batch_size, num_classes)`, at least 3 classes.

    Raises:
        ValueError: with fewer than three classes, where the loss is not defined.

    Example:

    >>> import numpy as np
    >>> from keras_robust import losses
    >>> print(np.round(losses.dlr(np.array([1]), np.array([[2.0, 5.0, 1.0]], "float32")), 3))
    [-0.75]
    """
    logits = ops.convert_to_tensor(logits)
    num_classes = logits.shape[-1]
    if num_classes < 3:
        raise ValueError(
            'The loss "dlr" needs at least 3 classes; use loss="margin" for two. Received: logits '
            f"of shape {tuple(logits.shape)}"
        )
    top = ops.top_k(logits, 3)[0]
    indices = to_indices(y_true, num_classes)
    return margin(indices, logits) / (top[:, 0] - top[:, 2] + _TINY)


@keras.saving.register_keras_serializable(package="keras_robust")
class DLR(keras.losses.Loss):
    """Mean of `dlr` over a batch, as a Keras loss.

    Call arguments: `y_true`, class indices `(batch_size,)`; `y_pred`, logits
    `(batch_size, num_classes)` with at least 3 classes; `sample_weight`, optional,
    `(batch_size,)`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> loss = kr.losses.DLR()
    >>> print(float(loss(np.array([1]), np.array([[2.0, 5.0, 1.0]], "float32"))))
    -0.75

    References:
        - [Croce and Hein, 2020](https://arxiv.org/abs/2003.01690)
    """

    def call(self, y_true, y_pred):
        return dlr(y_true, y_pred)
