"""Randomized smoothing: radii from the votes of a model over noisy copies of an input."""

import math
import numbers
import operator
import warnings

import keras
import numpy as np
from keras import ops
from scipy import stats

from keras_robust import backend
from keras_robust import models
from keras_robust.certificate import Certificate
from keras_robust.certificate import CertificationResult
from keras_robust.certification.radii import ABSTAINED
from keras_robust.certification.radii import with_progress
from keras_robust.layers import RandomizedSmoothing
from keras_robust.threat_models.parsing import parse_fraction

# Random numbers are drawn in blocks of this size, so that they do not depend on the batch size.
_BLOCK = 100
_MAX_BLOCKS = 50
_SELECTION, _ESTIMATION = 0, 1
# As a share of the range of the inputs. Smaller noise is probably in other units.
_LEAST_NOISE = 0.01


def smoothed_radius(count, num_samples, noise_stddev, alpha):
    """Returns the certified radius for the number of noisy copies that voted for a class.

    `R = sigma * Phi^-1(p)`, where `p` is the one-sided Clopper-Pearson bound at level `1 - alpha`,
    the `alpha` quantile of `Beta(k, n - k + 1)`. The radius is 0, no certificate, if `p <= 1/2`.

    Args:
        count: int or array of int, `k`, the number of copies that voted for the class.
        num_samples: int, `n`, the number of independent copies; the class must have been chosen on
            other copies.
        noise_stddev: float, `sigma`.
        alpha: float between 0 and 1, the probability that the radius is too large.

    Example:

    >>> import keras_robust as kr
    >>> print(f"{kr.certification.smoothed_radius(100_000, 100_000, 1.0, 0.001):.2f}")
    3.81
    """
    count = np.asarray(count)
    # Beta(0, n + 1) does not exist. Without votes the bound is 0.
    lower = stats.beta.ppf(alpha, np.maximum(count, 1), num_samples - count + 1)
    lower = np.where(count > 0, lower, 0.0)
    # `where` computes both sides, and Phi^-1(0) is infinite.
    return np.where(lower > 0.5, noise_stddev * stats.norm.ppf(np.maximum(lower, 0.5)), 0.0)


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
    the number of copies: 2.46 sigma for 1,000, 3.20 for 10,000 and 3.81 for 100,000. The batch size
    is rounded to hundreds, at most 5,000, and does not change the result.

    Published, CIFAR-10, ResNet-110, certified accuracy at radius 0.5: 43% for sigma 0.25 and 41%
    for sigma 0.5.

    Deviations from the authors' code: non-finite outputs vote for no class. Cost for each input:
    `selection_samples + num_samples` forward passes.

    Args:
        noise_stddev: float above 0, `sigma`, in the units of the input, or a string such as
            `"64/255"`; `None` for the `noise_stddev` of the `RandomizedSmoothing` to certify.
            Defaults to `None`.
        num_samples: int, `n`, the number of copies that bound the probability. Defaults to
            `100_000`.
        selection_samples: int, `n0`, the number of copies that select the class. Defaults to `100`.
        alpha: float between 0 and 1, the probability of an error for each input. Defaults to
            `0.001`.

    Raises:
        ValueError: for arguments out of range; in `certify`, if `noise_stddev` is missing or is not
            that of the `RandomizedSmoothing`, and for a model with an `InputGuard` that rejects
            inputs out of bounds, because noisy copies leave the bounds.

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
        self, noise_stddev=None, *, num_samples=100_000, selection_samples=100, alpha=1e-3
    ):
        noise_stddev = parse_fraction("noise_stddev", noise_stddev)
        if noise_stddev is not None:
            _check_between("noise_stddev", noise_stddev, math.inf)
        _check_between("alpha", alpha, 1.0)
        for name, value in (("num_samples", num_samples), ("selection_samples", selection_samples)):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(
                    f"Argument `{name}` must be an int of at least 1. Received: {name}={value!r}"
                )
        self.noise_stddev = noise_stddev
        self.num_samples = num_samples
        self.selection_samples = selection_samples
        self.alpha = alpha

    def resolve(self, model):
        if self.noise_stddev is not None or not isinstance(model, RandomizedSmoothing):
            return self
        return type(self)(**{**self.get_config(), "noise_stddev": model.noise_stddev})

    def certify(self, model, x, *, batch_size=256, seed=0, verbose=False):
        base, stddev = self._parts(model)
        _warn_of_units(x, stddev)
        _check_guards(base)
        select, estimate = (
            _counter(models.Classifier(base), stddev, number, batch_size)
            for number in (self.selection_samples, self.num_samples)
        )
        predictions = np.full(len(x), ABSTAINED, "int64")
        counts = np.zeros(len(x), "int64")
        seed = ops.convert_to_tensor([operator.index(seed), 0], "int32")
        for row in with_progress(len(x), 1, verbose):
            # Each input has its own random numbers, and the two sets of copies are independent.
            own = backend.fold_in(seed, row)
            image = ops.convert_to_tensor(x[row : row + 1], "float32")
            predictions[row] = np.argmax(select(image, backend.fold_in(own, _SELECTION)))
            counts[row] = estimate(image, backend.fold_in(own, _ESTIMATION))[predictions[row]]
        radii = smoothed_radius(counts, self.num_samples, stddev, self.alpha)
        return CertificationResult(np.where(radii > 0.0, predictions, ABSTAINED), radii)

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


def _counter(classifier, stddev, limit, batch_size):
    """Returns a function that counts the votes of the first `limit` noisy copies by class."""
    needed = math.ceil(limit / _BLOCK)
    # Batches consist of whole blocks, and are no larger than needed.
    num_blocks = min(max(1, batch_size // _BLOCK), _MAX_BLOCKS, needed)

    def vote(x, seed, first):
        shape = (_BLOCK, *x.shape[1:])
        seeds = (backend.fold_in(seed, first + block) for block in range(num_blocks))
        noise = ops.concatenate([backend.normal(shape, own) for own in seeds], axis=0)
        logits = classifier.logits(x + stddev * noise)
        number = first * _BLOCK + ops.arange(num_blocks * _BLOCK, dtype="int32")
        # The last block may have more copies than are needed.
        counted = ops.logical_and(number < limit, ops.all(ops.isfinite(logits), axis=-1))
        votes = ops.one_hot(ops.argmax(logits, axis=-1), logits.shape[-1], dtype="int32")
        return ops.sum(votes * ops.cast(ops.expand_dims(counted, -1), "int32"), axis=0)

    compiled = backend.compile_function(vote)
    starts = [ops.convert_to_tensor(first, "int32") for first in range(0, needed, num_blocks)]

    def count(x, seed):
        # Sum on the device, so that it does not wait for Python between batches.
        return np.asarray(sum(compiled(x, seed, first) for first in starts), "int64")

    return count


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


def _check_between(name, value, high):
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0.0 < value < high:
        raise ValueError(
            f"Argument `{name}` must be a number above 0 and below {high}. "
            f"Received: {name}={value!r}"
        )
