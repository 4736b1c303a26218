"""Cross-entropy of a softmax with a temperature, the loss of defensive distillation."""

import keras
from keras import ops

from keras_robust import backend
from keras_robust.losses.cross_entropy import cross_entropy
from keras_robust.losses.soft_targets import check_temperature


def temperature_cross_entropy(y_true, logits, temperature):
    """Returns `-sum_j y_j log softmax(logits / T)_j`, shape `(batch_size,)`.

    A model trained with this loss has logits about `T` times as large as usual, to compensate for
    the division.

    Args:
        y_true: class indices, one-hot rows or soft rows.
        logits: float tensor `(batch_size, num_classes)`.
        temperature: float above 0.

    Example:

    >>> import numpy as np
    >>> from keras_robust import losses
    >>> z = np.array([[0.0, 20.0 * np.log(3.0)]], "float32")
    >>> print(np.round(losses.temperature_cross_entropy(np.array([0]), z, temperature=20.0), 4))
    [1.3863]
    """
    return cross_entropy(y_true, ops.convert_to_tensor(logits) / temperature)


@keras.saving.register_keras_serializable(package="keras_robust")
class TemperatureCrossEntropy(keras.losses.Loss):
    """Mean of `temperature_cross_entropy` over a batch, as a Keras loss.

    This package treats a model compiled with it as a classifier. Its outputs are logits, which are
    attacked, evaluated and exported unchanged, at temperature 1. The gradient is divided by `T`.
    Adam is insensitive to this; plain SGD needs a larger learning rate.

    Call arguments: `y_true`, class indices `(batch_size,)` or `(batch_size, 1)`, one-hot or soft
    rows `(batch_size, num_classes)`; `y_pred`, logits `(batch_size, num_classes)`;
    `sample_weight`, optional, `(batch_size,)`.

    Args:
        temperature: float above 0.
        **kwargs: `name`, `reduction` and `dtype` of `keras.losses.Loss`.

    Raises:
        ValueError: if `temperature` is not a positive number, and when it is called on the outputs
            of a softmax.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> loss = kr.losses.TemperatureCrossEntropy(temperature=20.0)
    >>> print(round(float(loss(np.array([0]), np.zeros((1, 4), "float32"))), 3))
    1.386

    References:
        - [Papernot et al., 2016](https://arxiv.org/abs/1511.04508)
    """

    def __init__(self, temperature, **kwargs):
        super().__init__(**kwargs)
        self.temperature = check_temperature(temperature)

    def call(self, y_true, y_pred):
        if backend.keras_logits(y_pred) is not None:
            raise ValueError(
                "A temperature divides logits, but the model ends in a softmax or sigmoid. Remove "
                f"the last activation. Received: outputs of shape {tuple(y_pred.shape)} that an "
                "activation made"
            )
        return temperature_cross_entropy(y_true, y_pred, self.temperature)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}
