"""Detects an epsilon that is given in other units than the inputs."""

import math
import typing

import numpy as np

_GREY_LEVELS = 255
# A radius of exactly the whole box is allowed, and computed radii carry rounding errors.
_SLACK = 1.0 + 1e-6


class Size(typing.NamedTuple):
    """The size of a radius relative to the inputs.

    Fields: `epsilon`, the radius where it is largest relative to the box; `least`, the smallest
    plausible radius; `most`, the radius at which every point of the box is feasible; `likely`, the
    radius that may have been meant if `epsilon` is below `least`, or `None`; `width`, the width of
    the box, or of the range of the inputs if there is no box.
    """

    epsilon: float
    least: float
    most: float
    likely: float | None
    width: float

    @property
    def complaint(self):
        """The warning text for a radius that is too small or too large, or `None`."""
        if self.epsilon > self.most:
            return (
                f"Epsilon is larger than the range of the inputs allows, {self.most:.4g}: every "
                "example may become any other, and no model withstands that. Give `epsilon` in "
                "the units of the inputs and of `bounds`."
            )
        if self.epsilon >= self.least:
            return None
        meant = "" if self.likely is None else f"Was {self.likely:.4g} meant? "
        return (
            "Epsilon seems to have other units than the inputs, whose range is "
            f"{self.width:.4g}: an epsilon below {self.least:.4g} changes hardly anything. {meant}"
            "Give `epsilon` in the units of the inputs and of `bounds`."
        )

    def beyond(self, median):
        """Returns the size if the median distance of the nearest mistakes is known as well."""
        least = max(self.least, median / 100.0)
        likely = _likely(self.epsilon, self.width, least, self.most / _SLACK)
        return self._replace(least=least, likely=likely)


def size_of(ball, shape, extent=None, median=0.0):
    """Returns the `Size` of the radius of a threat model, or `None` if it cannot be judged.

    The smallest plausible radius is the norm of a small perturbation, in which features change by
    half a gray level, `width / 510`. In `Linf` any feature may change. In `L2` and `L1`, `sqrt(d)`
    of the `d` features change, because published radii for large images are smaller per feature. If
    the distance of the nearest mistakes is known, a plausible radius is at least 1/100 of it.

    Args:
        ball: a `ThreatModel`.
        shape: tuple, the shape of one example; sizes may be `None`.
        extent: pair `(low, high)` of numbers, the range of the inputs, for a threat model without a
            box. `None` if it is unknown. Defaults to `None`.
        median: number, the median distance of the nearest mistakes. Defaults to `0.0`.
    """
    bounds = extent if ball.bounds is None else ball.bounds
    if ball.order is None or bounds is None or ball.is_scheduled:
        return None
    low, high = (np.asarray(bound, "float64") for bound in bounds)
    radius, width = _largest(np.asarray(ball.epsilon, "float64"), high - low, ball.order)
    # Written as `not` so that NaN returns None as well.
    if not (radius > 0.0 and 0.0 < width < math.inf):
        return None
    num_features = math.prod(size or 1 for size in shape)
    least = width / (2 * _GREY_LEVELS) * num_features ** (0.5 / ball.order)
    most = width * num_features ** (1.0 / ball.order)
    return Size(radius, least, most * _SLACK, None, width).beyond(median)


def _likely(radius, width, least, most):
    """Returns the plausible radius that may have been meant, or `None`."""
    # The radius may be a share of the box, or gray levels that were divided twice, or both.
    factors = (width, _GREY_LEVELS, width * _GREY_LEVELS)
    plausible = (radius * factor for factor in factors if least <= radius * factor < 0.5 * most)
    return next(plausible, None)


def _largest(radius, widths, order):
    """Returns the radius and the width of the box where their ratio is largest."""
    if not math.isinf(order):
        return float(radius.max()), float(np.mean(widths**order) ** (1.0 / order))
    pairs = zip(*map(np.ravel, np.broadcast_arrays(radius, widths)), strict=True)
    # A feature with equal bounds cannot change, and would give an infinite ratio.
    known = ((float(one), float(width)) for one, width in pairs if width > 0.0)
    return max(known, key=lambda pair: pair[0] / pair[1], default=(0.0, 0.0))
