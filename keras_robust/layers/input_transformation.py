"""Base class of input transformations: step functions with a gradient that attacks can use."""

import keras
from keras import ops

from keras_robust.configurable import to_config_value
from keras_robust.threat_models.parsing import parse_bounds


class InputTransformation(keras.layers.Layer):
    """Computes a step function `g(x)` forward and the gradient of a smooth `s(x)` backward (BPDA).

    The layer computes `s(x) + [g(x) - s(x)]` with a constant bracket, which is the backward pass
    differentiable approximation of Athalye, Carlini and Wagner (2018). The value is exactly `g(x)`,
    and the gradient is the gradient of `s`, by default the identity. Attacks and training
    therefore see a useful gradient through the transformation.

    **With `bpda=False` the gradient is zero**, like the gradient of any step function. Gradient
    attacks then fail and report robustness that does not exist. Use it to demonstrate masked
    gradients, never as a defense.

    A subclass implements `transform(x)`, which is `g`, and may implement `surrogate(x)`, which is
    `s` and has the same output shape. Both receive float32 even under a policy of half precision,
    which has too few levels, and float64 under the policy `"float64"`. The output has the compute
    dtype of the policy.

    Args:
        bpda: bool, whether to use the gradient of the surrogate instead of zero. Defaults to
            `True`.
        bounds: pair of numbers, or pair of arrays with a number for each channel: the range of
            valid values. Defaults to `(0.0, 1.0)`.
        **kwargs: arguments of `keras.layers.Layer`, for example `name` and `dtype`.

    References:
        - [Athalye et al., 2018](https://arxiv.org/abs/1802.00420)
    """

    def __init__(self, *, bpda=True, bounds=(0.0, 1.0), **kwargs):
        # Keras must not cast the inputs to half precision before the steps are computed.
        super().__init__(autocast=False, **kwargs)
        self.bpda = bool(bpda)
        self.bounds = parse_bounds(bounds)
        if self.bounds is None:
            raise ValueError(
                f"{type(self).__name__} needs the range of valid values as a pair (low, high). "
                "Received: bounds=None"
            )

    def transform(self, x):
        """Returns `g(x)`, the step function."""
        raise NotImplementedError

    def surrogate(self, x):
        """Returns `s(x)`, whose gradient replaces the gradient of `g`. Defaults to the identity."""
        return x

    def call(self, x):
        x = ops.cast(x, keras.backend.result_type(self.compute_dtype, "float32"))
        smooth = self.surrogate(x)
        # `slope` is exactly 0 in value, so the output equals `transform(x)` bit for bit.
        slope = smooth - ops.stop_gradient(smooth)
        # With weight 0 the gradient is zero, as that of a step function. Without the term it would
        # not exist, and attacks would refuse the model.
        weight = 1.0 if self.bpda else 0.0
        value = ops.stop_gradient(self.transform(x)) + weight * slope
        return ops.cast(value, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "bpda": self.bpda, "bounds": to_config_value(self.bounds)}

    def to_unit(self, x):
        """Maps the bounds to `[0, 1]`."""
        low, high = self._bounds_like(x)
        # A channel whose bounds are equal maps to 0; avoid the division by zero.
        return ops.where(high > low, (x - low) / ops.where(high > low, high - low, 1.0), 0.0)

    def from_unit(self, x):
        """Maps `[0, 1]` to the bounds."""
        low, high = self._bounds_like(x)
        return low + x * (high - low)

    def _bounds_like(self, x):
        return [ops.convert_to_tensor(bound, dtype=x.dtype) for bound in self.bounds]


def check_count(name, value, minimum, maximum):
    """Returns `value`. Raises ValueError unless it is an int from `minimum` to `maximum`."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    if not is_count or not minimum <= value <= maximum:
        raise ValueError(
            f"Argument `{name}` must be a whole number from {minimum} to {maximum}. "
            f"Received: {name}={value!r}"
        )
    return value
