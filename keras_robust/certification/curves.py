"""Activations as curves, and the lines above and below them on an interval."""

import dataclasses
import math
import typing

import keras
from keras import ops

from keras_robust import backend
from keras_robust.certification.graph import refuse
from keras_robust.certification.graph import refuse_activation

_NUM_POINTS = 16  # Points inside an interval from which the slope of a line is chosen.
_NUM_BRIDGE_STEPS = 8
_ROUNDING = 1e-12
_NUM_BISECTIONS = 40
_SILU_INFLECTION = 2.399357280515468  # The positive root of f''.


class Lines(typing.NamedTuple):
    """The lines `slope * h + offset` below and above an activation, tensors like `h`."""

    lower_slope: object
    lower_offset: object
    upper_slope: object
    upper_offset: object


@dataclasses.dataclass(frozen=True)
class Curve:
    """A continuous function of one number, in pieces that are convex, concave or linear.

    Args:
        function: the function, elementwise on tensors.
        knots: tuple of float, ascending, the ends between the pieces.
        pieces: tuple of str, `"convex"`, `"concave"` or `"linear"`, one more than knots.
    """

    function: typing.Callable
    knots: tuple = ()
    pieces: tuple = ("linear",)

    @property
    def is_piecewise_linear(self):
        """Whether all pieces are lines."""
        return set(self.pieces) == {"linear"}

    def is_line_on(self, lower, upper):
        """Returns whether the function is a line on each interval, a bool tensor."""
        # A linear piece that contains the whole interval.
        ends = (-math.inf, *self.knots, math.inf)
        found = lower >= upper
        for start, end, piece in zip(ends[:-1], ends[1:], self.pieces, strict=True):
            if piece == "linear":
                found = ops.logical_or(found, ops.logical_and(lower >= start, upper <= end))
        return found

    def range_on(self, lower, upper):
        """Returns the smallest and the largest value of the function on each interval."""
        flat = ops.zeros_like(lower)
        return -self._offset(flat, lower, upper, -1.0), self._offset(flat, lower, upper, 1.0)

    def lines(self, lower, upper):
        """Returns the `Lines` with the smallest area between them and the function.

        For ReLU on an interval around 0, these are the lines of CROWN: above, the chord; below,
        `h` if `upper > -lower`, else 0.
        """
        below, above = self.slopes(lower, upper)
        return self.lines_with(below, above, lower, upper)

    def lines_with(self, below, above, lower, upper):
        """Returns `Lines` with the slopes `below` and `above`, as near to the function as they can.

        They are valid for every slope: the offset above is the maximum of `f(h) - slope * h` on the
        interval, rounded up.
        """
        return Lines(
            below,
            -self._offset(-below, lower, upper, -1.0),
            above,
            self._offset(above, lower, upper, 1.0),
        )

    def slopes(self, lower, upper):
        """Returns the slopes of the lines with the smallest area, below and above."""
        return tuple(sign * self._hull_slope(lower, upper, sign) for sign in (-1.0, 1.0))

    def is_bent(self, lower, upper, sign):
        """Returns whether a point of `sign * f` lies above its chord, a bool tensor."""
        points = self._points(lower, upper)
        values = sign * self.function(points)
        width = upper - lower
        slope = ops.where(width > 0.0, values[1] - values[0], 0.0) / ops.where(
            width > 0.0, width, 1.0
        )
        heights = values - values[0] - slope * (points - lower)
        return ops.max(heights, axis=0) > _ROUNDING * ops.max(ops.abs(values), axis=0)

    def slope_range(self, lower, upper):
        """Returns the smallest and the largest slope between points of each interval.

        A line with another slope is never the nearest.
        """
        points = ops.sort(self._points(lower, upper), axis=0)
        rises, widths = (part[1:] - part[:-1] for part in (self.function(points), points))
        # Two points may be the same, and have no slope between them.
        chord = _ratio(self.function(upper) - self.function(lower), upper - lower)
        slopes = ops.where(widths > 0.0, _ratio(rises, widths), chord)
        return ops.min(slopes, axis=0), ops.max(slopes, axis=0)

    def _points(self, lower, upper):
        """Returns points of each interval, among them all knots, on a new first axis."""
        points = [lower, upper]
        points += [ops.clip(ops.full_like(lower, knot), lower, upper) for knot in self.knots]
        if not self.is_piecewise_linear:
            shares = [(i + 1.0) / (_NUM_POINTS + 1.0) for i in range(_NUM_POINTS)]
            points += [lower + share * (upper - lower) for share in shares]
        return ops.stack(points)

    def _hull_slope(self, lower, upper, sign):
        """Returns the slope of the concave hull of `sign * f` at the middle of each interval.

        A line above `f` has the smallest area if it touches the hull there.
        """
        points = self._points(lower, upper)
        values = sign * self.function(points)
        middle = 0.5 * (lower + upper)

        def slope_between(left, right):
            return _ratio(right[1] - left[1], right[0] - left[0])

        left, right = (lower, values[0]), (upper, values[1])
        # The edge of the hull over the middle: as long as a point lies above the edge, it replaces
        # the end on its side.
        for _ in range(_NUM_BRIDGE_STEPS if points.shape[0] > 3 else 1):
            slope = slope_between(left, right)
            highest = ops.argmax(values - slope * points, axis=0)
            x, f = (
                ops.take_along_axis(part, ops.expand_dims(highest, 0), axis=0)[0]
                for part in (points, values)
            )
            is_left = x < middle
            left = tuple(ops.where(is_left, a, b) for a, b in zip((x, f), left, strict=True))
            right = tuple(ops.where(is_left, b, a) for a, b in zip((x, f), right, strict=True))
        return slope_between(left, right)

    def _offset(self, slope, lower, upper, sign):
        """Returns an upper bound of `sign * f(h) - slope * h` over each interval.

        The bound is the maximum, up to rounding: on a piece where `sign * f` is concave, a tangent
        bounds it from above, and elsewhere the maximum is at an end.
        """
        ends = [
            lower,
            *(ops.clip(ops.full_like(lower, k), lower, upper) for k in self.knots),
            upper,
        ]
        highest = None
        round_side = "concave" if sign > 0.0 else "convex"
        for start, end, piece in zip(ends[:-1], ends[1:], self.pieces, strict=True):
            found = ops.maximum(*(sign * self.function(h) - slope * h for h in (start, end)))
            if piece == round_side:
                found = ops.maximum(found, self._above_round_piece(slope, start, end, sign))
            highest = found if highest is None else ops.maximum(highest, found)
        return highest

    def _above_round_piece(self, slope, start, end, sign):
        """Returns a bound of `sign * f(h) - slope * h` on a piece where it is concave."""

        def height(h):
            return sign * self.function(h) - slope * h

        def rise(h):
            return self._derivative(h, sign) - ops.stop_gradient(slope)

        def halve(_, ends):
            low, high = ends
            middle = 0.5 * (low + high)
            is_rising = rise(middle) > 0.0
            return ops.where(is_rising, middle, low), ops.where(is_rising, high, middle)

        ends = tuple(map(ops.stop_gradient, (start, end)))
        low, high = backend.fori_loop(0, _NUM_BISECTIONS, halve, ends)
        # A tangent at any point is a bound, so the bisection need not be exact.
        top = ops.stop_gradient(0.5 * (low + high))
        slack = ops.stop_gradient(rise(top))
        at_ends = [slack * (h - top) for h in ends]
        return height(top) + ops.maximum(*at_ends)

    def _derivative(self, h, sign):
        shape = ops.shape(h)

        def values(row):
            return sign * self.function(row), ()

        return ops.reshape(
            backend.value_and_input_gradient(values, ops.reshape(ops.stop_gradient(h), (-1,)))[1],
            shape,
        )


def _ratio(rise, width):
    """Returns `rise / width`, and 0 where the width is 0."""
    is_wide = width > 0.0
    return ops.where(is_wide, rise / ops.where(is_wide, width, 1.0), 0.0)


def _tanh(x):
    """Returns tanh in the dtype of `x`, because Keras computes it in float32 on JAX."""
    return 2.0 * ops.sigmoid(2.0 * x) - 1.0


_activations = keras.activations
_S_SHAPE = {"knots": (0.0,), "pieces": ("convex", "concave")}
_ROUND_LEFT = {"knots": (0.0,), "pieces": ("convex", "linear")}
_HUMP = ("concave", "convex", "concave")
_CURVES = {
    _activations.celu: Curve(_activations.celu, **_ROUND_LEFT),
    _activations.elu: Curve(_activations.elu, **_ROUND_LEFT),
    _activations.exponential: Curve(ops.exp, pieces=("convex",)),
    _activations.gelu: Curve(_activations.gelu, (-math.sqrt(2.0), math.sqrt(2.0)), _HUMP),
    _activations.hard_sigmoid: Curve(_activations.hard_sigmoid, (-3.0, 3.0), ("linear",) * 3),
    _activations.hard_tanh: Curve(_activations.hard_tanh, (-1.0, 1.0), ("linear",) * 3),
    _activations.leaky_relu: Curve(_activations.leaky_relu, (0.0,), ("linear",) * 2),
    _activations.log_sigmoid: Curve(_activations.log_sigmoid, pieces=("concave",)),
    _activations.relu: Curve(_activations.relu, (0.0,), ("linear",) * 2),
    _activations.relu6: Curve(_activations.relu6, (0.0, 6.0), ("linear",) * 3),
    _activations.selu: Curve(_activations.selu, **_ROUND_LEFT),
    _activations.sigmoid: Curve(_activations.sigmoid, **_S_SHAPE),
    _activations.silu: Curve(_activations.silu, (-_SILU_INFLECTION, _SILU_INFLECTION), _HUMP),
    _activations.softplus: Curve(_activations.softplus, pieces=("convex",)),
    _activations.softsign: Curve(_activations.softsign, **_S_SHAPE),
    _activations.tanh: Curve(_tanh, **_S_SHAPE),
}
RELU = _CURVES[_activations.relu]


def curve_of_activation(layer, function):
    """Returns the `Curve` of an activation of Keras, or `None` if it is linear."""
    if function is None or function is _activations.linear:
        return None
    # Functions are compared by identity, because a custom function may have a name of Keras.
    if function not in _CURVES:
        known = [known.__name__ for known in _CURVES]
        refuse_activation(layer, function, "linear bound", [*known, "softmax at the end"])
    return _CURVES[function]


def curve_of_layer(layer):
    """Returns the `Curve` of a ReLU, LeakyReLU or ELU layer."""
    if isinstance(layer, keras.layers.ELU):
        return Curve(layer.call, (0.0,), ("convex" if layer.alpha >= 0.0 else "concave", "linear"))
    if isinstance(layer, keras.layers.LeakyReLU):
        return Curve(layer.call, (0.0,), ("linear",) * 2)
    if layer.threshold:
        refuse(layer, "linear bound with a threshold, where the function jumps,", ["ReLU"])
    if layer.max_value is None and not layer.negative_slope:
        return RELU
    knots = (0.0,) if layer.max_value is None else (0.0, float(layer.max_value))
    return Curve(layer.call, knots, ("linear",) * (len(knots) + 1))
