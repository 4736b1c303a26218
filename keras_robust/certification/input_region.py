"""The set of inputs of a certificate: a ball in a norm, cut with a box."""

import typing

from keras import ops

from keras_robust import backend
from keras_robust.certification.interval import ball_box
from keras_robust.threat_models.threat_model import flatten
from keras_robust.threat_models.threat_model import per_example

_NUM_BISECTIONS = 50
_TINY = 1e-300


class InputRegion(typing.NamedTuple):
    """All inputs within a radius of each example, in a box.

    Fields: `x`, tensor `(batch_size, ...)`; `radii`, tensor `(batch_size,)`; `lower` and `upper`,
    tensors like `x`, the ends of the smallest box that contains the set.
    """

    x: object
    radii: object
    lower: object
    upper: object

    @classmethod
    def around(cls, x, radii, bounds):
        """Returns the region for a pair of bounds, the valid inputs, or `None`."""
        box = ball_box(x, per_example(radii, x), bounds)
        return cls(x, radii, box.lower, box.upper)

    def maximum(self, slopes, norm):
        """Returns upper bounds of `<slopes, x'>` over the inputs `x'` of the region.

        For `Linf` it is the maximum. For `L2` and `L1`, with `delta` the change of the input, it is
        a bound by duality, `epsilon ||slopes - v||_q + max <v, delta> over the box`, which holds
        for every `v`; bisection finds the `v` for which it is the maximum, up to rounding.

        Args:
            slopes: tensor `(batch_size, ...)`, in the shape of `x`.
            norm: str, `"Linf"`, `"L2"` or `"L1"`.
        """
        x, slopes = flatten(self.x), flatten(slopes)
        low, high = flatten(self.lower) - x, flatten(self.upper) - x
        at_x = ops.sum(slopes * x, axis=-1)
        if norm == "Linf":
            return at_x + _over_box(slopes, low, high)
        fixed = ops.stop_gradient(slopes)
        boxed, best = _DUALS[norm](fixed, low, high, ops.expand_dims(self.radii, -1))
        rest = fixed - boxed
        size = ops.sqrt(ops.sum(ops.square(rest), axis=-1)) if norm == "L2" else _largest(rest)
        bound = self.radii * size + _over_box(boxed, low, high)
        # The gradient of a maximum is its maximizer (envelope theorem).
        return at_x + bound + ops.sum((slopes - fixed) * best, axis=-1)

    def maximizer(self, slopes, norm):
        """Returns points of the region where `<slopes, x'>` is largest, for `L1` nearly.

        Args:
            slopes: tensor `(batch_size, ...)`, in the shape of `x`.
            norm: str, `"Linf"`, `"L2"` or `"L1"`.
        """
        x, slopes = flatten(self.x), flatten(slopes)
        low, high = flatten(self.lower) - x, flatten(self.upper) - x
        if norm == "Linf":
            best = ops.where(slopes > 0.0, high, low)
        else:
            best = _DUALS[norm](slopes, low, high, ops.expand_dims(self.radii, -1))[1]
        return ops.reshape(x + best, (-1, *self.x.shape[1:]))


def _over_box(slopes, low, high):
    return ops.sum(ops.maximum(slopes * low, slopes * high), axis=-1)


def _largest(values):
    return ops.max(ops.abs(values), axis=-1)


def _dual_of_l2(slopes, low, high, radii):
    """Returns `v` of the bound by duality, and the maximizer."""

    def change(scale):
        return ops.clip(slopes / ops.maximum(scale, _TINY), low, high)

    def length(scale):
        return ops.sqrt(ops.sum(ops.square(change(scale)), axis=-1, keepdims=True))

    largest = ops.sqrt(ops.sum(ops.square(slopes), axis=-1, keepdims=True))
    largest = largest / ops.maximum(radii, _TINY)
    scale, _ = _last(lambda scale: length(scale) >= radii, largest)
    return slopes - scale * change(scale), change(scale)


def _dual_of_l1(slopes, low, high, radii):
    """Returns `v` of the bound by duality, and the maximizer."""
    sizes, caps = ops.abs(slopes), ops.where(slopes > 0.0, high, -low)

    def used(level):
        return ops.where(sizes > level, caps, 0.0)

    def length(level):
        return ops.sum(used(level), axis=-1, keepdims=True)

    largest = ops.max(sizes, axis=-1, keepdims=True)
    level, above = _last(lambda level: length(level) >= radii, largest)
    # The coordinates at the level share what those above it leave of the budget.
    rest, left = used(level) - used(above), radii - length(above)
    total = ops.sum(rest, axis=-1, keepdims=True)
    share = ops.clip(left / ops.maximum(total, _TINY), 0.0, 1.0)
    signs = ops.sign(slopes)
    return signs * ops.maximum(sizes - level, 0.0), signs * (used(above) + share * rest)


_DUALS = {"L1": _dual_of_l1, "L2": _dual_of_l2}


def _last(holds, largest):
    """Returns the largest number from 0 to `largest` for which a condition holds, by bisection.

    Returns:
        A number for which it holds, or 0, and one right above it for which it does not hold.
    """

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        is_below = holds(middle)
        return ops.where(is_below, middle, low), ops.where(is_below, high, middle)

    return backend.fori_loop(0, _NUM_BISECTIONS, halve, (ops.zeros_like(largest), largest))
