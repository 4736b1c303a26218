"""The mean squared distance between two sets of logits."""

import keras
from keras import ops


def logit_distance(reference_logits, logits):
    """Returns `mean_j (z_j - z'_j)^2`, shape `(batch_size,)`.

    This is the pairing term of Kannan et al. (2018), averaged over the classes as in the authors'
    code.

    Args:
        reference_logits: float tensor `(batch_size, num_classes)`.
        logits: float tensor `(batch_size, num_classes)`.

    Example:

    >>> import numpy as np
    >>> from keras_robust import losses
    >>> a, b = np.array([[1.0, 2.0]], "float32"), np.array([[1.0, 4.0]], "float32")
    >>> print(np.round(losses.logit_distance(a, b), 3))
    [2.]
    """
    return ops.mean(ops.square(reference_logits - logits), axis=-1)


@keras.saving.register_keras_serializable(package="keras_robust")
class LogitDistance(keras.losses.Loss):
    """Mean of `logit_distance` over a batch, as a Keras loss.

    Call arguments: `y_true`, reference logits, and `y_pred`, logits, both
    `(batch_size, num_classes)`; `sample_weight`, optional, `(batch_size,)`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> loss = kr.losses.LogitDistance()
    >>> print(float(loss(np.array([[1.0, 2.0]], "float32"), np.array([[1.0, 4.0]], "float32"))))
    2.0

    References:
        - [Kannan et al., 2018](https://arxiv.org/abs/1803.06373)
    """

    def call(self, y_true, y_pred):
        return logit_distance(y_true, y_pred)
