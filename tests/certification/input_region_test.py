import numpy as np
import pytest
import scipy.optimize
from keras import ops

from keras_robust import backend
from keras_robust.certification.input_region import InputRegion

RNG = np.random.default_rng(0)
SHAPE = (2, 3)
# From radii for which no bound matters to those of balls that hold the box.
RADII = np.array([0.01, 0.2, 0.5, 0.9, 1.5, 2.5, 4.0, 9.0])
BOUNDS = {"box": (0.0, 1.0), "channels": ([0.0, 0.3, 0.0], [1.0, 0.9, 0.5]), "none": None}
every_norm = pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
every_box = pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)


@pytest.fixture(autouse=True)
def _double_precision():
    with backend.double_precision():
        yield


def _tensor(values):
    return ops.convert_to_tensor(np.asarray(values, "float64"))


def _examples(bounds):
    """Inputs, at bounds and inside, and slopes of different sizes, some of them 0."""
    x = RNG.beta(0.5, 0.5, size=(len(RADII), *SHAPE))
    if bounds is not None:
        x = np.clip(x, *bounds)
    slopes = RNG.normal(size=x.shape) * 10.0 ** RNG.uniform(-2.0, 2.0, size=(len(RADII), 1, 1))
    slopes[::3, 0, 1] = 0.0
    return x, slopes


def _found(x, slopes, radii, bounds, norm):
    region = InputRegion.around(_tensor(x), _tensor(radii), bounds)
    return np.asarray(region.maximum(_tensor(slopes), norm))


def _in_linf(slopes, low, high, radius):
    ends = np.maximum(low, -radius), np.minimum(high, radius)
    return np.sum(np.where(slopes > 0.0, *ends[::-1]) * slopes)


def _in_l1(slopes, low, high, radius):
    """The linear program over the parts of the change above and below 0."""
    size = len(slopes)
    found = scipy.optimize.linprog(
        -np.concatenate([slopes, -slopes]),
        A_ub=np.ones((1, 2 * size)),
        b_ub=[radius],
        bounds=[*zip(np.zeros(size), high, strict=True), *zip(np.zeros(size), -low, strict=True)],
    )
    return -found.fun


def _in_l2(slopes, low, high, radius):
    """The quadratic program, with units in which a general solver is exact."""
    slopes, unit = slopes / np.linalg.norm(slopes), np.linalg.norm(slopes)
    found = scipy.optimize.minimize(
        lambda delta: -slopes @ delta,
        np.zeros(len(slopes)),
        jac=lambda delta: -slopes,
        bounds=list(zip(np.maximum(low / radius, -1), np.minimum(high / radius, 1), strict=True)),
        constraints={
            "type": "ineq",
            "fun": lambda delta: 1.0 - delta @ delta,
            "jac": lambda delta: -2.0 * delta,
        },
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return -found.fun * unit * radius


ORACLES = {"Linf": _in_linf, "L2": _in_l2, "L1": _in_l1}


def _expected(x, slopes, bounds, norm):
    if bounds is None:
        low, high = (np.broadcast_to(end * RADII[:, None, None], x.shape) for end in (-1.0, 1.0))
    else:
        low, high = (np.broadcast_to(end, x.shape) - x for end in bounds)
    return np.array(
        [
            np.sum(row * at) + ORACLES[norm](row.ravel(), a.ravel(), b.ravel(), radius)
            for row, at, a, b, radius in zip(slopes, x, low, high, RADII, strict=True)
        ]
    )


@every_norm
@every_box
def test_the_bound_is_the_maximum_over_the_ball_and_the_box(norm, bounds):
    x, slopes = _examples(bounds)
    found, expected = _found(x, slopes, RADII, bounds, norm), _expected(x, slopes, bounds, norm)
    gain = expected - np.sum(slopes * x, axis=(1, 2))
    assert np.all(found - expected >= -1e-9 * gain)
    np.testing.assert_allclose(found - expected, 0.0, atol=1e-6 * np.min(gain))
    assert np.all(gain > 0.0)


@every_norm
@every_box
def test_no_point_of_the_region_is_above_the_bound(norm, bounds):
    x, slopes = _examples(bounds)
    found = _found(x, slopes, RADII, bounds, norm)
    # Directions near those of the slopes, where the maximum is.
    delta = slopes[:, None] + RNG.normal(size=(len(x), 2000, *SHAPE)) * np.abs(slopes[:, None])
    delta *= RNG.uniform(0.0, 20.0, size=delta.shape[:2])[..., None, None]
    if bounds is not None:
        ends = (np.broadcast_to(end, x.shape) - x for end in bounds)
        delta = np.clip(delta, *(end[:, None] for end in ends))
    order = {"Linf": np.inf, "L2": 2, "L1": 1}[norm]
    sizes = np.linalg.norm(delta.reshape(*delta.shape[:2], -1), order, axis=-1)
    delta *= np.minimum(1.0, RADII[:, None] / np.maximum(sizes, 1e-30))[..., None, None]
    values = np.sum(slopes[:, None] * (x[:, None] + delta), axis=(2, 3))
    assert np.all(values <= found[:, None] + 1e-12 * np.abs(slopes).sum(axis=(1, 2))[:, None])


@every_norm
@every_box
def test_a_radius_of_0_and_slopes_of_0(norm, bounds):
    x, slopes = _examples(bounds)
    none = np.zeros(len(x))
    found = _found(x, slopes, none, bounds, norm)
    np.testing.assert_allclose(found, np.sum(slopes * x, axis=(1, 2)), rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(_found(x, 0.0 * slopes, RADII, bounds, norm), none)


@pytest.mark.exhaustive
@every_norm
@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("radius", [0.0, 1e-9, 1e9])
def test_slopes_and_radii_of_any_size(norm, scale, radius):
    x, slopes = _examples((0.0, 1.0))
    radii = np.full(len(x), radius)
    found = _found(x, slopes * scale, radii, (0.0, 1.0), norm)
    assert np.all(np.isfinite(found))
    np.testing.assert_allclose(found / scale, _found(x, slopes, radii, (0.0, 1.0), norm), rtol=1e-9)


@every_norm
@every_box
def test_the_gradient_is_that_of_finite_differences(norm, bounds):
    x, slopes = _examples(bounds)
    region = InputRegion.around(_tensor(x), _tensor(RADII), bounds)
    slopes = np.where(slopes == 0.0, 0.3, slopes)
    gradient = backend.value_and_input_gradient(
        lambda slopes: (region.maximum(slopes, norm), ()), _tensor(slopes)
    )[1]
    expected = np.zeros(x.shape)
    for entry in np.ndindex(*SHAPE):
        step = np.zeros(x.shape)
        step[(slice(None), *entry)] = 1e-6 * np.abs(slopes[(slice(None), *entry)])
        high, low = (_found(x, slopes + sign * step, RADII, bounds, norm) for sign in (1.0, -1.0))
        expected[(slice(None), *entry)] = (high - low) / (2.0 * np.max(step, axis=(1, 2)))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


def test_the_ends_are_those_of_the_ball_in_the_box():
    region = InputRegion.around(_tensor([[0.1, 0.5], [0.6, 1.2]]), _tensor([0.3, 0.5]), (0.0, 1.0))
    np.testing.assert_allclose(region.lower, [[0.0, 0.2], [0.1, 0.7]], atol=1e-12)
    # An input out of the box is in its region all the same.
    np.testing.assert_allclose(region.upper, [[0.4, 0.8], [1.0, 1.2]], atol=1e-12)
