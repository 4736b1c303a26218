"""Parses the arguments of threat models."""

import fractions

import keras
import numpy as np

from keras_robust.configurable import short_repr

# The rounding error of the end of a box, relative to that end: float32 may round it several times,
# by at most 2**-24 each.
_ROUNDING = 2.0**-20

SCHEDULE = keras.optimizers.schedules.LearningRateSchedule


def parse_fraction(name, value):
    """Returns a float for a string such as `"8/255"`, and anything else unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return float(fractions.Fraction(value.replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"Argument `{name}` must be a number, or a string such as '8/255'. "
            f"Received: {name}={value!r}"
        ) from error


def parse_epsilon(epsilon):
    """Returns a float, a float32 array, or a schedule unchanged."""
    if isinstance(epsilon, SCHEDULE):
        return epsilon
    try:
        is_text = isinstance(epsilon, str)
        # Before Python 3.12, Fraction refuses spaces around the slash.
        parsed = float(fractions.Fraction(epsilon.replace(" ", ""))) if is_text else epsilon
        value = np.asarray(parsed, dtype="float32")
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            "Argument `epsilon` must be a number, a string such as '8/255', an array or a "
            f"LearningRateSchedule. Received: epsilon={short_repr(epsilon)}"
        ) from error
    if not np.all(np.isfinite(value)) or np.any(value < 0):
        raise ValueError(
            "Argument `epsilon` must be finite and not negative. "
            f"Received: epsilon={short_repr(epsilon)}"
        )
    return float(parsed) if value.ndim == 0 else value


def parse_bounds(bounds):
    """Returns a pair of floats or float32 arrays, or `None`."""
    if bounds is None:
        return None
    try:
        low, high = (np.asarray(bound, dtype="float32") for bound in bounds)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Argument `bounds` must be a pair (low, high) of numbers or arrays, or None. "
            f"Received: bounds={short_repr(bounds)}"
        ) from error
    # The bounds of a single feature may be equal: such a feature never changes.
    try:
        is_box = np.all(low <= high) and np.any(low < high)
    except ValueError as error:
        raise ValueError(
            "Argument `bounds` must be a pair (low, high) of arrays that broadcast together. "
            f"Received: bounds={short_repr(bounds)}"
        ) from error
    if not is_box:
        arrays = ", or low == high for some features, which never change"
        raise ValueError(
            "Argument `bounds` must be a pair (low, high) with low < high"
            f"{arrays if max(low.ndim, high.ndim) else ''}. "
            f"Received: bounds={short_repr(bounds)}"
        )
    return tuple(float(bound) if bound.ndim == 0 else bound for bound in (low, high))


def box_slack(bounds, share):
    """Returns, for each feature, how far rounding may move a point out of a box, as float32.

    The slack is `share` of the width of the box, plus the rounding error of its ends in float32. If
    one end is infinite, `share` refers to the other end.

    Args:
        bounds: pair `(low, high)` of numbers or arrays.
        share: float.
    """
    low, high = (np.asarray(bound, "float64") for bound in bounds)
    ends = np.stack(np.broadcast_arrays(low, high))
    size = np.abs(np.where(np.isfinite(ends), ends, 0.0)).max(axis=0)
    # Subtracting infinite ends is allowed here; their widths are replaced below.
    with np.errstate(invalid="ignore"):
        width = high - low
    slack = share * np.where(np.isfinite(width), width, size) + _ROUNDING * size
    return slack.astype("float32")
