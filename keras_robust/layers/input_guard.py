"""Guard of a served model: it rejects inputs outside the threat model."""

import keras
from keras import ops

from keras_robust import backend
from keras_robust.configurable import short_repr
from keras_robust.configurable import to_config_value
from keras_robust.threat_models.parsing import parse_bounds

_LARGEST = {"uint8": 255.0, "uint16": 65535.0}
_CHOICES = {
    "outside": ("reject", "clip"),
    "non_finite": ("reject", "replace"),
    "integers": ("scale", "cast"),
}


@keras.saving.register_keras_serializable(package="keras_robust")
class InputGuard(keras.layers.Layer):
    """Accepts only inputs of the threat model: finite numbers within its bounds.

    Robustness is measured for inputs within bounds, for example pixels in `[0, 1]`. The measurement
    says nothing about the predictions for other inputs. Put this layer first in a served model;
    `export_saved_model` does so automatically.

    - `outside`: rejects values beyond the bounds, or clips them to the nearest bound. A guard that
      clips accepts a picture in the wrong units, for example 0 to 255 instead of 0 to 1.
    - `non_finite`: rejects NaN and infinities, or replaces them: infinities by the nearest bound,
      NaN by the middle of the bounds. A replaced value is a guess, and no measurement covers the
      prediction for it.
    - `integers`: scales uint8 and uint16 pictures, so that 0 becomes the lower bound and 255 or
      65535 the upper bound, or only casts them. Other integers are always cast.

    A rejected example raises an error for the whole batch, which a server answers with a status
    like 400. Code compiled by XLA and formats other than SavedModel cannot raise this error. In
    them, all values of a rejected example become NaN instead. Some layers hide NaN, so call
    `accepts` to find the rejected examples.

    The guard is not a defense: an adversarial example is finite and within the bounds. The gradient
    is the identity, and 0 for values that were clipped or replaced.

    Cost: one pass over the input.

    Args:
        bounds: pair of numbers, or pair of arrays with a number for each channel, or `None` to
            reject only non-finite numbers. Defaults to `(0.0, 1.0)`.
        outside: `"reject"` or `"clip"`. Defaults to `"reject"`.
        non_finite: `"reject"` or `"replace"`. Defaults to `"reject"`.
        integers: `"scale"` or `"cast"`. Defaults to `"scale"`.
        **kwargs: arguments of `keras.layers.Layer`, for example `name` and `dtype`.

    Call arguments: `x`, numbers of any dtype, `(batch_size, ...)`. Returns the same shape in the
    compute dtype. The checks run in float32 or better.

    Raises:
        ValueError: if `bounds` is not a pair, for unknown choices, and for `"replace"` without
            bounds.
        tensorflow.errors.InvalidArgumentError: in a call, for a batch with a rejected example.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> guard = kr.layers.InputGuard((0, 1), outside="clip", non_finite="replace")
    >>> print(np.asarray(guard(np.array([[0.25, 1e30, -np.inf, np.nan]]))))
    [[0.25 1.   0.   0.5 ]]
    >>> guard = kr.layers.InputGuard((0, 1))
    >>> print(np.asarray(guard.accepts(np.array([[0.25], [1e30], [np.nan]]))))
    [ True False False]

    References:
        - [Carlini et al., 2019](https://arxiv.org/abs/1902.06705) ask threat models to state the
          range of valid inputs.
    """

    def __init__(
        self,
        bounds=(0.0, 1.0),
        *,
        outside="reject",
        non_finite="reject",
        integers="scale",
        **kwargs,
    ):
        # Keras must not cast the inputs before the checks: half precision may move a value inside.
        super().__init__(autocast=False, **kwargs)
        self.bounds = parse_bounds(bounds)
        self.outside = _check_choice("outside", outside)
        self.non_finite = _check_choice("non_finite", non_finite)
        self.integers = _check_choice("integers", integers)
        if self.bounds is None and non_finite == "replace":
            raise ValueError(
                "Without bounds no value can replace infinities: pass `bounds`, or use "
                'non_finite="reject". Received: bounds=None, non_finite="replace"'
            )

    def call(self, x):
        x = self._replaced(self.to_float(x))
        if self._rejects:
            accepted = self._accepted(x)
            x = backend.require_all(accepted, self._message(), x)
            # Adding NaN or 0 is faster than `where`, and leaves accepted examples unchanged.
            offset = ops.where(accepted, ops.cast(0.0, x.dtype), ops.cast(float("nan"), x.dtype))
            x = x + ops.reshape(offset, (-1,) + (1,) * (len(x.shape) - 1))
        # Cast after the check, because half precision may round a value across a bound.
        return ops.cast(self._clipped(x), self.compute_dtype)

    def accepts(self, x):
        """Returns bools `(batch_size,)`: whether this layer accepts each example."""
        return self._accepted(self._replaced(self.to_float(x)))

    def to_float(self, x):
        """Returns `x` as floats, with integer pictures scaled to the bounds, without any check."""
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        x = ops.convert_to_tensor(x)
        largest = _LARGEST.get(keras.backend.standardize_dtype(x.dtype))
        x = ops.cast(x, dtype)
        if largest is None or self.integers == "cast" or self.bounds is None:
            return x
        low, high = self._bounds_like(x)
        # A weighted mean reaches both bounds exactly, which `low + share * (high - low)` may not.
        share = x / largest
        return low * (1.0 - share) + high * share

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "bounds": to_config_value(self.bounds),
            "outside": self.outside,
            "non_finite": self.non_finite,
            "integers": self.integers,
        }

    @property
    def rejects_outside(self):
        """Whether the layer rejects finite values beyond the bounds."""
        return self.outside == "reject" and self.bounds is not None

    @property
    def _rejects(self):
        return self.non_finite == "reject" or self.rejects_outside

    def _replaced(self, x):
        """Returns `x` with non-finite values replaced, if the layer replaces them."""
        if self.non_finite != "replace":
            return x
        low, high = self._bounds_like(x)
        x = ops.where(ops.isnan(x), 0.5 * (low + high), x)
        return ops.where(ops.isinf(x), ops.where(x > 0.0, high, low), x)

    def _accepted(self, x):
        if not self._rejects:
            return ops.ones(ops.shape(x)[:1], "bool")
        axes = tuple(range(1, len(x.shape)))
        if self.bounds is None or self.outside == "clip":
            return ops.all(ops.isfinite(x), axis=axes)
        low, high = self._bounds_like(x)
        # Twice as fast as `all` of two comparisons. NaN makes the sum NaN, which differs from 0.
        beyond = ops.abs(x - ops.minimum(ops.maximum(x, low), high))
        return ops.sum(beyond, axis=axes) == 0.0

    def _clipped(self, x):
        if self.bounds is None or self.outside != "clip":
            return x
        low, high = self._bounds_like(x)
        return ops.minimum(ops.maximum(x, low), high)

    def _bounds_like(self, x):
        return [ops.convert_to_tensor(bound, dtype=x.dtype) for bound in self.bounds]

    def _message(self):
        within = ""
        if self.bounds is not None and self.outside == "reject":
            within = f" within {short_repr(list(to_config_value(self.bounds)))}"
        return f"Expected finite values{within}. Received: an example with other values"


def _check_choice(name, value):
    if value not in _CHOICES[name]:
        raise ValueError(
            f"Argument `{name}` must be one of {list(_CHOICES[name])}. Received: {name}={value!r}"
        )
    return value
