"""The soft margin: the lead of all wrong classes together over the true class."""

import keras
import numpy as np
from keras import ops

from keras_robust.losses.labels import to_indices


def soft_margin(y_true, logits):
    """Returns `log sum_{j != y} exp(z_j) - z_y`, shape `(batch_size,)`.

    The soft margin is the logarithm of the odds against the true class: zero if the true class has
    probability 1/2. It is a smooth upper bound of `margin`, larger by at most
    `log(num_classes - 1)`.

    Args:
        y_true: class indices, or rows whose largest entry marks the class.
        logits: float tensor `(batch_size, num_classes)`.

    Example:

    >>> import numpy as np
    >>> from keras_robust import losses
    >>> logits = np.array([[1.0, 0.0, 0.0]], "float32")
    >>> print(np.round(losses.soft_margin(np.array([0]), logits), 4))
    [-0.3069]
    """
    logits = ops.convert_to_tensor(logits)
    true = ops.one_hot(to_indices(y_true, logits.shape[-1]), logits.shape[-1], dtype=logits.dtype)
    # exp(-inf) is exactly 0, so the true class adds nothing to the sum.
    others = ops.where(true > 0, -np.inf, logits)
    return ops.logsumexp(others, axis=-1) - ops.sum(logits * true, axis=-1)


@keras.saving.register_keras_serializable(package="keras_robust")
class SoftMargin(keras.losses.Loss):
    """Mean of `soft_margin` over a batch, as a Keras loss.

    Call arguments: `y_true`, class indices `(batch_size,)`; `y_pred`, logits
    `(batch_size, num_classes)`; `sample_weight`, optional, `(batch_size,)`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> loss = kr.losses.SoftMargin()
    >>> print(round(float(loss(np.array([0]), np.array([[1.0, 0.0, 0.0]], "float32"))), 4))
    -0.3069

    References:
        - [Ding et al., 2020](https://arxiv.org/abs/1812.02637)
    """

    def call(self, y_true, y_pred):
        return soft_margin(y_true, y_pred)
