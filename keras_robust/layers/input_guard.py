"""The door of a served model: nothing from outside the threat model passes it."""

import keras
from keras import ops

from keras_robust import backend
from keras_robust.configurable import shown
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
    """Lets only inputs of the threat model pass: finite numbers within its bounds.

    Robustness is measured for inputs in a box, such as pixels in `[0, 1]`. Whoever sends other
    numbers to a served model leaves the threat model, and no measurement says anything about the
    answer. Put this layer first; `export_saved_model` does it by itself.

    - `outside`: a value beyond the bounds is rejected, or clipped to the nearest bound. Clipping
      answers a picture in the wrong units, such as 0 to 255 for 0 to 1, with a class.
    - `non_finite`: NaN and infinities are rejected, or replaced: infinities by the bound on their
      side, NaN by the middle of the box. A replaced value is a guess; what the model makes of it
      nobody measured.
    - `integers`: uint8 and uint16 pictures are scaled, 0 to the lower and 255 or 65535 to the upper
      bound, or only cast. Other integers are always cast.

    To reject is to fail with an error for the whole batch, which a server answers with a status
    like 400. Where TensorFlow drops checks, which is in code compiled by XLA and in the formats
    other than SavedModel, all values of the rejected example become NaN instead; `accepts` tells
    which they are. NaN does not survive every layer, so that a caller there must ask `accepts`.

    This is no defence: an adversarial example is finite and within the bounds. The gradient is the
    identity, 0 where a value was clipped or replaced.

    Cost: one pass over the input, beside the model.

    Args:
        bounds: pair of numbers, or of arrays with a number for each channel, or `None` for numbers
            without bounds, of which only the non-finite are rejected. Defaults to `(0.0, 1.0)`.
        outside: `"reject"` or `"clip"`. Defaults to `"reject"`.
        non_finite: `"reject"` or `"replace"`. Defaults to `"reject"`.
        integers: `"scale"` or `"cast"`. Defaults to `"scale"`.
        **kwargs: `name`, `dtype` and others of `keras.layers.Layer`.

    Call arguments: `x`, numbers of any dtype, `(batch_size, ...)`. Returns the same shape in the
    compute dtype; everything is checked in float32 or better.

    Raises:
        ValueError: for bounds that are no pair, unknown choices, and `"replace"` without bounds.
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
        - [Carlini et al., 2019](https://arxiv.org/abs/1902.06705), on threat models that state the
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
        super().__init__(autocast=False, **kwargs)
        self.bounds = parse_bounds(bounds)
        self.outside = _check_choice("outside", outside)
        self.non_finite = _check_choice("non_finite", non_finite)
        self.integers = _check_choice("integers", integers)
        if self.bounds is None and non_finite == "replace":
            raise ValueError(
                "Without bounds there is nothing to replace infinities by: give `bounds`, or use "
                'non_finite="reject". Received: bounds=None, non_finite="replace"'
            )

    def call(self, x):
        x = self._mended(self.to_float(x))
        if self._rejects:
            accepted = self._accepted(x)
            x = backend.require_all(accepted, self._message(), x)
            # Adding is faster than choosing, and adds 0 to what passes.
            poison = ops.where(accepted, ops.cast(0.0, x.dtype), ops.cast(float("nan"), x.dtype))
            x = x + ops.reshape(poison, (-1,) + (1,) * (len(x.shape) - 1))
        # After the check: half precision may round a value up to a bound, or down.
        return ops.cast(self._clipped(x), self.compute_dtype)

    def accepts(self, x):
        """Returns bools `(batch_size,)`, whether this layer lets each example pass."""
        return self._accepted(self._mended(self.to_float(x)))

    def to_float(self, x):
        """Returns `x` as floats, pictures of integers scaled to the bounds; checks nothing."""
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        x = ops.convert_to_tensor(x)
        largest = _LARGEST.get(keras.backend.standardize_dtype(x.dtype))
        x = ops.cast(x, dtype)
        if largest is None or self.integers == "cast" or self.bounds is None:
            return x
        low, high = self._bounds_like(x)
        # The two ends are met exactly.
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
        """Whether finite values beyond the bounds are rejected."""
        return self.outside == "reject" and self.bounds is not None

    @property
    def _rejects(self):
        return self.non_finite == "reject" or self.rejects_outside

    def _mended(self, x):
        """Replaces what is to be replaced, so that it is within the bounds."""
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
        # Twice as fast as `all` of two comparisons. NaN makes the sum NaN, which is not 0.
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
            within = f" within {shown(list(to_config_value(self.bounds)))}"
        return f"Expected finite values{within}. Received: an example with other values"


def _check_choice(name, value):
    if value not in _CHOICES[name]:
        raise ValueError(
            f"Argument `{name}` must be one of {list(_CHOICES[name])}. Received: {name}={value!r}"
        )
    return value
