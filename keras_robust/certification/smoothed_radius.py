"""The certified radius of randomized smoothing as a function of the votes."""

import bisect

import numpy as np
from scipy import stats


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


def least_votes(num_samples, noise_stddev, alpha, radius=None):
    """Returns the least number of votes with a radius above 0, or with at least `radius`.

    The result is `num_samples + 1` if the radius is 0 for every number of votes.

    Args:
        num_samples: int, `n`.
        noise_stddev: float, `sigma`.
        alpha: float, see `smoothed_radius`.
        radius: float above 0, or `None`. Defaults to `None`.

    Raises:
        ValueError: if no number of votes reaches `radius`.
    """

    def reaches(count):
        found = smoothed_radius(count, num_samples, noise_stddev, alpha)
        return found > 0.0 if radius is None else found >= radius

    # The radius grows with the number of votes.
    least = bisect.bisect_left(range(num_samples + 1), True, key=reaches)
    if radius is not None and least > num_samples:
        largest = smoothed_radius(num_samples, num_samples, noise_stddev, alpha)
        raise ValueError(
            f"Expected a radius of at most {largest:.4g}, that of inputs on which all copies "
            "agree: increase num_samples, or train and certify with more noise. "
            f"Received: radius={radius} with num_samples={num_samples} and "
            f"noise_stddev={noise_stddev}"
        )
    return least
