"""Temperature of a softmax."""

import keras
import numpy as np
from keras import ops
from scipy import optimize
from scipy import special

from keras_robust import losses

_RANGE = (1e-3, 1e3)


@keras.saving.register_keras_serializable(package="keras_robust")
class Temperature(keras.layers.Layer):
    """Divides logits by a temperature `T` to calibrate probabilities. Not a defense.

    The layer returns `z / T`. Put it after the last layer, but before a softmax. `calibrate` sets
    `T` so that the probabilities `softmax(z / T)` of a trained model fit validation labels best
    (temperature scaling, Guo et al., 2017). `T` is a non-trainable weight and is saved with the
    model.

    Predictions do not change, so accuracy and true robust accuracy do not change. A small `T`
    saturates the softmax: at `T = 0.01` the gradient of the cross-entropy is 0 or lost in rounding
    for most examples. Attacks on the cross-entropy then fail, which is why defensive distillation
    looked robust, while attacks on the margin still work. The calibration holds for examples like
    the validation examples, not for adversarial ones.

    Deviations from the paper: a bounded scalar search replaces L-BFGS. Cost: none.

    Args:
        temperature: float above 0, `T`. Defaults to `1.0`.
        **kwargs: arguments of `keras.layers.Layer`, for example `name` and `dtype`.

    Call arguments: `logits`, float `(..., num_classes)`. Returns the same shape in the compute
    dtype; the division is in float32 or better.

    Raises:
        ValueError: if `temperature` is not a positive number.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> layer = kr.layers.Temperature()
    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]], "float32")
    >>> print(f"{layer.calibrate(logits, np.array([0, 0, 0, 1])):.3f}")
    3.641
    >>> print(np.round(keras.ops.softmax(layer(logits))[0], 3))
    [0.75 0.25]

    References:
        - [Guo et al., 2017](https://arxiv.org/abs/1706.04599)
        - [Carlini and Wagner, 2016](https://arxiv.org/abs/1607.04311)
    """

    def __init__(self, temperature=1.0, **kwargs):
        # Keras must not cast the logits to half precision before the division.
        super().__init__(autocast=False, **kwargs)
        self._temperature = self.add_weight(
            name="temperature",
            shape=(),
            initializer=keras.initializers.Constant(losses.check_temperature(temperature)),
            dtype="float32",
            trainable=False,
        )

    @property
    def temperature(self):
        """The current temperature, a float."""
        return float(self._temperature)

    def call(self, logits):
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        scaled = ops.cast(logits, dtype) / ops.cast(self._temperature, dtype)
        return ops.cast(scaled, self.compute_dtype)

    def calibrate(self, logits, y):
        """Sets the temperature that minimizes the cross-entropy, and returns it.

        Args:
            logits: float array `(n, num_classes)`, the input of this layer for validation examples
                that training did not see.
            y: class indices `(n,)` or probabilities `(n, num_classes)`.

        Returns:
            float, from 0.001 to 1000. It is near 0 if every prediction is correct, because the
            cross-entropy then falls without limit. Use more examples in that case.
        """
        logits = np.asarray(logits, "float64")
        if logits.ndim != 2 or not len(logits) or not np.isfinite(logits).all():
            raise ValueError(
                "Expected finite logits (n, num_classes) of at least one example. "
                f"Received: logits of shape {logits.shape}"
            )
        rows = np.asarray(losses.to_rows(y, logits.shape[-1]), "float64")

        # The search is over the logarithm, because useful temperatures differ by factors.
        def cross_entropy(log_temperature):
            return -np.mean(
                np.sum(rows * special.log_softmax(logits / np.exp(log_temperature), -1), -1)
            )

        found = optimize.minimize_scalar(
            cross_entropy, bounds=np.log(_RANGE), method="bounded", options={"xatol": 1e-8}
        )
        self._temperature.assign(np.exp(found.x))
        return self.temperature

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}
