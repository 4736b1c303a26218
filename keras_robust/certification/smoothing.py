"""Randomized smoothing: radii from the votes of a model over noisy copies of an input."""

import numbers
import operator
import warnings

import keras
import numpy as np

from keras_robust import models
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.certificate import Certificate
from keras_robust.certificate import CertificationResult
from keras_robust.certification.noisy_votes import ESTIMATION
from keras_robust.certification.noisy_votes import SELECTION
from keras_robust.certification.noisy_votes import NoisyVotes
from keras_robust.certification.radii import ABSTAINED
from keras_robust.certification.radii import check_radius
from keras_robust.certification.radii import with_progress
from keras_robust.certification.smoothed_radius import least_votes
from keras_robust.certification.smoothed_radius import smoothed_radius
from keras_robust.layers import RandomizedSmoothing
from keras_robust.models.dtypes import LOW

# As a share of the range of the inputs. Smaller noise is probably in other units.
_LEAST_NOISE = 0.01


@keras.saving.register_keras_serializable(package="keras_robust")
class Smoothing(Certificate):
    """Certifies the smoothed classifier of a model in L2, with a small probability of error.

    The smoothed classifier predicts the class that the model predicts most often for
    `x + N(0, sigma^2 I)`. A first set of noisy copies selects the class. A second, independent set
    gives a lower bound `p` of its probability. If `p > 1/2`, the smoothed classifier predicts that
    class for every input within `sigma * Phi^-1(p)` of `x`; otherwise the certificate abstains. For
    each input, the probability of an error is at most `alpha` over the noise drawn here.

    **The certificate says nothing about the model without noise.** Deploy the smoothed classifier
    (`layers.RandomizedSmoothing`), which draws its own noise; its number of copies decides its own
    error. The noise is not clipped to the range of valid inputs; if the model clips its input, that
    is part of the model. Train the model with noise of the same size (`objectives.GaussianNoise`),
    or the certificate abstains on nearly all inputs. The largest possible radius grows slowly with
    the number of copies: 2.46 sigma for 1,000, 3.20 for 10,000 and 3.81 for 100,000.

    **Stopping early is exact.** The radius is a function of the number `k` of votes, which grows
    with `k`. After `m` copies with `k` votes the total is between `k` and `k + n - m`. If the
    radius is 0 even for `k + n - m`, the certificate abstains whatever the other copies vote, and
    they are not computed. With `radius` an input is also done once `k` votes alone suffice. The
    answer is bit for bit that of all `n` copies. Only inputs that abstain, and those decided at one
    radius, cost less.

    Each input has its own noise, which depends on `seed` and its row alone. `batch_size` is the
    number of copies in a forward pass, rounded down to hundreds, at least 100, and does not change
    the noise. By default a batch has about a million input values and at most 2,000 copies, which
    suits CPUs; a GPU may be faster with more.

    With `dtype="bfloat16"` **the certificate holds for the classifier that is computed in
    bfloat16**, another function than the one in float32, and says nothing about the latter. Deploy
    a `RandomizedSmoothing` of the same network built under the policy `"mixed_bfloat16"`, whose
    layers compute the same. Of three trained networks on Fashion-MNIST 0.3% to 0.4% of the votes
    differed, and a radius by up to 0.02 (`benchmarks/smoothing.py`).

    Published, CIFAR-10, ResNet-110, certified accuracy at radius 0.5: 43% for sigma 0.25 and 41%
    for sigma 0.5.

    Deviations from the authors' code: non-finite outputs vote for no class. Cost for each input:
    up to `selection_samples + num_samples` forward passes.

    Args:
        noise_stddev: float above 0, `sigma`, in the units of the input, or a string such as
            `"64/255"`; `None` for the `noise_stddev` of the `RandomizedSmoothing` to certify.
            Defaults to `None`.
        num_samples: int, `n`, the number of copies that bound the probability. Defaults to
            `100_000`.
        selection_samples: int, `n0`, the number of copies that select the class. Defaults to `100`.
        alpha: float between 0 and 1, the probability of an error for each input. Defaults to
            `0.001`.
        radius: float above 0, or a string like `"64/255"`, to decide this radius alone: the result
            is `radius` where the certified radius is at least that large, and otherwise the
            certificate abstains. `None` for the largest radius. Defaults to `None`.
        dtype: `"bfloat16"` or `"float16"`, in which the float32 layers of a `keras.Model` compute
            the votes, as with `attack_dtype` of `AdvTrain`; it has no effect on models with a layer
            in half precision. `None` for the dtype of each layer. Defaults to `None`.

    Raises:
        ValueError: for arguments out of range; in `certify`, if `noise_stddev` is missing or is not
            that of the `RandomizedSmoothing`, if no number of votes reaches `radius`, if the model
            cannot run in `dtype`, and for a model with an `InputGuard` that rejects inputs out of
            bounds, because noisy copies leave the bounds.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> smoothing = kr.certification.Smoothing(0.25, num_samples=10_000)
    >>> x = np.array([[0.9, 0.1], [0.5, 0.5]], "float32")
    >>> found = smoothing.certify(lambda x: x, x)
    >>> print(found.predictions[0], found.radii[0] < 0.8 / 2**0.5)
    0 True

    References:
        - [Cohen et al., 2019](https://arxiv.org/abs/1902.02918)
    """

    norm = "L2"
    is_about_model = False

    def __init__(
        self,
        noise_stddev=None,
        *,
        num_samples=100_000,
        selection_samples=100,
        alpha=1e-3,
        radius=None,
        dtype=None,
    ):
        if noise_stddev is not None:
            noise_stddev = check_radius("noise_stddev", noise_stddev)
        _check_share("alpha", alpha)
        for name, value in (("num_samples", num_samples), ("selection_samples", selection_samples)):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(
                    f"Argument `{name}` must be an int of at least 1. Received: {name}={value!r}"
                )
        if radius is not None:
            radius = check_radius("radius", radius)
        if dtype is not None and dtype not in LOW:
            raise ValueError(
                f"Argument `dtype` must be one of {LOW} or None. Received: dtype={dtype!r}"
            )
        self.noise_stddev = noise_stddev
        self.num_samples = num_samples
        self.selection_samples = selection_samples
        self.alpha = alpha
        self.radius = radius
        self.dtype = dtype

    def resolve(self, model):
        if self.noise_stddev is not None or not isinstance(model, RandomizedSmoothing):
            return self
        return self._with(noise_stddev=model.noise_stddev)

    def certify(self, model, x, *, batch_size=None, seed=0, verbose=False):
        if batch_size is not None:
            check_counts(batch_size=batch_size)
        base, stddev = self._parts(model)
        _warn_of_units(x, stddev)
        _check_guards(base)
        self._check_dtype(base)
        least = least_votes(self.num_samples, stddev, self.alpha, self.radius)
        limits = (self.selection_samples, self.num_samples)
        noisy = NoisyVotes(
            models.Classifier(base),
            x,
            stddev=stddev,
            limits=limits,
            seed=operator.index(seed),
            dtype=self.dtype,
        )

        def is_decided(row):
            # The class is not known before all copies that select it have voted.
            if noisy.cast[row, SELECTION] < self.selection_samples:
                return False
            count = noisy.count(row)
            left = self.num_samples - noisy.cast[row, ESTIMATION]
            return count + left < least or (self.radius is not None and count >= least)

        noisy.run(with_progress(len(x), 1, verbose), is_decided, batch_size)
        counts = np.array([noisy.count(row) for row in range(len(x))], "int64")
        predictions = np.array([noisy.selected(row) for row in range(len(x))], "int64")
        radii = self.radius
        if radii is None:
            radii = smoothed_radius(counts, self.num_samples, stddev, self.alpha)
        # An input that was stopped because it abstains has fewer than `least` votes.
        holds = counts >= least
        return CertificationResult(
            np.where(holds, predictions, ABSTAINED), np.where(holds, radii, 0.0)
        )

    def _check_dtype(self, base):
        if self.dtype is not None and not isinstance(base, keras.Layer):
            raise ValueError(
                "Argument `dtype` needs a keras.Model, whose layers have dtypes: leave it out, and "
                f"choose the dtype inside the function. Received: dtype={self.dtype!r} for {base!r}"
            )

    def _parts(self, model):
        """Returns the model that gets the noise, and the standard deviation of the noise."""
        stddev = self.noise_stddev
        if isinstance(model, RandomizedSmoothing):
            if stddev not in (None, model.noise_stddev):
                raise ValueError(
                    "A RandomizedSmoothing is certified with its own noise: leave `noise_stddev` "
                    f"out, or certify the inner model. Received: noise_stddev={stddev} for a "
                    f"layer with noise_stddev={model.noise_stddev}"
                )
            return model.model, model.noise_stddev
        if stddev is None:
            raise ValueError(
                "Argument `noise_stddev` is required unless the model is a RandomizedSmoothing: "
                "give the standard deviation of the training noise, in the units of the input. "
                f"Received: noise_stddev=None for {model!r}"
            )
        return model, stddev


def _warn_of_units(x, stddev):
    # `ptp` of an empty array fails.
    extent = float(np.ptp(x)) if np.size(x) else 0.0
    if stddev < _LEAST_NOISE * extent:
        warnings.warn(
            "The noise is small compared with the range of the inputs. Give it in the units of the "
            "inputs: for pixels from 0 to 255, a noise of 0.25 is 63.75. "
            f"Received: noise_stddev={stddev} and inputs over a range of {extent:.4g}",
            stacklevel=5,
        )


def _check_guards(model):
    guards = models.rejecting_layers(model)
    if guards:
        raise ValueError(
            "An InputGuard rejects noisy copies, because noise leaves its bounds: put the guard in "
            "front of the smoothing and certify the model after it, or let it clip "
            "(outside='clip'). "
            f"Received: layer {guards[0].name!r} of class {type(guards[0]).__name__}"
        )


def _check_share(name, value):
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0.0 < value < 1.0:
        raise ValueError(
            f"Argument `{name}` must be a number above 0 and below 1. Received: {name}={value!r}"
        )
