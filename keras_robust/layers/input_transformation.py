"""What input transformations with steps share: a backward pass that attacks can use."""

import keras
from keras import ops

from keras_robust.configurable import to_config_value
from keras_robust.threat_models.parsing import parse_bounds


class InputTransformation(keras.layers.Layer):
    """Computes a step function `g(x)` forward and the gradient of a smooth `s(x)` backward (BPDA).

    `s(x) + [g(x) - s(x)]`, the bracket held fixed: backward pass differentiable approximation
    (Athalye, Carlini and Wagner, 2018). The value is `g(x)` bit for bit, and the gradient is that
    of `s`, by default the identity. So whoever attacks or trains the model goes through the
    transformation instead of stopping at it.

    **With `bpda=False` the gradient is zero**, as that of a step function is, and every gradient
    attack on the model is blind: it reports a robustness that is not there. That is for showing
    what masked gradients look like, never for a defence.

    A subclass writes `transform(x)`, `g`, and may write `surrogate(x)`, `s`, of the same shape.
    Both get float32 (float64 under that policy) whatever the dtype policy, because half precision
    has too few levels; the output has the compute dtype of the policy.

    Args:
        bpda: bool, whether the gradient is that of the surrogate, or zero. Defaults to `True`.
        bounds: pair of numbers, or of arrays with a number for each channel: the range of valid
            values. Defaults to `(0.0, 1.0)`.
        **kwargs: `name`, `dtype` and others of `keras.layers.Layer`.

    References:
        - [Athalye et al., 2018](https://arxiv.org/abs/1802.00420)
    """

    def __init__(self, *, bpda=True, bounds=(0.0, 1.0), **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.bpda = bool(bpda)
        self.bounds = parse_bounds(bounds)
        if self.bounds is None:
            raise ValueError(
                f"{type(self).__name__} needs the range of valid values: a pair (low, high). "
                "Received: bounds=None"
            )

    def transform(self, x):
        """Returns `g(x)`, the step function."""
        raise NotImplementedError

    def surrogate(self, x):
        """Returns `s(x)`, whose gradient takes the place of that of `g`; the shape is that of `g`.

        The identity unless a subclass says otherwise.
        """
        return x

    def call(self, x):
        x = ops.cast(x, keras.backend.result_type(self.compute_dtype, "float32"))
        smooth = self.surrogate(x)
        # In this order the smooth part adds exactly 0 to the value.
        slope = smooth - ops.stop_gradient(smooth)
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
        # What never changes is 0.
        return ops.where(high > low, (x - low) / ops.where(high > low, high - low, 1.0), 0.0)

    def from_unit(self, x):
        """Maps `[0, 1]` to the bounds."""
        low, high = self._bounds_like(x)
        return low + x * (high - low)

    def _bounds_like(self, x):
        return [ops.convert_to_tensor(bound, dtype=x.dtype) for bound in self.bounds]


def check_count(name, value, minimum, maximum):
    """Returns `value`, or says that it is no whole number in the range."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    if not is_count or not minimum <= value <= maximum:
        raise ValueError(
            f"Argument `{name}` must be a whole number from {minimum} to {maximum}. "
            f"Received: {name}={value!r}"
        )
    return value
