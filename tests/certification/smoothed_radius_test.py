import numpy as np
import pytest
from scipy import optimize
from scipy import stats

from keras_robust.certification import smoothed_radius
from keras_robust.certification.smoothed_radius import least_votes


@pytest.mark.parametrize(("n", "expected"), [(1000, 2.46), (10_000, 3.20), (100_000, 3.81)])
def test_published_radii_of_a_constant_classifier(n, expected):
    assert smoothed_radius(n, n, 1.0, 0.001) == pytest.approx(expected, abs=0.005)
    # All copies agree with probability p^n.
    exact = stats.norm.ppf(0.001 ** (1.0 / n))
    assert smoothed_radius(n, n, 0.5, 0.001) == pytest.approx(0.5 * exact, rel=1e-9)


@pytest.mark.parametrize(
    ("count", "n", "alpha"), [(60, 100, 0.001), (9, 10, 0.05), (700, 1000, 0.01)]
)
def test_the_bound_is_that_of_clopper_and_pearson(count, n, alpha):
    """By definition of the bound `p`, `P[Binomial(n, p) >= k] = alpha`."""
    lower = optimize.brentq(lambda p: stats.binom.sf(count - 1, n, p) - alpha, 1e-9, 1.0 - 1e-9)
    expected = max(0.0, 2.0 * stats.norm.ppf(lower))
    assert smoothed_radius(count, n, 2.0, alpha) == pytest.approx(expected, abs=1e-9)


def test_counts_without_a_certificate():
    np.testing.assert_array_equal(smoothed_radius(np.array([0, 1, 50, 55]), 100, 1.0, 0.001), 0.0)


@pytest.mark.parametrize("radius", [None, 0.01, 0.2, 0.45])
@pytest.mark.parametrize(("n", "alpha"), [(60, 0.05), (200, 0.001), (1, 0.3), (1, 0.6)])
def test_the_least_votes_are_those_of_all_numbers(n, alpha, radius):
    radii = smoothed_radius(np.arange(n + 1), n, 0.5, alpha)
    enough = radii > 0.0 if radius is None else radii >= radius
    if radius is not None and not enough.any():
        with pytest.raises(ValueError, match=f"at most {radii[-1]:.4g}, .*radius={radius} with"):
            least_votes(n, 0.5, alpha, radius)
        return
    expected = int(np.argmax(enough)) if enough.any() else n + 1
    assert least_votes(n, 0.5, alpha, radius) == expected
    # The radius grows with the votes, so that a bound of the votes is a bound of the radius.
    assert np.all(np.diff(radii) >= 0.0)
