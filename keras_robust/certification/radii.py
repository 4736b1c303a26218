"""Searches for the largest radius that a certificate proves, and checks of their arguments."""

import math
import numbers

import keras
import numpy as np

from keras_robust.threat_models.parsing import parse_fraction

ABSTAINED = -1
# The radius of a prediction that is the same for all inputs.
LARGEST = float(np.finfo("float32").max)
_NORMS = ("L1", "L2", "Linf")
# Bounds at large radii cost most, so begin with a small share of the largest one.
_NUM_DOUBLINGS = 7


def with_progress(size, step, verbose):
    """Yields the first row of each batch, and shows a progress bar if `verbose`.

    Args:
        size: int, the number of examples.
        step: int, the number of examples in a batch.
        verbose: bool.
    """
    bar = keras.utils.Progbar(size, unit_name="example") if verbose else None
    for start in range(0, size, step):
        yield start
        if bar is not None:
            bar.add(min(step, size - start))


def largest_radii(is_certified, low, high, num_steps):
    """Returns the largest certified radii from `low` to `high` that bisection finds.

    Args:
        is_certified: function of radii `(n,)` that returns bool `(n,)`. It need not be monotone,
            because only radii for which it returned True are returned.
        low: float64 array `(n,)`, radii that are already certified.
        high: float64 array `(n,)`, the largest radii to try, at least `low`.
        num_steps: int, the number of bisections. If `is_certified` is monotone, the result is
            within `(high - low) / 2**num_steps` of the largest certified radius.
    """
    # Copies, because the loop changes them. In float32 many bisections would not change a radius.
    low = np.array(low, "float64")
    high = np.array(high, "float64")
    # Bisection never returns the upper end of its interval, so test it first.
    whole = is_certified(high)
    low[whole] = high[whole]
    for _ in range(num_steps):
        middle = 0.5 * (low + high)
        holds = is_certified(middle)
        low = np.where(holds, middle, low)
        high = np.where(holds, high, middle)
    return low


def radii_from_below(is_certified, largest, num_steps):
    """Returns the largest certified radii that doubling and then bisection find.

    A small radius is doubled as long as it is certified, and then the last step is bisected. Only
    radii for which `is_certified` returned True are returned, and 0.

    Args:
        is_certified: function of an int array, the rows, and their radii that returns bools.
        largest: float64 array `(n,)`, the largest radii to try.
        num_steps: int, the number of bisections. With 0, only `largest` is tried.
    """
    low, high = np.zeros(len(largest)), np.array(largest, "float64")
    rows = np.arange(len(largest))

    def split(tried):
        holds = is_certified(rows, tried)
        low[rows[holds]], high[rows[~holds]] = tried[holds], tried[~holds]
        return holds

    for power in range(_NUM_DOUBLINGS if num_steps else 0, -1, -1):
        rows = rows[split(largest[rows] / 2**power)]
        if not len(rows):
            break
    rows = np.nonzero(low < high)[0]
    for _ in range(num_steps if len(rows) else 0):
        split(0.5 * (low[rows] + high[rows]))
    return low


def check_norm(norm):
    """Returns the name of a norm, if it is known."""
    if norm not in _NORMS:
        raise ValueError(f"Argument `norm` must be one of {_NORMS}. Received: norm={norm!r}")
    return norm


def check_largest_radius(bounds, max_radius):
    """Returns `max_radius` as a number above 0, or `None` if there are bounds."""
    if max_radius is None and bounds is None:
        raise ValueError(
            "Argument `max_radius`, the largest radius to try, is required without bounds. "
            "Received: bounds=None, max_radius=None"
        )
    return None if max_radius is None else check_radius("max_radius", max_radius)


def check_radius(name, radius):
    """Returns a radius, a number or a string such as `"8/255"`, as a finite number above 0."""
    number = parse_fraction(name, radius)
    is_number = isinstance(number, numbers.Real) and not isinstance(number, bool)
    if not (is_number and 0.0 < number < math.inf):
        raise ValueError(
            f"Argument `{name}` must be a number above 0, or a string such as '8/255'. "
            f"Received: {name}={radius!r}"
        )
    return number
