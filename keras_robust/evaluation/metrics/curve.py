"""Robust accuracy as a function of the radius, from the smallest perturbations found."""

import numpy as np


def robustness_curve(distances, num_points=50, epsilon=None):
    """Returns robust accuracy for radii from 0 to the largest distance found.

    `RA(epsilon) = mean_i 1[distance_i > epsilon]`, with the distance of the nearest adversarial
    example found. It is a step function, and every returned value is exact. If there are more steps
    than points, the steps are thinned evenly by rank, so that points are dense where steps are.

    Args:
        distances: array `(num_examples,)`, the size of the smallest perturbation found: 0 for an
            example that is misclassified without an attack, `np.inf` if none was found. Rounding
            must not push the distance of a feasible point above the radius, because the curve would
            count the example as robust at that radius.
        num_points: int >= 2, the largest number of radii, not counting `epsilon`. Defaults to `50`.
        epsilon: number, a radius to include; `None` for none. Defaults to `None`.

    Returns:
        A dict with the lists `"epsilons"`, ascending from 0 to the largest finite distance (or to
        `epsilon`, if that is larger), and `"robust_accuracy"`. The last value is the share of
        examples without an adversarial example.

    Raises:
        ValueError: for no examples, and for negative or NaN distances.

    Example:

    >>> import numpy as np
    >>> from keras_robust.evaluation import robustness_curve
    >>> print(robustness_curve(np.array([0.0, 0.1, 0.3, np.inf]), epsilon=0.2))
    {'epsilons': [0.0, 0.1, 0.2, 0.3], 'robust_accuracy': [0.75, 0.5, 0.5, 0.25]}
    """
    ranked = np.sort(_check(distances))
    if num_points < 2:
        raise ValueError(
            f"Argument `num_points` must be at least 2. Received: num_points={num_points}"
        )
    steps = np.unique(np.concatenate([[0.0], ranked[np.isfinite(ranked)]]))
    if len(steps) > num_points:
        steps = steps[np.linspace(0, len(steps) - 1, num_points).round().astype(int)]
    # Add `epsilon` after the thinning, which might remove it.
    if epsilon is not None:
        steps = np.unique(np.append(steps, float(epsilon)))
    # A mistake at exactly this radius is feasible, hence side="right".
    above = len(ranked) - np.searchsorted(ranked, steps, side="right")
    return {"epsilons": steps.tolist(), "robust_accuracy": (above / len(ranked)).tolist()}


def median_distance(distances):
    """Returns the median of the smallest perturbations found.

    Unlike the mean, it does not depend on the distances of the most robust examples.

    Args:
        distances: array `(num_examples,)`, as for `robustness_curve`.

    Returns:
        A float, or `None` if the median is infinite because at least half of the examples have no
        adversarial example.

    Example:

    >>> import numpy as np
    >>> from keras_robust.evaluation import median_distance
    >>> print(median_distance(np.array([0.0, 0.25, np.inf])))
    0.25
    """
    median = float(np.median(_check(distances)))
    return median if np.isfinite(median) else None


def _check(distances):
    distances = np.asarray(distances, "float64")
    if distances.ndim != 1 or not distances.size or not (distances >= 0.0).all():
        raise ValueError(
            "Expected one distance per example, at least 0 and not NaN, `np.inf` where no "
            f"adversarial example was found. Received: distances={distances}"
        )
    return distances
