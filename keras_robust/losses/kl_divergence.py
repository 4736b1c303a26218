"""The Kullback-Leibler divergence between two predictions, both given as logits."""

import keras
from keras import ops


def kl_divergence(reference_logits, logits):
    """Returns `sum_j p_j (log p_j - log q_j)`, shape `(batch_size,)`, from two sets of logits.

    `p = softmax(reference_logits)` and `q = softmax(logits)`. Both use `log_softmax`, so that no
    probability is clipped (`keras.losses.KLDivergence` clips at 1e-7, which makes gradients zero).
    The gradient with respect to the input is zero where `p = q`, so that a search must not start at
    `x`.

    Args:
        reference_logits: float tensor `(batch_size, num_classes)`.
        logits: float tensor `(batch_size, num_classes)`.

    Example:

    >>> import numpy as np
    >>> from keras_robust import losses
    >>> p, q = np.array([[0.0, 0.0]], "float32"), np.array([[0.0, np.log(3.0)]], "float32")
    >>> print(np.round(losses.kl_divergence(p, q), 4))
    [0.1438]
    """
    log_p = ops.log_softmax(reference_logits, axis=-1)
    log_q = ops.log_softmax(logits, axis=-1)
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


@keras.saving.register_keras_serializable(package="keras_robust")
class LogitKLDivergence(keras.losses.Loss):
    """Mean of `kl_divergence` over a batch, as a Keras loss.

    Call arguments: `y_true`, reference logits, and `y_pred`, logits, both
    `(batch_size, num_classes)`; `sample_weight`, optional, `(batch_size,)`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> loss = kr.losses.LogitKLDivergence()
    >>> print(float(loss(np.zeros((1, 2), "float32"), np.zeros((1, 2), "float32"))))
    0.0

    References:
        - [Zhang et al., 2019](https://arxiv.org/abs/1901.08573)
    """

    def call(self, y_true, y_pred):
        return kl_divergence(y_true, y_pred)
