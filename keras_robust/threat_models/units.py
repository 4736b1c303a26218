"""How large a radius is against the inputs, which tells an epsilon in other units than theirs."""

import math
import typing

import numpy as np

_GREY_LEVELS = 255
_SLACK = 1.0 + 1e-6


class Size(typing.NamedTuple):
    """How large a radius is.

    Fields: `epsilon`, where it is largest against the box; `least`, the smallest that is plausible;
    `most`, at which every point of the box is feasible; `likely`, what may have been meant if
    `epsilon` is below `least`, or `None`; `width`, of the box, or of the inputs without one.
    """

    epsilon: float
    least: float
    most: float
    likely: float | None
    width: float

    @property
    def complaint(self):
        """What is wrong with a radius that is too small or too large, or `None`."""
        if self.epsilon > self.most:
            return (
                f"Epsilon is larger than the range of the inputs allows, {self.most:.4g}: every "
                "example may become any other, and no model withstands that. Give `epsilon` in the "
                "units of the inputs and of `bounds`."
            )
        if self.epsilon >= self.least:
            return None
        meant = "" if self.likely is None else f"Was {self.likely:.4g} meant? "
        return (
            f"Epsilon seems to have other units than the inputs, of which the range is "
            f"{self.width:.4g}: below {self.least:.4g} hardly anything changes. {meant}Give "
            "`epsilon` in the units of the inputs and of `bounds`."
        )


def size_of(ball, shape, extent=None, median=0.0):
    """Returns the `Size` of the radius of a threat model, or `None` where there is none to judge.

    The smallest plausible radius is half a grey level, `width / 510`: of every feature in `Linf`,
    and of `sqrt(d)` among `d` features in `L2` and `L1`, in which published radii of large images
    are less for each feature. Where the nearest mistakes are known, it is 1/100 of their distance,
    if that is more.

    Args:
        ball: a `ThreatModel`.
        shape: tuple, of one example; a size may be `None`.
        extent: pair `(low, high)` of numbers, the range of the inputs, for a threat model without a
            box; `None` if it is not known. Defaults to `None`.
        median: number, the distance of the nearest mistakes. Defaults to `0.0`.
    """
    bounds = extent if ball.bounds is None else ball.bounds
    if ball.order is None or bounds is None or ball.is_scheduled:
        return None
    low, high = (np.asarray(bound, "float64") for bound in bounds)
    radius, width = _largest(np.asarray(ball.epsilon, "float64"), high - low, ball.order)
    if not (radius > 0.0 and 0.0 < width < math.inf):
        return None
    num_features = math.prod(size or 1 for size in shape)
    least = width / (2 * _GREY_LEVELS) * num_features ** (0.5 / ball.order)
    least = max(least, median / 100.0)
    most = width * num_features ** (1.0 / ball.order)
    # A share of the box, grey levels that were divided twice, or both.
    factors = (width, _GREY_LEVELS, width * _GREY_LEVELS)
    plausible = (radius * factor for factor in factors if least <= radius * factor < 0.5 * most)
    return Size(radius, least, most * _SLACK, next(plausible, None), width)


def _largest(radius, widths, order):
    """Returns the radius and the width of the box where the one is largest against the other."""
    if not math.isinf(order):
        return float(radius.max()), float(np.mean(widths**order) ** (1.0 / order))
    pairs = zip(*map(np.ravel, np.broadcast_arrays(radius, widths)), strict=True)
    # A feature that cannot change says nothing.
    known = ((float(one), float(width)) for one, width in pairs if width > 0.0)
    return max(known, key=lambda pair: pair[0] / pair[1], default=(0.0, 0.0))
