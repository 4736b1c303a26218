import time

import keras
import numpy as np
import pytest
from keras import layers

from keras_robust import backend
from keras_robust.certification.linear_bounds import LinearBounds
from keras_robust.certification.relu_program import ReluProgram
from tests.certification import optimized_lines_test as exact
from tests.support.bounded import randomise

RNG = np.random.default_rng(0)
LIMIT = 60.0


@pytest.fixture(autouse=True)
def _double_precision():
    with backend.double_precision():
        yield


def program(model):
    return ReluProgram(LinearBounds(model, model.input_shape[1:], "Linf", 64))


def box_of(x, radius):
    return x - radius, x + radius


def wide(model):
    """Returns intervals of all ReLUs that contain both signs, wherever the inputs are."""
    count = sum(layer.units for layer in model.layers if layer.activation is not None)
    count -= model.layers[-1].units
    return np.full(count, -30.0), np.full(count, 30.0)


def ends_of(model, x, radius):
    """Returns the exact intervals of the inputs of the first ReLUs, and wide ones of the others."""
    kernel, bias = (part.astype("float64") for part in model.layers[0].get_weights())
    centre, reach = x @ kernel + bias, radius * np.sum(np.abs(kernel), axis=0)
    lower, upper = wide(model)
    lower[: len(centre)], upper[: len(centre)] = centre - reach, centre + reach
    return lower, upper


@pytest.mark.parametrize("units", [(5, 3), (3, 4, 3)])
@pytest.mark.parametrize("radius", [0.1, 0.8])
def test_the_largest_margin_is_that_of_enumeration(units, radius):
    model = exact.dense(*units, inputs=3)
    solver, weights = program(model), exact.weights_of(model)
    for x in RNG.normal(size=(2, 3)):
        # All margins of class 0: the enumeration takes their maximum.
        found = []
        for other in (1, 2):
            slopes = np.eye(3)[other] - np.eye(3)[0]
            bound, point = solver.largest(
                slopes, ends_of(model, x, radius), box_of(x, radius), LIMIT
            )
            logits = np.asarray(model(point[None].astype("float32")))[0]
            np.testing.assert_allclose(logits @ slopes, bound, rtol=1e-4, atol=1e-3)
            assert np.max(np.abs(point - x)) <= radius + 1e-9
            found.append(bound)
        expected = exact._exact(weights, *box_of(x, radius), 0)
        np.testing.assert_allclose(max(found), expected, rtol=1e-4, atol=1e-3)
        assert max(found) >= expected


def test_an_end_of_zero_restricts_the_signs():
    model = exact.dense(2, 2, inputs=2)
    model.set_weights([np.eye(2), np.zeros(2), np.eye(2), np.array([0.0, 0.5])])
    solver, box = program(model), (np.array([-1.0, -1.0]), np.array([1.0, 2.0]))

    def largest(slopes, lower, upper, **arguments):
        ends = np.array(lower), np.array(upper)
        return solver.largest(np.array(slopes), ends, box, LIMIT, **arguments)

    # The logits are relu(x0) and relu(x1) + 1/2.
    assert largest([1.0, 2.0], [-1.0, -1.0], [1.0, 2.0])[0] == pytest.approx(6.0, abs=1e-4)
    bound, point = largest([1.0, 2.0], [-1.0, -1.0], [0.0, 2.0])
    assert bound == pytest.approx(5.0, abs=1e-4) and point[0] <= 1e-9
    bound, point = largest([-1.0, -2.0], [0.0, -1.0], [1.0, 2.0])
    assert bound == pytest.approx(-1.0, abs=1e-4) and point[0] >= -1e-9
    # No x0 has this sign in the box.
    box = (np.array([0.5, -1.0]), np.array([1.0, 2.0]))
    impossible = [1.0, 2.0], [-1.0, -1.0], [0.0, 2.0]
    assert largest(*impossible, may_be_empty=True) == (-np.inf, None)
    # Elsewhere a program without a solution is a numerical failure, which proves nothing.
    assert largest(*impossible) == (np.inf, None)


def test_intervals_become_exact_and_stay_bounds():
    model = exact.dense(4, 6, 2, inputs=3)
    solver, x, radius = program(model), RNG.normal(size=3), 0.7
    ends = ends_of(model, x, radius)
    lower, upper = solver.tightened(ends, box_of(x, radius), np.zeros(10), time.monotonic() + LIMIT)
    np.testing.assert_array_equal([lower[:4], upper[:4]], [ends[0][:4], ends[1][:4]])
    assert ends[1][4] == 30.0
    points = x + radius * np.clip(RNG.normal(size=(20000, 3), scale=2.0), -1, 1)
    kernel, bias = exact.weights_of(model)[1]
    values = np.asarray(model.layers[0](points.astype("float32"))) @ kernel + bias
    assert np.all(values.min(axis=0) >= lower[4:] - 1e-5)
    assert np.all(values.max(axis=0) <= upper[4:] + 1e-5)
    # Where an interval still has both signs, each end is nearly reached; the gap is 2%.
    both = (lower[4:] < 0.0) & (upper[4:] > 0.0)
    assert both.sum() >= 2
    reach = (upper - lower)[4:][both]
    assert np.all(values.max(axis=0)[both] >= upper[4:][both] - 0.1 * reach)
    assert np.all(values.min(axis=0)[both] <= lower[4:][both] + 0.1 * reach)


def test_units_with_higher_scores_come_first_until_the_time_is_over(monkeypatch):
    model = exact.dense(4, 6, 2, inputs=3)
    solver, x, radius = program(model), RNG.normal(size=3), 0.7
    ends, scores = ends_of(model, x, radius), np.array([9.0] * 4 + [1.0, 5.0, 3.0, 6.0, 2.0, 4.0])
    seen = []

    def noted(unit, *_):
        seen.append(unit)

    monkeypatch.setattr(solver, "_tighten", noted)
    solver.tightened(ends, box_of(x, radius), scores, time.monotonic() + LIMIT)
    assert seen == [7, 5, 9, 6, 8, 4]
    monkeypatch.undo()
    late = solver.tightened(ends, box_of(x, radius), scores, time.monotonic() - 1.0)
    np.testing.assert_array_equal(late, ends)


def test_merges_and_convolutions_have_their_exact_values():
    inputs = keras.Input((4, 4, 1))
    hidden = layers.Conv2D(2, 2, activation="relu")(inputs)
    hidden = layers.Add()([hidden, layers.Conv2D(2, 2)(inputs), layers.ReLU()(hidden)])
    model = randomise(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(hidden))))
    x, slopes = RNG.uniform(size=(4, 4, 1)), np.array([1.0, -1.0, 0.0])
    solver = program(model)
    count = len(solver._offsets)
    ends = np.full(count, -20.0), np.full(count, 20.0)
    # In a box of one point, the bound is the value there.
    bound, _ = solver.largest(slopes, ends, (x, x), LIMIT)
    expected = np.asarray(model(x[None].astype("float32")))[0] @ slopes
    np.testing.assert_allclose(bound, expected, rtol=1e-4, atol=1e-3)
    bound, point = solver.largest(slopes, ends, box_of(x, 0.1), LIMIT)
    points = x + 0.1 * np.sign(RNG.normal(size=(5000, *x.shape)))
    assert bound >= np.max(np.asarray(model(points.astype("float32"))) @ slopes) - 1e-5
    reached = np.asarray(model(point[None].astype("float32")))[0] @ slopes
    np.testing.assert_allclose(reached, bound, rtol=1e-3, atol=1e-3)


def test_models_without_relus_are_linear_programs():
    model = randomise(keras.Sequential([keras.Input((2,)), layers.Dense(2)]))
    kernel, bias = exact.weights_of(model)[0]
    slopes, x = np.array([2.0, -1.0]), np.array([0.3, -0.2])
    ends = np.zeros(0), np.zeros(0)
    bound, point = program(model).largest(slopes, ends, box_of(x, 0.5), LIMIT)
    gradient = kernel @ slopes
    expected = x @ gradient + bias @ slopes + 0.5 * np.sum(np.abs(gradient))
    np.testing.assert_allclose(bound, expected, rtol=1e-5)
    np.testing.assert_allclose(point, x + 0.5 * np.sign(gradient), rtol=1e-6)


@pytest.mark.parametrize("radius", [1e-9, 0.8])
def test_without_time_there_is_no_bound(radius):
    model, x = exact.dense(5, 3, inputs=3), RNG.normal(size=3)
    ends, box = ends_of(model, x, radius), box_of(x, radius)
    slopes = np.array([1.0, -1.0, 0.0])
    bound, _ = program(model).largest(slopes, ends, box, 0.0)
    assert bound >= program(model).largest(slopes, ends, box, LIMIT)[0]


@pytest.mark.parametrize("first", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("last", [1e-8, 1.0, 1e8])
def test_the_scales_of_layers_change_nothing(first, last):
    model, x, radius = exact.dense(5, 4, 2, inputs=3), np.array([0.3, -0.2, 0.5]), 0.5
    slopes, box = np.array([1.0, -1.0]), box_of(np.array([0.3, -0.2, 0.5]), radius)
    expected, point = program(model).largest(slopes, ends_of(model, x, radius), box, LIMIT)
    factors, weights = (first, last / first, 1.0 / last), model.get_weights()
    for index, factor in enumerate(factors):
        weights[2 * index] = weights[2 * index] * factor
        # A bias follows the layers before it.
        weights[2 * index + 1] = weights[2 * index + 1] * np.prod(factors[: index + 1])
    model.set_weights(weights)
    lower, upper = ends_of(model, x, radius)
    lower[5:], upper[5:] = -30.0 * last, 30.0 * last
    found, _ = program(model).largest(slopes, (lower, upper), box, LIMIT)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    reached = np.asarray(model(point[None].astype("float32")))[0] @ slopes
    assert found >= reached - 1e-6
