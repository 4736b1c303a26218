"""The distillation loss between a student and its teacher at a temperature."""

import math
import numbers

import keras

from keras_robust.losses.kl_divergence import kl_divergence


def check_temperature(temperature):
    """Returns `temperature`, or raises ValueError unless it is a positive number."""
    is_number = isinstance(temperature, numbers.Real) and not isinstance(temperature, bool)
    if not is_number or not math.isfinite(temperature) or temperature <= 0.0:
        raise ValueError(
            "Argument `temperature` must be a number above 0: 1 for plain softmax, more for softer "
            f"probabilities. Received: temperature={temperature!r}"
        )
    return temperature


def soft_targets(teacher_logits, logits, temperature):
    """Returns `T^2 KL(softmax(teacher / T) || softmax(z / T))`, shape `(batch_size,)`.

    This is the distillation loss of Hinton et al. (2015). The factor `T^2` preserves the size of
    the gradient, which the two divisions by `T` would otherwise reduce by about `T^2`.

    Args:
        teacher_logits: float tensor `(batch_size, num_classes)`.
        logits: float tensor `(batch_size, num_classes)`, the logits of the student.
        temperature: float above 0.

    Example:

    >>> import numpy as np
    >>> from keras_robust import losses
    >>> teacher = np.array([[0.0, 0.0]], "float32")
    >>> student = np.array([[0.0, 2.0 * np.log(3.0)]], "float32")
    >>> print(np.round(losses.soft_targets(teacher, student, temperature=2.0), 4))
    [0.5754]
    """
    divergence = kl_divergence(teacher_logits / temperature, logits / temperature)
    return temperature**2 * divergence


@keras.saving.register_keras_serializable(package="keras_robust")
class SoftTargets(keras.losses.Loss):
    """Mean of `soft_targets` over a batch, as a Keras loss.

    Use it for a teacher whose logits are computed in advance: `model.fit(x, teacher_logits)`. If
    the teacher must see every batch, and for robust students, use the objectives
    `DefensiveDistillation`, `ARD` and `RSLAD`.

    Call arguments: `y_true`, logits of the teacher, and `y_pred`, logits, both
    `(batch_size, num_classes)`; `sample_weight`, optional, `(batch_size,)`.

    Args:
        temperature: float above 0.
        **kwargs: `name`, `reduction` and `dtype` of `keras.losses.Loss`.

    Raises:
        ValueError: if `temperature` is not a positive number.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> loss = kr.losses.SoftTargets(temperature=20.0)
    >>> print(float(loss(np.zeros((1, 2), "float32"), np.zeros((1, 2), "float32"))))
    0.0

    References:
        - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """

    def __init__(self, temperature, **kwargs):
        super().__init__(**kwargs)
        self.temperature = check_temperature(temperature)

    def call(self, y_true, y_pred):
        return soft_targets(y_true, y_pred, self.temperature)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}
