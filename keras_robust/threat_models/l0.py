"""The `L0` threat model: at most epsilon features or pixels change."""

import math

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.configurable import short_repr
from keras_robust.threat_models.hyperplane_step import largest_of
from keras_robust.threat_models.threat_model import ThreatModel
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example

_FAR = 1e12
_LARGEST = 1e30  # Stands for infinity, which times 0 would be NaN.
_STEP_WIDTHS = 10.0
_ROUNDING = 1e-3  # Computed counts, such as a share of the radius, are not exactly whole.
_TINY = 1e-30


@keras.saving.register_keras_serializable(package="keras_robust")
class L0(ThreatModel):
    """Perturbations of at most `epsilon` features, or pixels, by any amount within the box.

    `#{i : x_adv_i != x_i} <= epsilon`. With `per_pixel=True` the channels of one position count as
    one. JSMA, one-pixel attacks, graffiti and dead sensor elements are perturbations of this kind.

    The projection is the nearest feasible point. With `c_i` the change `delta_i` clipped to the
    box, the `epsilon` coordinates with the largest `delta_i^2 - (delta_i - c_i)^2` keep `c_i`, as
    in PGD0 of Croce and Hein (2019). The ball is not the ball of a norm, so that two methods are
    conventions. `steepest_direction` is 1 in the coordinate (in all channels of the pixel) with the
    largest gradient. `step(x_adv, gradient, step_size)` moves along the gradient itself, scaled so
    that the `step_size` features with the largest gradients move by at least 10 widths of the box.
    These features and others end at a bound, and the projection after the step weighs them against
    earlier changes. So `step_size` is a number of features, rounded up, and the step sizes that
    attacks derive from `epsilon` are suitable. Deviations from Croce and Hein: their step has a
    given length in `L1`, which depends on the size of the image.

    Args:
        epsilon: the maximal number of changed features or pixels. An int >= 1; a string; a
            `LearningRateSchedule`, rounded down; or an array with one count per example, `(n,)`.
            Defaults to `10`.
        bounds: pair `(low, high)` of valid inputs, numbers or per-channel arrays. Defaults to
            `(0.0, 1.0)`.
        per_pixel: bool, whether the last axis of an input holds the channels of a pixel, which
            change together. Defaults to `False`.

    Raises:
        ValueError: if `epsilon` is not a whole number >= 1, or without bounds, because then a
            single feature could change without limit.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> l0 = kr.threat_models.L0(1)
    >>> x_adv = l0.project(np.array([[0.6, 1.7]], "float32"), np.array([[0.4, 0.9]], "float32"))
    >>> print(np.round(x_adv, 2))
    [[0.4 1. ]]

    References:
        - [Papernot et al., 2016](https://arxiv.org/abs/1511.07528)
        - [Croce and Hein, 2019](https://arxiv.org/abs/1909.05040)
    """

    def __init__(self, epsilon=10, bounds=(0.0, 1.0), per_pixel=False):
        super().__init__(epsilon, bounds)
        if not self.is_scheduled:
            counts = np.asarray(self.epsilon)
            if np.any(counts < 1) or np.any(counts != np.round(counts)):
                raise ValueError(
                    "Argument `epsilon` of L0 is a number of features: it must be an int >= 1, or "
                    f"an array of such numbers. Received: epsilon={short_repr(epsilon)}"
                )
        if bounds is None:
            raise ValueError(
                "L0 needs bounds: without them one feature may change without limit. "
                f"Received: bounds={bounds!r}"
            )
        if not isinstance(per_pixel, bool):
            raise ValueError(f"Argument `per_pixel` must be a bool. Received: {per_pixel!r}")
        self.per_pixel = per_pixel
        self._given["per_pixel"] = per_pixel

    def project(self, x_adv, x):
        inside = self.clip(x_adv)
        change = inside - x
        # In units of the largest change, and clipped, because products would leave the range of
        # float32.
        unit = per_example(largest_of(ops.abs(change)), x)
        share = change / unit
        keep = self._largest(
            share * ops.clip(2.0 * (x_adv - x) / unit - share, -_LARGEST, _LARGEST)
        )
        return ops.where(keep, inside, x)

    def steepest_direction(self, gradient):
        sizes = self.per_position(ops.abs(gradient))
        first = largest(sizes, ops.ones_like(sizes[:, :1]))
        return ops.where(self.spread(first, gradient), ops.sign(gradient), 0.0)

    def step(self, x_adv, gradient, step_size):
        sizes = self.per_position(ops.abs(gradient))
        count = ops.reshape(ops.convert_to_tensor(step_size, dtype="float32"), (-1, 1))
        # The scale is set by the smallest of the `step_size` largest gradients.
        least = kth_largest(sizes, ops.ceil(count - _ROUNDING))
        scale = self.spread(_STEP_WIDTHS / ops.maximum(least, _TINY), gradient)
        low, high = self._box()
        width = 1.0 if self.bounds is None else high - low
        # Clipped, because the scaled gradient may overflow float32.
        limit = _FAR * ops.sign(gradient)
        return x_adv + ops.where(ops.abs(gradient) * scale > _FAR, limit, gradient * scale) * width

    def linear_maximization_oracle(self, direction, x):
        room = ops.minimum(self._headroom(x, direction), _LARGEST)
        size = ops.abs(direction)
        # A coordinate gains its slope times its room.
        keep = self._largest(size / per_example(largest_of(size), x) * room)
        moved = self.clip(x + ops.sign(direction) * room)
        return ops.where(ops.logical_and(keep, direction != 0.0), moved, x)

    def random_start(self, x, seed):
        """Returns `x` with `epsilon` random features or pixels set to random values in the box."""
        features = ops.shape(_rows(x))[-1]
        positions = ops.shape(self.per_position(x))[-1]
        # Independent numbers choose positions and values. Shared numbers would give the chosen
        # positions only large values.
        noise = backend.uniform((ops.shape(x)[0], features + positions), seed)
        keep = largest(noise[:, features:], self.counts())
        low, high = (x - 1.0, x + 1.0) if self.bounds is None else self._box()
        values = low + (high - low) * ops.reshape(noise[:, :features], ops.shape(x))
        return ops.where(self.spread(keep, x), values, x)

    def random_start_on_sphere(self, x, seed):
        # A random start already changes `epsilon` features, the largest distance.
        return self.random_start(x, seed)

    def distance(self, x_adv, x):
        return self._changed(x_adv != x)

    def _changed(self, is_changed):
        """Returns the number of positions with a changed coordinate."""
        changed = self.per_position(ops.cast(is_changed, "float32"))
        return ops.sum(ops.cast(changed > 0.0, "float32"), axis=-1)

    def _in_ball(self, x_adv, x, slack, rounding):
        return self._changed(ops.abs(x_adv - x) > rounding) <= self.counts()[:, 0]

    def counts(self):
        """Returns the radius as whole numbers, `(1, 1)` or `(batch_size, 1)`."""
        # The slack protects counts that float32 rounded down.
        return ops.expand_dims(ops.floor(self._radius_per_example() + _ROUNDING), -1)

    def _largest(self, gains):
        """Returns a mask of the coordinates at the `epsilon` positions with the largest gains."""
        return self.spread(largest(self.per_position(gains), self.counts()), gains)

    def per_position(self, values):
        """Returns `values` as `(batch_size, positions)`, summed over channels if `per_pixel`."""
        if not self.per_pixel:
            return _rows(values)
        if len(values.shape) < 3:
            raise ValueError(
                "L0 with per_pixel=True needs inputs with an axis of channels at the end, such as "
                f"(batch_size, rows, columns, channels). Received: shape {tuple(values.shape)}"
            )
        return _rows(ops.sum(values, axis=-1))

    def spread(self, values, x):
        """Returns `(batch_size, positions)` or `(batch_size, 1)` values broadcastable to `x`."""
        if values.shape[-1] == 1:
            return ops.reshape(values, (-1,) + (1,) * (len(x.shape) - 1))
        if self.per_pixel:
            return ops.reshape(values, (*ops.shape(x)[:-1], 1))
        return ops.reshape(values, ops.shape(x))


def kth_largest(values, count):
    """Returns the `count`-th largest value of each row, `(n, 1)`; `count` is float `(n, 1)`."""
    size = ops.shape(values)[-1]
    index = size - ops.cast(ops.clip(count, 1.0, ops.cast(size, "float32")), "int32")
    index = ops.broadcast_to(index, (ops.shape(values)[0], 1))
    return ops.take_along_axis(ops.sort(values, axis=-1), index, axis=-1)


def largest(values, count):
    """Returns a mask of the `count` largest values of each row; ties go to the first."""
    least = kth_largest(values, count)
    above = values > least
    ties = values == least
    left = count - ops.sum(ops.cast(above, "float32"), axis=-1, keepdims=True)
    # Ties fill the places that the larger values leave.
    first = ops.cumsum(ops.cast(ties, "float32"), axis=-1) <= left
    return ops.logical_and(count >= 1.0, ops.logical_or(above, ops.logical_and(ties, first)))


def _rows(x):
    """Returns `x` as `(batch_size, features)`, with a static number of features if possible."""
    shape = x.shape[1:]
    return flatten(x) if None in shape else ops.reshape(x, (-1, math.prod(shape)))
