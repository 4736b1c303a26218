"""The `Patch` threat model: all pixels of a patch may change, and no others."""

import copy

import keras
import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust.backend import counter_rng
from keras_robust.configurable import short_repr
from keras_robust.threat_models.patch_places import best_place
from keras_robust.threat_models.patch_places import fits
from keras_robust.threat_models.patch_places import place_mask
from keras_robust.threat_models.threat_model import ThreatModel
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example

_COUNTER = 0x7A7C4  # Far from the small numbers that attacks count their own draws with.
_FARTHEST = 1e30
_TINY = 1e-30


@keras.saving.register_keras_serializable(package="keras_robust")
class Patch(ThreatModel):
    """Perturbations of all pixels in one patch of an image by any amount within the box.

    `x_adv = (1 - m) * x + m * p` with `m` the mask of a patch and `p` any pixels in the box, as in
    LaVAN. Stickers and graffiti are perturbations of this kind. The patch lies at a fixed place,
    the features where `mask` is true, or, with `size`, at any place in the image. Then every search
    draws one place per example, uniformly, and every restart of an attack draws another. So the
    number of restarts is the number of places that an attack tries, and robust accuracy after few
    restarts is far too optimistic. The drawn places depend on the seed and the position of an
    example in the data, not on the batch size, and are the same on TensorFlow and JAX.

    Lengths are shares of the width of the box: `distance` is the largest change of a feature over
    the width of its box, and infinite if other features change than those of one patch.
    `step(x_adv, gradient, step_size)` moves every feature of the patch by `step_size` widths along
    the sign of the gradient. The projection is exact. Outside of a search no place is drawn, and
    all methods are about the patches at all places: `project` returns the nearest point,
    `linear_maximization_oracle` the best point over all places, and `contains` accepts any place.

    Deviations from the papers: Brown et al. and LaVAN make one patch for all images; here every
    image has its own, a stronger attacker. There are no rotated or resized patches. Random starts
    are uniform in the box, as in LaVAN.

    Args:
        size: int, or a pair `(rows, columns)`, the size of the patch in pixels, for images
            `(n, rows, columns, channels)`. Give either `size` or `mask`. Defaults to `None`.
        mask: bool array, the features that may change. It has the shape of one example, or
            broadcasts against it, such as `(rows, columns, 1)`. Defaults to `None`.
        epsilon: the largest change of a feature, as a share of the width of the box: a number
            from 0 to 1, a string, a `LearningRateSchedule`, or an array with one share per example,
            `(n,)`. Less than 1 is a translucent patch. Defaults to `1.0`.
        bounds: pair `(low, high)` of valid inputs, finite numbers or per-channel arrays. Defaults
            to `(0.0, 1.0)`.

    Raises:
        ValueError: without a size or a mask, or with both; for a size that is not positive, or a
            mask without a true entry; for an `epsilon` above 1; without finite bounds. Once data
            are known: if the patch is larger than the image, or the mask does not fit.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> patch = kr.threat_models.Patch(2)
    >>> x = np.full((1, 3, 3, 1), 0.5, "float32")
    >>> slope = np.arange(9, dtype="float32").reshape(x.shape)
    >>> print(np.asarray(patch.linear_maximization_oracle(slope, x))[0, :, :, 0])
    [[0.5 0.5 0.5]
     [0.5 1.  1. ]
     [0.5 1.  1. ]]

    References:
        - [Brown et al., 2017](https://arxiv.org/abs/1712.09665)
        - [Karmon et al., 2018](https://arxiv.org/abs/1801.02608), LaVAN.
    """

    def __init__(self, size=None, mask=None, epsilon=1.0, bounds=(0.0, 1.0)):
        super().__init__(epsilon, bounds)
        if (size is None) == (mask is None):
            raise ValueError(
                "A patch has either a `size`, such as Patch(5), or a `mask` of the features that "
                f"may change. Received: size={size!r}, mask={short_repr(mask)}"
            )
        if not self.is_scheduled and np.max(self.epsilon) > 1.0:
            raise ValueError(
                "Argument `epsilon` of Patch is a share of the width of the box, at most 1. "
                f"Received: epsilon={short_repr(epsilon)}"
            )
        if bounds is None or not np.all(np.isfinite([np.max(np.abs(end)) for end in self.bounds])):
            raise ValueError(
                "Patch needs finite bounds: without them a pixel may change without limit. "
                f"Received: bounds={short_repr(bounds)}"
            )
        self.size = None if size is None else _parse_size(size)
        self.mask = None if mask is None else _parse_mask(mask)
        # None stands for any place.
        self._place = self.mask
        self._width = np.subtract(*reversed(self.bounds)).astype("float32")
        self._given.update(size=size, mask=mask)

    def with_bounds(self, bounds):
        """Returns a copy with another box, or without one; shares keep their unit without one."""
        other = super().with_bounds(bounds)
        if bounds is not None:
            other._width = np.subtract(*reversed(other.bounds)).astype("float32")
        return other

    def drawn(self, x, seed):
        if self._place is not None:
            return self
        bits = counter_rng.draw(counter_rng.make_keys(seed, ops.shape(x)[0]), _COUNTER, 2)
        corner = [
            counter_rng.below(bits[:, axis : axis + 1], ops.cast(length - own + 1, "float32"))
            for axis, length, own in zip((0, 1), ops.shape(x)[1:3], self.size, strict=True)
        ]
        other = copy.copy(self)
        other._place = place_mask(*(ops.cast(end, "int32") for end in corner), self.size, x)
        return other

    def check_shape(self, shape):
        super().check_shape(shape)
        if self.mask is not None:
            _check_mask(self.mask, shape)
        elif len(shape) != 4:
            raise ValueError(
                "A patch of some size needs images, (n, rows, columns, channels). For other inputs "
                f"give a `mask`. Received: size={self.size} for inputs of shape {shape}"
            )
        elif any(
            shape[axis + 1] is not None and self.size[axis] > shape[axis + 1] for axis in (0, 1)
        ):
            raise ValueError(
                "The patch must fit into the image. "
                f"Received: size={self.size} for inputs of shape {shape}"
            )

    def project(self, x_adv, x):
        reach = self._reach(x)
        inside = self.clip(ops.clip(x_adv, x - reach, x + reach))
        # How much nearer a feature comes if it may change, as in the projection of `L0`.
        change, wanted = inside - x, ops.clip(x_adv - x, -_FARTHEST, _FARTHEST)
        return ops.where(self._patch(change * (2.0 * wanted - change)), inside, x)

    def steepest_direction(self, gradient):
        # A direction of norm 1 changes every feature of the patch by the width of its box.
        gain = ops.abs(gradient) * self._width
        return ops.where(self._patch(gain), ops.sign(gradient) * self._width, 0.0)

    def step(self, x_adv, gradient, step_size):
        step_size = per_example(ops.convert_to_tensor(step_size, dtype="float32"), x_adv)
        return x_adv + step_size * self.steepest_direction(gradient)

    def linear_maximization_oracle(self, direction, x):
        reach = self._reach(x)
        corner = self.clip(x + reach * ops.sign(direction))
        return ops.where(self._patch(direction * (corner - x)), corner, x)

    def random_start(self, x, seed):
        """Returns `x` with uniform values of the ball and the box in its patch."""
        reach = self._reach(x)
        low, high = self.clip(x - reach), self.clip(x + reach)
        values = low + (high - low) * backend.uniform(ops.shape(x), seed)
        return ops.where(self.drawn(x, seed)._place, self.clip(values), x)

    def random_start_on_sphere(self, x, seed):
        # Among many random values, some nearly reach the largest change.
        return self.random_start(x, seed)

    def distance(self, x_adv, x):
        delta = x_adv - x
        # A feature whose bounds are equal has no width, and may not change.
        share = ops.where(delta == 0.0, 0.0, ops.abs(delta) / ops.maximum(self._width, _TINY))
        return ops.where(self._fits(delta != 0.0), ops.max(flatten(share), axis=-1), np.inf)

    def _in_ball(self, x_adv, x, slack, rounding):
        change = ops.abs(x_adv - x)
        allowed = per_example(self._radius_per_example() + slack, x) * self._width + rounding
        is_near = ops.all(flatten(change <= allowed), axis=-1)
        return ops.logical_and(is_near, self._fits(change > rounding))

    def _reach(self, x):
        """Returns how far each feature may change."""
        return per_example(self._radius_per_example(), x) * self._width

    def _patch(self, gains):
        """Returns the mask of the patch; where none is drawn, the one with the largest gain."""
        return best_place(gains, self.size) if self._place is None else self._place

    def _fits(self, changed):
        """Returns, per example, whether one patch covers all changed features."""
        if self._place is None:
            return fits(changed, self.size)
        return ops.logical_not(ops.any(flatten(ops.logical_and(changed, ~self._place)), axis=-1))


def _parse_size(size):
    pair = (size, size) if isinstance(size, int) else size
    is_pair = isinstance(pair, (list, tuple)) and len(pair) == 2
    if is_pair and all(type(length) is int and length >= 1 for length in pair):
        return tuple(pair)
    raise ValueError(
        "Argument `size` must be an int >= 1, or a pair (rows, columns) of them. "
        f"Received: size={size!r}"
    )


def _parse_mask(mask):
    values = np.asarray(mask)
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all() or not values.any():
        raise ValueError(
            "Argument `mask` must be an array of bool, with at least one true entry. "
            f"Received: mask={short_repr(mask)}"
        )
    return values.astype("bool")


def _check_mask(mask, shape):
    """Raises ValueError unless a mask broadcasts against one example."""
    sizes = list(zip(reversed(mask.shape), reversed(shape[1:]), strict=False))
    if mask.ndim > len(shape) - 1 or any(own not in (1, size) for own, size in sizes):
        raise ValueError(
            "Argument `mask` must have the shape of one example, or broadcast against it. "
            f"Received: mask of shape {mask.shape} for inputs of shape {shape}"
        )
