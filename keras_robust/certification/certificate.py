"""The interface of all certificates: radii within which a prediction cannot change."""

import typing

import keras
import numpy as np

from keras_robust.configurable import Configurable
from keras_robust.registry import Registry

ABSTAINED = -1
# The radius of a prediction that no input changes.
LARGEST = float(np.finfo("float32").max)


class CertificationResult(typing.NamedTuple):
    """What a certificate says about each input, whatever its label.

    Fields: `predictions`, int64 `(n,)`, the class, or `ABSTAINED` (-1); `radii`, float64 `(n,)`,
    the size of perturbation up to which the prediction is proven to stay: 0 where abstained, and
    `LARGEST`, that of float32, if no input at all changes it.
    """

    predictions: np.ndarray
    radii: np.ndarray


class Certificate(Configurable):
    """Proves, for each input, a radius within which the prediction of a model stays the same.

    Subclasses write `certify`. Which class is right plays no role here: `kr.certify` compares.

    Attribute: `norm`, the name of the threat model in whose norm the radii are.
    """

    norm = "L2"

    def resolve(self, model):
        """Returns the certificate with what only the model tells, for the record."""
        return self

    def certify(self, model, x, *, batch_size=256, seed=0, verbose=False):
        """Returns `CertificationResult`.

        Args:
            model: `keras.Model`, or for some certificates a callable that returns logits.
            x: float32 array `(n, ...)` of finite inputs.
            batch_size: int.
            seed: int, of random numbers, where there are any.
            verbose: bool, whether to show a progress bar, where it takes long.
        """
        raise NotImplementedError


registry = Registry("certificate", Certificate)


def shown(size, step, verbose):
    """Iterates over the first rows of batches, with a progress bar if `verbose`.

    Args:
        size: int, examples.
        step: int, examples in a batch.
        verbose: bool.
    """
    bar = keras.utils.Progbar(size, unit_name="example") if verbose else None
    for start in range(0, size, step):
        yield start
        if bar is not None:
            bar.add(min(step, size - start))


def largest_radii(is_certified, low, high, num_steps):
    """Returns radii from `low` to `high` that are certified, as large as bisection finds them.

    Args:
        is_certified: function of radii `(n,)` that returns bool `(n,)`. What it says at the radius
            that is returned it has really said: it need not be monotone.
        low: float64 array `(n,)`, radii that are certified already.
        high: float64 array `(n,)`, the largest radii to try, at least `low`.
        num_steps: int; the result is within `(high - low) / 2**num_steps` of the border.
    """
    low = np.array(low, "float64")
    high = np.array(high, "float64")
    whole = is_certified(high)
    low[whole] = high[whole]
    for _ in range(num_steps):
        middle = 0.5 * (low + high)
        holds = is_certified(middle)
        low = np.where(holds, middle, low)
        high = np.where(holds, high, middle)
    return low
