"""The interface of certificates: radii within which a prediction cannot change."""

import typing

import numpy as np

from keras_robust.configurable import Configurable
from keras_robust.registry import Registry


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

    Attributes: `norm`, the norm of the radii, the name of a threat model; `bounds`, the box of
    inputs to which the proofs are limited, a pair `(low, high)`, or `None` if they hold without a
    box; `is_about_model`, whether the proofs are about the prediction of the model itself.
    """

    norm = "L2"
    bounds = None
    is_about_model = True

    def resolve(self, model):
        """Returns the certificate with the arguments that depend on the model, for the report."""
        return self

    def at_radius(self, radius, bounds):
        """Returns the certificate for the question whether one radius holds, at the least cost.

        Args:
            radius: float above 0.
            bounds: pair `(low, high)`, the box of inputs, or `None`.

        Returns:
            A certificate that proves at least `radius` wherever the answer is yes. A method that
            finds the radius directly returns itself.
        """
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

    def _with(self, **changes):
        """Returns a copy with other arguments."""
        return type(self)(**{**self._arguments(), **changes})


registry = Registry("certificate", Certificate)
