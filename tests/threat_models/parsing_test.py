import keras
import numpy as np
import pytest

from keras_robust.threat_models.parsing import parse_bounds
from keras_robust.threat_models.parsing import parse_epsilon
from tests.support import refusals

SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)


@pytest.mark.parametrize(
    ("given", "expected"), [(0.5, 0.5), (2, 2.0), ("8/255", 8 / 255), (" 1 / 4 ", 0.25), ("3", 3.0)]
)
def test_numbers_and_fractions(given, expected):
    assert parse_epsilon(given) == pytest.approx(expected)
    assert isinstance(parse_epsilon(given), float)


def test_arrays_and_schedules():
    assert parse_epsilon([0.1, 0.2]).dtype == "float32"
    assert parse_epsilon(SCHEDULE) is SCHEDULE


@pytest.mark.parametrize("given", ["", "1/0", "x", None, {}, [-0.1], float("nan"), float("inf")])
def test_bad_epsilons_are_explained(given):
    message = "`epsilon` must be .*Received: epsilon="
    refusals.assert_argument_refused(parse_epsilon, message, epsilon=given)


def test_bounds():
    assert parse_bounds(None) is None
    assert parse_bounds((0, 1)) == (0.0, 1.0)
    low, high = parse_bounds([np.array([0, -np.inf]), 1])
    np.testing.assert_array_equal(low, np.array([0, -np.inf], "float32"))
    assert high == 1.0


@pytest.mark.parametrize("given", [(1, 0), (0, 0), 1, (0, 1, 2), ("a", "b"), ([0, 2], [1, 1])])
def test_bad_bounds_are_explained(given):
    message = "`bounds` must be a pair .*Received: bounds="
    refusals.assert_argument_refused(parse_bounds, message, bounds=given)
