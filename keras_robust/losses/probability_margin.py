"""The probability margin: the lead of the best wrong class in probability."""

import keras
from keras import ops

from keras_robust.losses.margin import margin
from keras_robust.losses.soft_margin import soft_margin


def probability_margin(y_true, logits):
    """Returns `max_{j != y} p_j - p_y` for `p = softmax(z)`, shape `(batch_size,)`.

    The loss of the probability margin attack (PMA), with the sign of a loss to maximize: positive
    when misclassified, and between -1 and 1. Unlike that of `margin`, its gradient fades as a wrong
    class wins.

    It is computed as `q (1 + r) - 1`. `q = sigmoid(soft_margin)` is the probability of all wrong
    classes together, and `r = exp(margin - soft_margin)` the share of the best one. The textbook
    form loses its gradient in float32 where `p_y` rounds to 1, at a lead of 17 in logits; this form
    keeps it up to a lead of about 80. The value itself rounds to -1 there, so that an attack which
    compares values, such as `APGD`, sees no progress; `PGD` needs the gradient only.

    Deviations from the authors' code: the form above. Their attack changes its loss on the way, and
    this function is the loss of its second half.

    Args:
        y_true: class indices, or rows whose largest entry marks the class.
        logits: float tensor `(batch_size, num_classes)`.

    Example:

    >>> import numpy as np
    >>> from keras_robust import losses
    >>> logits = np.log(np.array([[0.5, 0.3, 0.2]], "float32"))
    >>> print(np.round(losses.probability_margin(np.array([0]), logits), 3))
    [-0.2]

    References:
        - [Xie et al., 2024](https://arxiv.org/abs/2411.15210)
    """
    # With q the probability of all wrong classes together, and r the share of the strongest one.
    together = soft_margin(y_true, logits)
    share = ops.exp(margin(y_true, logits) - together)
    return ops.sigmoid(together) * (1.0 + share) - 1.0


@keras.saving.register_keras_serializable(package="keras_robust")
class ProbabilityMargin(keras.losses.Loss):
    """Mean of `probability_margin` over a batch, as a Keras loss.

    Call arguments: `y_true`, class indices `(batch_size,)`; `y_pred`, logits
    `(batch_size, num_classes)`; `sample_weight`, optional, `(batch_size,)`.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> logits = np.log(np.array([[0.5, 0.3, 0.2]], "float32"))
    >>> print(round(float(kr.losses.ProbabilityMargin()(np.array([0]), logits)), 3))
    -0.2

    References:
        - [Xie et al., 2024](https://arxiv.org/abs/2411.15210)
    """

    def call(self, y_true, y_pred):
        return probability_margin(y_true, y_pred)
