import itertools

import numpy as np
import pytest
import scipy.optimize
from keras import layers
from keras import ops

from keras_robust import backend
from keras_robust.certification import curves
from keras_robust.certification import optimized_lines
from keras_robust.certification.linear_bounds import LinearBounds
from keras_robust.certification.optimized_lines import optimized_bound
from tests.certification import backward_bounds_test as bounds
from tests.support import tiers
from tests.support.bounded import sequential

RNG = np.random.default_rng(0)
not_compiled = bounds.not_compiled


@pytest.fixture(autouse=True)
def _double_precision():
    with backend.double_precision():
        yield


def dense(*units, inputs=6):
    """A network of Dense layers with ReLU between."""
    hidden = [layers.Dense(count, activation="relu") for count in units[:-1]]
    return sequential(*hidden, layers.Dense(units[-1]), shape=(inputs,))


def weights_of(model):
    weights = [layer.get_weights() for layer in model.layers if layer.weights]
    return [[part.astype("float64") for part in pair] for pair in weights]


def _exact(weights, low, high, y):
    """Returns the largest margin in a box, from a linear program for each pattern of signs."""
    best, sizes = -np.inf, [len(bias) for _, bias in weights[:-1]]
    last_kernel, last_bias = weights[-1]
    box = list(zip(low, high, strict=True))
    for pattern in itertools.product((0.0, 1.0), repeat=sum(sizes)):
        kernel, offset, rows, limits = np.eye(len(low)), np.zeros(len(low)), [], []
        for number, active in enumerate(np.split(np.array(pattern), np.cumsum(sizes)[:-1])):
            kernel, offset = kernel @ weights[number][0], offset @ weights[number][0]
            offset = offset + weights[number][1]
            rows.append((1.0 - 2.0 * active) * kernel)
            limits.append((2.0 * active - 1.0) * offset)
            kernel, offset = kernel * active, offset * active
        kernel, offset = kernel @ last_kernel, offset @ last_kernel + last_bias
        for j in np.delete(np.arange(len(offset)), y):
            gain = kernel[:, j] - kernel[:, y]
            limit = np.concatenate(limits)
            found = scipy.optimize.linprog(-gain, np.hstack(rows).T, limit, bounds=box)
            if found.status == 0:
                best = max(best, offset[j] - offset[y] - found.fun)
    return best


def exact_margins(model, x, labels, radius):
    """Returns the largest margins of wrong classes in Linf balls, of a network of few neurons."""
    weights = weights_of(model)
    rows = zip(x, labels, strict=True)
    return np.array([_exact(weights, row - radius, row + radius, y) for row, y in rows])


class _Relaxation:
    """The linear program in which a triangle replaces each ReLU, solved layer by layer."""

    def __init__(self, weights, low, high):
        self._weights, self._bounds = weights, list(zip(low, high, strict=True))
        self._starts, self._above, self._limits = [0], [], []
        for number in range(len(weights) - 1):
            self._add_layer(number)

    def largest(self, number, slopes):
        """Returns the maximum of `<slopes, z>` for the outputs `z` of a Dense layer."""
        kernel, bias = self._weights[number]
        objective = np.zeros(len(self._bounds))
        objective[self._starts[number] :][: len(kernel)] = kernel @ slopes
        rows = [np.pad(row, (0, len(objective) - len(row))) for row in self._above]
        given = {"A_ub": np.array(rows), "b_ub": self._limits} if rows else {}
        return bias @ slopes - scipy.optimize.linprog(-objective, **given, bounds=self._bounds).fun

    def _add_layer(self, number):
        kernel, bias = self._weights[number]
        own = np.eye(len(bias))
        ends = [[-self.largest(number, -row), self.largest(number, row)] for row in own]
        start = len(self._bounds)
        for i, (low, high) in enumerate(ends):
            line = np.zeros(start + len(bias))
            line[self._starts[number] :][: len(kernel)] = kernel[:, i]
            # h >= z, and h is below the chord.
            self._add(line, -1.0, start + i, -bias[i])
            slope = np.clip(high, 0.0, None) / (np.clip(high, 0.0, None) - np.clip(low, None, 0.0))
            self._add(-slope * line, 1.0, start + i, slope * (bias[i] - min(low, 0.0)))
        self._bounds += [(max(low, 0.0), max(high, 0.0)) for low, high in ends]
        self._starts.append(start)

    def _add(self, line, sign, index, limit):
        row = line.copy()
        row[index] = sign
        self._above.append(row)
        self._limits.append(limit)


def _relaxed_margins(model, x, labels, radius):
    found = []
    for row, y in zip(x, labels, strict=True):
        program = _Relaxation(weights_of(model), row - radius, row + radius)
        classes = np.eye(model.output_shape[-1])
        others = np.delete(classes, y, axis=0) - classes[y]
        found.append(max(program.largest(len(model.layers) - 1, slopes) for slopes in others))
    return np.array(found)


def _margins(model, x, labels, radius, *iterations):
    linear = LinearBounds(model, x.shape[1:], "Linf", 64)
    return linear.largest_margins(bounds.region_of(x, radius), labels, *iterations)


@tiers.parametrize("radius", [0.4, 0.15, 1.0])
def test_two_hidden_layers_come_near_the_linear_program(radius):
    model = dense(6, 5, 3, inputs=4)
    x, labels = RNG.normal(size=(3, 4)), np.array([0, 1, 2])
    expected = _relaxed_margins(model, x, labels, radius)
    crown, found = (_margins(model, x, labels, radius, *counts) for counts in ((), (25, 25)))
    assert np.all(found >= expected - 1e-9 * np.abs(expected)) and np.all(found <= crown)
    np.testing.assert_allclose(found, expected, rtol=0.05)
    assert np.mean(crown - expected) > 4.0 * np.mean(found - expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("radius", [1.0, 0.8])
def test_bounds_are_above_the_exact_maximum(radius, not_compiled):
    model = dense(3, 3, 3, inputs=2)
    x, labels = RNG.normal(size=(4, 2)), np.array([0, 1, 2, 0])
    exact = exact_margins(model, x, labels, radius)
    found, some, crown = (
        _margins(model, x, labels, radius, *counts) for counts in ((20, 20), (20, 0), ())
    )
    assert np.all(exact <= found + 1e-9)
    assert np.all(found <= some) and np.all(some <= crown)
    assert np.mean(found - exact) < 0.9 * np.mean(crown - exact)


@tiers.parametrize(
    ("name", "norm"), [("relu6", "L1"), ("tanh", "L2"), ("gelu", "Linf"), ("elu", "L1")]
)
def test_no_point_has_larger_margins(name, norm, not_compiled):
    hidden = [layers.Dense(4, activation=name) for _ in range(2)]
    model = sequential(*hidden, layers.Dense(3), shape=(3,))
    bounds.assert_sound(model, norm, RNG, num_iterations=5, inner_iterations=3)


CURVES = {function.__name__: curve for function, curve in curves._CURVES.items()}


def _optimized(name, lower, upper, at, num_iterations):
    """Returns the heights at points of the line below each interval, negated, and that above."""
    curve, at = CURVES[name], ops.convert_to_tensor(np.tile(at, 2), "float64")
    ends = (np.tile(end, 2)[:, None] for end in (lower, upper))
    is_above = ops.convert_to_tensor(np.repeat([0.0, 1.0], len(lower)), "float64")

    def bound(lines):
        below, low, above, high = (part[:, 0] for part in lines[0])
        return is_above * (above * at + high) - (1.0 - is_above) * (below * at + low)

    def optimized(lower, upper):
        lines = [curve.lines(lower, upper)]
        return optimized_bound(bound, [curve], [(lower, upper)], lines, num_iterations)

    found = np.asarray(backend.compile_function(optimized)(*map(ops.convert_to_tensor, ends)))
    return found.reshape(2, -1)


def _hull(name, lower, upper, at, sign):
    """Returns the largest height of a chord of `sign * f` at a point."""
    points = np.linspace(lower, upper, 601)
    values = sign * np.asarray(CURVES[name].function(ops.convert_to_tensor(points)))
    left, right = points <= at, points > at
    x, x_right = points[left][:, None], points[right]
    f, f_right = values[left][:, None], values[right]
    return np.max(f + (f_right - f) * (at - x) / (x_right - x))


@tiers.parametrize(
    ("name", "cases"),
    [
        ("relu", [(-1.0, 2.0, -0.5), (-2.0, 1.0, 0.8), (0.5, 1.0, 0.7)]),
        ("tanh", [(-1.0, 2.0, 1.5), (-2.0, 2.0, -1.9), (0.5, 3.0, 0.7)]),
        ("relu6", [(4.0, 9.0, 8.0), (-9.0, 1.0, 0.7), (-1.0, 8.0, 7.0)]),
        ("gelu", [(-3.0, 1.0, -1.0), (-5.0, 0.0, -4.0), (-1.0, 1.0, 0.3)]),
    ],
)
def test_each_line_comes_to_the_hull_of_the_curve(name, cases):
    ends = np.transpose(cases)
    expected = [[_hull(name, *case, sign) for case in cases] for sign in (-1.0, 1.0)]
    first, found = (_optimized(name, *ends, count) for count in (0, 80))
    assert np.all(found >= np.array(expected) - 1e-12) and np.all(found <= first)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.max(first - found) > 0.03


def _optimized_relu(bound, num_iterations):
    """Returns the optimized bound of the lines of a ReLU on [-1, 2], whose chord rises by 2/3."""
    box = tuple(ops.convert_to_tensor([[end]], "float64") for end in (-1.0, 2.0))
    lines = [curves.RELU.lines(*box)]
    return optimized_bound(
        lambda lines: bound(lines[0])[:, 0], [curves.RELU], [box], lines, num_iterations
    )


def test_the_lowest_bound_of_all_steps_counts():
    # The first slope is 1, and steps of 0.1 leave the best one behind.
    found = _optimized_relu(lambda lines: ops.abs(lines.lower_slope - 0.99), 2)
    np.testing.assert_allclose(found, [0.01], rtol=1e-9)


def test_only_the_line_on_the_side_of_the_bend_changes_and_stays_in_the_range_of_slopes():
    found = _optimized_relu(lambda lines: lines.upper_slope, 15)
    np.testing.assert_allclose(found, [2.0 / 3.0], rtol=1e-12)
    np.testing.assert_allclose(_optimized_relu(lambda lines: lines.lower_slope, 15), [0.0])


def test_steps_are_those_of_adam():
    gradients = RNG.normal(size=(6, 2, 3))
    mean = square = ops.zeros((2, 3), "float64")
    for number, gradient in enumerate(gradients):
        tensor = ops.convert_to_tensor(gradient)
        mean, square, change = optimized_lines._adam(number, tensor, mean, square)
        ages = np.arange(number, -1, -1).reshape(-1, 1, 1)
        # Averages whose weights fall by the same factor with each step back.
        first, second = (
            np.average(gradients[: number + 1] ** power, axis=0, weights=np.ravel(factor**ages))
            for power, factor in ((1, 0.9), (2, 0.999))
        )
        np.testing.assert_allclose(change, first / np.sqrt(second), rtol=1e-9)
