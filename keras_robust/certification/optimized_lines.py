"""Alpha-CROWN: the slopes of the lines around curves, optimized for each bound."""

import math

from keras import ops

from keras_robust import backend
from keras_robust.threat_models.threat_model import flatten

_STEP_SIZE = 0.1
_DECAY = 0.98
_MOMENTS = 0.9, 0.999  # Of Adam.
_TINY = 1e-30


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
    packing = _Packing(curves, boxes, lines)

    def values(slopes):
        return bound(packing.lines(slopes)), ()

    def step(number, state):
        slopes, mean, square, lowest = state
        (found, _), gradient = backend.value_and_input_gradient(values, slopes)
        mean, square, change = _adam(number, gradient * packing.is_free, mean, square)
        # The first steps are long enough to cross the range of a ReLU, from 0 to 1.
        size = _STEP_SIZE * _DECAY ** ops.cast(number, slopes.dtype)
        slopes = ops.clip(slopes - size * change, packing.least, packing.most)
        return slopes, mean, square, ops.minimum(lowest, found)

    zeros = ops.zeros_like(packing.start)
    # The lowest bound counts, because a step may also make a bound worse.
    state = packing.start, zeros, zeros, bound(lines)
    slopes, *_, lowest = backend.fori_loop(0, num_iterations, step, state)
    return ops.minimum(lowest, values(slopes)[0])


class _Packing:
    """The slopes of all lines as one tensor, because a gradient is taken of one tensor.

    Args:
        curves, boxes, lines: as for `optimized_bound`.

    Attributes, all `(rows, entries)`: `start`, the slopes of `lines`; `least` and `most`, the range
    of slopes; `is_free`, 1 where another slope can be better, and 0 elsewhere.
    """

    def __init__(self, curves, boxes, lines):
        self._curves, self._boxes = curves, boxes
        slopes = [part for each in lines for part in (each.lower_slope, each.upper_slope)]
        self._shapes = [tuple(part.shape[1:]) for part in slopes]
        self.start = _packed(slopes)
        pairs = list(zip(curves, boxes, strict=True))
        ranges = [curve.slope_range(*box) for curve, box in pairs]
        # Each curve has two slopes, below and above, with the same range.
        self.least, self.most = (
            _packed([ends[side] for ends in ranges for _ in range(2)]) for side in (0, 1)
        )
        # Where the function is on one side of its chord, no line on the other side beats the chord.
        is_free = [curve.is_bent(*box, sign) for curve, box in pairs for sign in (-1.0, 1.0)]
        self.is_free = ops.cast(_packed(is_free), self.start.dtype)

    def lines(self, packed):
        """Returns the list of `Lines` with these slopes."""
        slopes, start = [], 0
        for shape in self._shapes:
            size = math.prod(shape)
            slopes.append(ops.reshape(packed[:, start : start + size], (-1, *shape)))
            start += size
        parts = zip(self._curves, slopes[0::2], slopes[1::2], self._boxes, strict=True)
        return [curve.lines_with(*pair, *box) for curve, *pair, box in parts]


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
