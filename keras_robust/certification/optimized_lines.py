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
    start = [part for each in lines for part in (each.lower_slope, each.upper_slope)]
    shapes = [tuple(part.shape[1:]) for part in start]
    ends = [0]
    for shape in shapes:
        ends.append(ends[-1] + math.prod(shape))
    ranges = [curve.slope_range(*box) for curve, box in zip(curves, boxes, strict=True)]
    least, most = (
        ops.concatenate([flatten(side[end]) for side in ranges for _ in range(2)], axis=-1)
        for end in (0, 1)
    )
    # Where the function is on one side of its chord, no line on the other side beats the chord.
    is_free = [
        part
        for curve, box in zip(curves, boxes, strict=True)
        for part in (curve.is_bent(*box, -1.0), curve.is_bent(*box, 1.0))
    ]
    is_free = ops.cast(
        ops.concatenate([flatten(part) for part in is_free], axis=-1), start[0].dtype
    )

    def values(packed):
        slopes = [
            ops.reshape(packed[:, a:b], (-1, *shape))
            for a, b, shape in zip(ends[:-1], ends[1:], shapes, strict=True)
        ]
        parts = zip(curves, boxes, slopes[0::2], slopes[1::2], strict=True)
        return bound(
            [curve.lines_with(below, above, *box) for curve, box, below, above in parts]
        ), ()

    def step(number, state):
        slopes, mean, square, lowest = state
        (found, _), gradient = backend.value_and_input_gradient(values, slopes)
        gradient = gradient * is_free
        mean = _MOMENTS[0] * mean + (1.0 - _MOMENTS[0]) * gradient
        square = _MOMENTS[1] * square + (1.0 - _MOMENTS[1]) * ops.square(gradient)
        time = ops.cast(number, slopes.dtype)
        unbiased = [
            part / (1.0 - moment ** (time + 1.0))
            for part, moment in zip((mean, square), _MOMENTS, strict=True)
        ]
        change = unbiased[0] / (ops.sqrt(unbiased[1]) + _TINY)
        slopes = ops.clip(slopes - _STEP_SIZE * _DECAY**time * change, least, most)
        return slopes, mean, square, ops.minimum(lowest, found)

    slopes = ops.concatenate([flatten(part) for part in start], axis=-1)
    zeros = ops.zeros_like(slopes)
    state = slopes, zeros, zeros, bound(lines)
    slopes, *_, lowest = backend.fori_loop(0, num_iterations, step, state)
    return ops.minimum(lowest, values(slopes)[0])
