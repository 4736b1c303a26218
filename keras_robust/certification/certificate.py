"""The interface of certificates: radii within which a prediction cannot change."""

import math
import numbers
import typing

import keras
import numpy as np

from keras_robust.configurable import Configurable
from keras_robust.registry import Registry

ABSTAINED = -1
# The radius of a prediction that is the same for all inputs.
LARGEST = float(np.finfo("float32").max)
_NORMS = ("L1", "L2", "Linf")
# Bounds at large radii cost most, so begin with a small share of the largest one.
_NUM_DOUBLINGS = 7


class CertificationResult(typing.NamedTuple):
    """The result of a certificate for each input, whatever its label.

    Fields: `predictions`, int64 `(n,)`, the class, or `ABSTAINED` (-1); `radii`, float64 `(n,)`,
    the size of perturbation up to which the prediction provably stays the same: 0 if abstained, and
    `LARGEST`, the largest float32, if no input at all changes the prediction; `broken_radii`,
    float64 `(n,)`, a size of perturbation within which another prediction was found, infinity where
    none was, or `None` for a method that does not look for one; `counterexamples`, float32 like the
    inputs, the inputs with another prediction, and the input itself where none was found, or
    `None`.
    """

    predictions: np.ndarray
    radii: np.ndarray
    broken_radii: np.ndarray | None = None
    counterexamples: np.ndarray | None = None


class Certificate(Configurable):
    """Proves, for each input, a radius within which the prediction of a model stays the same.

    Subclasses implement `certify`, which knows no labels; `kr.certify` compares with labels.

    Attribute: `norm`, the norm of the radii, the name of a threat model.
    """

    norm = "L2"

    def resolve(self, model):
        """Returns the certificate with the arguments that depend on the model, for the report."""
        return self

    def certify(self, model, x, *, batch_size=256, seed=0, verbose=False):
        """Returns a `CertificationResult`.

        Args:
            model: `keras.Model`, or for some certificates a callable that returns logits.
            x: float32 array `(n, ...)` of finite inputs.
            batch_size: int.
            seed: int, the seed of random numbers, for certificates that use them.
            verbose: bool, whether to show a progress bar, for certificates that take long.
        """
        raise NotImplementedError


registry = Registry("certificate", Certificate)


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
    """Returns `max_radius`, a number above 0, or `None` if there are bounds."""
    if max_radius is None and bounds is None:
        raise ValueError(
            "Argument `max_radius`, the largest radius to try, is required without bounds. "
            "Received: bounds=None, max_radius=None"
        )
    is_number = isinstance(max_radius, numbers.Real) and not isinstance(max_radius, bool)
    if max_radius is not None and not (is_number and 0.0 < max_radius < math.inf):
        raise ValueError(
            "Argument `max_radius` must be a number above 0, or None. "
            f"Received: max_radius={max_radius!r}"
        )
    return max_radius
