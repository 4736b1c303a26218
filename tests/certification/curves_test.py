import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_robust import backend
from keras_robust.certification import curves
from keras_robust.certification.curves import Curve
from keras_robust.certification.curves import curve_of_activation
from keras_robust.certification.curves import curve_of_layer
from keras_robust.certification.interval_activations import _INCREASING
from tests.support import tiers

RNG = np.random.default_rng(0)
LAYERS = {
    "capped": layers.ReLU(max_value=1.5, negative_slope=0.3),
    "steep": layers.LeakyReLU(1.7),
    "sunken": layers.ELU(0.4),
    "humped": layers.ELU(-0.8),
}
CURVES = {function.__name__: curve for function, curve in curves._CURVES.items()}
CURVES |= {name: curve_of_layer(layer) for name, layer in LAYERS.items()}
every_curve = pytest.mark.parametrize("name", CURVES)
# Of all pieces there are.
one_curve = tiers.parametrize("name", ["gelu", *[name for name in CURVES if name != "gelu"]])


@pytest.fixture(autouse=True)
def _double_precision():
    with backend.double_precision():
        yield


def _tensor(values):
    return ops.convert_to_tensor(np.asarray(values, "float64"))


def _values(curve, points):
    return np.asarray(curve.function(_tensor(points)), "float64")


def _intervals(curve, count=140):
    """Ends of narrow and wide intervals, of some at knots, and of single points."""
    middle, width = RNG.normal(size=count, scale=3.0), 10.0 ** RNG.uniform(-6.0, 1.2, size=count)
    lower, upper = middle - width / 2, middle + width / 2
    for i, knot in enumerate(curve.knots):
        lower[i::7], upper[i + 2 :: 7] = np.minimum(knot, upper[i::7]), knot
        lower[i + 2 :: 7] = np.minimum(lower[i + 2 :: 7], knot)
    lower[5::7] = upper[5::7]
    return lower, upper


def _grid(curve, lower, upper, count=401):
    """Points of each interval on the first axis, among them the knots."""
    shares = np.linspace(0.0, 1.0, count).reshape(-1, 1)
    knots = [np.clip(np.full_like(lower, knot), lower, upper) for knot in curve.knots]
    return np.concatenate([lower + shares * (upper - lower), *[knot[None] for knot in knots]])


def _assert_nearest_lines(curve, lines, lower, upper):
    points = _grid(curve, lower, upper)
    values = _values(curve, points)
    below, low, above, high = (np.asarray(part) for part in lines)
    slopes = np.maximum(np.abs(below), np.abs(above))
    size = np.max(np.abs(values), axis=0) + slopes * np.max(np.abs(points), axis=0)
    rounding = 1e-14 * (1.0 + size)
    for gap in (above * points + high - values, values - below * points - low):
        assert np.all(gap >= -rounding)
        # Between two points of the grid a curve hardly bends.
        assert np.all(np.min(gap, axis=0) <= rounding + 1e-3 * np.ptp(gap, axis=0))


@every_curve
def test_lines_are_on_their_side_and_touch_the_function(name):
    curve = CURVES[name]
    lower, upper = _intervals(curve)
    ends = _tensor(lower), _tensor(upper)
    _assert_nearest_lines(curve, curve.lines(*ends), lower, upper)


@one_curve
def test_lines_of_any_slope_are_on_their_side_and_touch_the_function(name):
    curve = CURVES[name]
    lower, upper = _intervals(curve)
    below, above = RNG.normal(size=(2, len(lower)), scale=2.0)
    ends = _tensor(lower), _tensor(upper)
    lines = curve.lines_with(_tensor(below), _tensor(above), *ends)
    np.testing.assert_array_equal(np.asarray(lines.lower_slope), below)
    np.testing.assert_array_equal(np.asarray(lines.upper_slope), above)
    _assert_nearest_lines(curve, lines, lower, upper)


def test_lines_are_on_their_side_wherever_the_bisection_ends(monkeypatch):
    monkeypatch.setattr(curves, "_NUM_BISECTIONS", 3)
    curve = CURVES["gelu"]
    lower, upper = _intervals(curve)
    low, high = map(np.asarray, curve.range_on(_tensor(lower), _tensor(upper)))
    values = _values(curve, _grid(curve, lower, upper))
    assert np.all(values >= low - 1e-14) and np.all(values <= high + 1e-14)
    assert np.max(np.min(values - low, axis=0)) > 1e-3


@every_curve
def test_the_range_is_that_of_the_values(name):
    curve = CURVES[name]
    lower, upper = _intervals(curve)
    low, high = map(np.asarray, curve.range_on(_tensor(lower), _tensor(upper)))
    values = _values(curve, _grid(curve, lower, upper))
    slack = 1e-14 * (1.0 + np.max(np.abs(values), axis=0))
    near = 1e-3 * np.ptp(values, axis=0) + slack
    for gap in (np.min(values, axis=0) - low, high - np.max(values, axis=0)):
        assert np.all(gap >= -slack) and np.all(gap <= near)


@every_curve
def test_pieces_bend_as_they_say(name):
    curve, step = CURVES[name], 0.01
    ends = (-12.0, *curve.knots, 12.0)
    for start, end, piece in zip(ends[:-1], ends[1:], curve.pieces, strict=True):
        points = np.linspace(start + step, end - step, 400)
        before, at, after = (_values(curve, points + move) for move in (-step, 0.0, step))
        bends = before - 2.0 * at + after
        rounding = 1e-14 * (1.0 + np.abs(at))
        sign = {"convex": 1.0, "concave": -1.0, "linear": 0.0}[piece]
        if sign:
            assert np.all(sign * bends >= -rounding) and np.max(sign * bends) > 1e-6
        else:
            assert np.all(np.abs(bends) <= rounding)


@pytest.mark.parametrize("name", [function.__name__ for function in curves._CURVES])
def test_curves_are_the_activations_of_keras(name):
    points = np.linspace(-8.0, 8.0, 101)
    expected = getattr(keras.activations, name)(ops.convert_to_tensor(points, "float32"))
    np.testing.assert_allclose(_values(CURVES[name], points), expected, rtol=1e-5, atol=1e-6)


@every_curve
def test_curves_are_computed_in_double_precision(name):
    points = RNG.normal(size=100)
    found = np.asarray(CURVES[name].function(_tensor(points)))
    assert found.dtype == "float64"
    # Rounded to float32, nearly all of them would be among its numbers.
    assert np.mean(found == found.astype("float32")) < 0.7


def test_relu_has_the_lines_of_the_paper():
    lower = np.array([-1.0, -3.0, -2.0, -2.0, 0.5, -1.0, 0.0, -2.0])
    upper = np.array([3.0, 1.0, 2.0, 2.5, 2.0, -0.5, 1.0, 0.0])
    chord = np.array([0.75, 0.25, 0.5, 2.5 / 4.5, 1.0, 0.0, 1.0, 0.0])
    expected = (
        np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]),
        np.zeros(8),
        chord,
        np.where(chord < 1.0, -chord * lower, 0.0),
    )
    found = curves.RELU.lines(_tensor(lower), _tensor(upper))
    for part, one in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, one, rtol=1e-14, atol=1e-15)


@one_curve
def test_no_slope_has_a_much_smaller_area(name):
    curve = CURVES[name]
    lower = RNG.uniform(-6.0, 3.0, size=60)
    upper = lower + RNG.uniform(0.3, 8.0, size=60)
    points = _grid(curve, lower, upper)
    values = _values(curve, points)
    middle, mean = (lower + upper) / 2, np.mean(values[:401], axis=0)
    least, most = map(np.asarray, curve.slope_range(_tensor(lower), _tensor(upper)))
    lines = curve.lines(_tensor(lower), _tensor(upper))
    for sign, slope, offset in ((-1.0, *lines[:2]), (1.0, *lines[2:])):
        area = sign * (np.asarray(slope) * middle + np.asarray(offset) - mean)
        best = np.full(60, np.inf)
        for share in np.linspace(0.0, 1.0, 201):
            tried = least + share * (most - least)
            highest = np.max(sign * (values - tried * points), axis=0)
            best = np.minimum(best, highest + sign * (tried * middle - mean))
        assert np.all(area <= 1.05 * best + 2e-3 * np.ptp(values, axis=0))


def test_lines_are_linear_pieces_that_hold_the_interval():
    capped = CURVES["relu6"]
    lower = _tensor([-2.0, -2.0, 0.0, 1.0, 5.0, 6.0, 7.0, 3.0, -1.0])
    upper = _tensor([-1.0, 0.0, 6.0, 2.0, 6.5, 6.5, 9.0, 3.0, 7.0])
    expected = [True, True, True, True, False, True, True, True, False]
    np.testing.assert_array_equal(capped.is_line_on(lower, upper), expected)
    round_left = CURVES["elu"].is_line_on(_tensor([-1.0, 0.0, -1.0]), _tensor([-0.5, 1.0, -1.0]))
    np.testing.assert_array_equal(round_left, [False, True, True])


def test_bent_is_what_has_points_beyond_its_chord():
    lower, upper = _tensor([-1.0, 1.0, -3.0, 2.0]), _tensor([2.0, 3.0, -1.0, 2.0])
    for name, above, below in (
        ("relu", [False] * 4, [True, False, False, False]),
        ("exponential", [False] * 4, [True, True, True, False]),
        ("tanh", [True, True, False, False], [True, False, True, False]),
    ):
        np.testing.assert_array_equal(CURVES[name].is_bent(lower, upper, 1.0), above)
        np.testing.assert_array_equal(CURVES[name].is_bent(lower, upper, -1.0), below)


@pytest.mark.parametrize(
    ("name", "lower", "upper", "expected"),
    [
        ("relu", -1.0, 2.0, (0.0, 1.0)),
        ("relu", 1.0, 3.0, (1.0, 1.0)),
        ("relu", -3.0, -1.0, (0.0, 0.0)),
        ("relu6", -1.0, 2.0, (0.0, 1.0)),
        ("capped", -20.0, 1.0, (0.3, 1.0)),
        ("steep", -1.0, 1.0, (1.0, 1.7)),
        ("softsign", 1.0, 1.0 + 17e-6, (0.25, 0.25)),
    ],
)
def test_the_slopes_between_points_of_an_interval(name, lower, upper, expected):
    found = CURVES[name].slope_range(_tensor([lower]), _tensor([upper]))
    np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-4)


def test_every_activation_that_intervals_know_has_a_curve():
    layer = layers.Activation("relu")
    assert len(_INCREASING) >= 15
    for name, function in _INCREASING.items():
        curve = curve_of_activation(layer, function)
        assert (curve is None) == (name == "linear")
    assert curve_of_activation(layer, None) is None


def test_other_activations_are_refused_even_under_a_known_name():
    def relu(x):
        return -x

    layer = layers.Activation("relu", name="last")
    for function in (keras.activations.mish, relu):
        message = f"No linear bound.*gelu.*Received: {function.__name__} in layer 'last'"
        with pytest.raises(ValueError, match=message):
            curve_of_activation(layer, function)


def test_a_relu_that_jumps_is_refused():
    with pytest.raises(ValueError, match="threshold, where the function jumps.*'last' of class Re"):
        curve_of_layer(layers.ReLU(threshold=1.0, name="last"))


def test_a_curve_is_a_line_unless_told():
    line = Curve(lambda x: 2.0 * x + 1.0)
    assert line.is_piecewise_linear and not CURVES["elu"].is_piecewise_linear
    found = line.lines(_tensor([-1.0]), _tensor([3.0]))
    np.testing.assert_allclose(np.ravel(found), [2.0, 1.0, 2.0, 1.0])
