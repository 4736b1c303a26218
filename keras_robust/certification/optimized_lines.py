"""Alpha-CROWN: the slopes of the lines around curves, optimized for each bound."""

import math

from keras import ops

from keras_robust import backend
from keras_robust.threat_models.threat_model import flatten

_STEP_SIZE = 0.1
_DECAY = 0.98
_MOMENTS = 0.9, 0.999  # Of Adam.
_TINY = 1e-30
_LARGEST = 1e6  # Of a multiplier.


def optimized_bound(bound, curves, boxes, lines, num_iterations):
    """Returns the lowest of the upper bounds that other slopes of the lines give, `(rows,)`.

    Every slope gives a bound. Adam minimizes it over the slopes, from those of `lines`.

    Args:
        bound: function of a list of `Lines` that returns tensors `(rows,)`.
        curves: list of `Curve`.
        boxes: list of pairs `(lower, upper)`, the intervals of each curve, tensors `(rows, ...)`.
        lines: list of `Lines`, tensors `(rows, ...)`.
        num_iterations: int, the number of steps.
    """
    packing = Packing(curves, boxes)

    def of_packed(packed):
        return bound(packing.lines(packed))

    return optimized(of_packed, packing, packing.pack(lines), num_iterations)[0]


def optimized(bound, packing, start, num_iterations):
    """Returns the lowest of the upper bounds that slopes give, and these slopes.

    Args:
        bound: function of slopes, packed, that returns tensors `(rows,)`.
        packing: `Packing`.
        start: tensor `(rows, entries)`, the slopes of the first bound.
        num_iterations: int, the number of steps.

    Returns:
        The lowest bounds, and their slopes, packed.
    """

    def values(slopes):
        return bound(slopes), ()

    def lower(slopes, found, best, lowest):
        is_lower = found < lowest
        best = ops.where(ops.expand_dims(is_lower, -1), slopes, best)
        return best, ops.where(is_lower, found, lowest)

    def step(number, state):
        slopes, mean, square, best, lowest = state
        (found, _), gradient = backend.value_and_input_gradient(values, slopes)
        best, lowest = lower(slopes, found, best, lowest)
        mean, square, change = _adam(number, gradient * packing.is_free, mean, square)
        # The first steps are long enough to cross the range of a ReLU, from 0 to 1.
        size = _STEP_SIZE * _DECAY ** ops.cast(number, slopes.dtype)
        slopes = ops.clip(slopes - size * change, packing.least, packing.most)
        return slopes, mean, square, best, lowest

    zeros = ops.zeros_like(start)
    # The lowest bound counts, because a step may also make a bound worse.
    state = start, zeros, zeros, start, bound(start)
    slopes, _, _, best, lowest = backend.fori_loop(0, num_iterations, step, state)
    best, lowest = lower(slopes, bound(slopes), best, lowest)
    return lowest, best


class Packing:
    """The slopes of all lines as one tensor, because a gradient is taken of one tensor.

    Args:
        curves: list of `Curve`.
        boxes: list of pairs `(lower, upper)`, the intervals of each curve, tensors `(rows, ...)`.
        splits: list of tensors like the intervals: 1 where the input of the curve is known to be at
            least 0, -1 where it is known to be at most 0, and 0 elsewhere; `None` if nothing is
            known. Each such entry has a Lagrange multiplier among the slopes.

    Attributes, all `(rows, entries)`: `least` and `most`, the range of the slopes; `is_free`, 1
    where another slope can be better, and 0 elsewhere.
    """

    def __init__(self, curves, boxes, splits=None):
        self._curves, self._boxes, self._splits = curves, boxes, splits
        self._shapes = [tuple(lower.shape[1:]) for lower, _ in boxes]
        least, most, is_free = [], [], []
        for curve, box in zip(curves, boxes, strict=True):
            ends = curve.slope_range(*box)
            for sign in (-1.0, 1.0):
                least.append(ends[0])
                most.append(ends[1])
                # Where the function is on one side of its chord, no line on the other side beats
                # the chord.
                is_free.append(curve.is_bent(*box, sign))
        for split in splits or ():
            least.append(ops.zeros_like(split))
            most.append(_LARGEST * ops.ones_like(split))
            is_free.append(split != 0.0)
        self.least, self.most = _packed(least), _packed(most)
        self.is_free = ops.cast(_packed(is_free), self.least.dtype)

    def pack(self, lines):
        """Returns the slopes of a list of `Lines`, with multipliers of 0."""
        slopes = [part for each in lines for part in (each.lower_slope, each.upper_slope)]
        if self._splits is not None:
            slopes += [ops.zeros_like(split) for split in self._splits]
        return _packed(slopes)

    def lines(self, packed):
        """Returns the list of `Lines` with these slopes."""
        slopes = self._unpacked(packed)[: 2 * len(self._curves)]
        parts = zip(self._curves, slopes[0::2], slopes[1::2], self._boxes, strict=True)
        return [curve.lines_with(*pair, *box) for curve, *pair, box in parts]

    def multipliers(self, packed):
        """Returns the list of slopes that the multipliers add before each curve."""
        found = self._unpacked(packed)[2 * len(self._curves) :]
        return [size * split for size, split in zip(found, self._splits, strict=True)]

    def _unpacked(self, packed):
        shapes = [shape for shape in self._shapes for _ in range(2)]
        shapes += [] if self._splits is None else self._shapes
        parts, start = [], 0
        for shape in shapes:
            size = math.prod(shape)
            parts.append(ops.reshape(packed[:, start : start + size], (-1, *shape)))
            start += size
        return parts


def _packed(parts):
    return ops.concatenate([flatten(part) for part in parts], axis=-1)


def _adam(number, gradient, mean, square):
    """Returns the moments of Adam after a step, and the change of the variables."""
    mean = _MOMENTS[0] * mean + (1.0 - _MOMENTS[0]) * gradient
    square = _MOMENTS[1] * square + (1.0 - _MOMENTS[1]) * ops.square(gradient)
    time = ops.cast(number, gradient.dtype) + 1.0
    unbiased = [
        part / (1.0 - moment**time) for part, moment in zip((mean, square), _MOMENTS, strict=True)
    ]
    return mean, square, unbiased[0] / (ops.sqrt(unbiased[1]) + _TINY)
