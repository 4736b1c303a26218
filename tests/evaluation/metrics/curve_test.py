import numpy as np
import pytest

from keras_robust.evaluation import median_distance
from keras_robust.evaluation import robustness_curve
from tests.support import refusals

DISTANCES = np.array([0.3, 0.0, np.inf, 0.1, 0.3, 0.2, 0.0])


def test_few_examples_give_every_step():
    curve = robustness_curve(DISTANCES)
    assert curve["epsilons"] == [0.0, 0.1, 0.2, 0.3]
    assert curve["robust_accuracy"] == [5 / 7, 4 / 7, 3 / 7, 1 / 7]


@pytest.mark.parametrize("num_points", [2, 7, 50, 10_000])
@pytest.mark.parametrize("epsilon", [None, 0.25, 7.0])
def test_every_value_is_exact(num_points, epsilon):
    distances = np.random.default_rng(0).exponential(size=300)
    distances[:9], distances[9:20] = 0.0, np.inf
    curve = robustness_curve(distances, num_points=num_points, epsilon=epsilon)
    epsilons = np.array(curve["epsilons"])
    expected = (distances > epsilons[:, None]).mean(axis=1)
    np.testing.assert_array_equal(curve["robust_accuracy"], expected)
    assert epsilons[0] == 0.0
    largest = distances[np.isfinite(distances)].max()
    assert epsilons[-1] == max(largest, epsilon or 0.0)
    assert largest in epsilons
    assert (np.diff(epsilons) > 0).all()
    assert len(epsilons) <= min(num_points, 281) + (epsilon is not None)
    assert epsilon is None or epsilon in epsilons


def test_steps_are_thinned_out_evenly_by_rank():
    # Most distances are small: evenly spaced radii would show only two points of the fall.
    distances = np.concatenate([np.linspace(0.01, 0.02, 1000), [1.0]])
    accuracy = np.array(robustness_curve(distances, num_points=51)["robust_accuracy"])
    assert np.abs(np.diff(accuracy)).max() < 0.022


@pytest.mark.parametrize("epsilon,epsilons", [(None, [0.0]), (0.5, [0.0, 0.5])])
def test_no_adversarial_examples_at_all(epsilon, epsilons):
    curve = robustness_curve(np.full(3, np.inf), epsilon=epsilon)
    assert curve == {"epsilons": epsilons, "robust_accuracy": [1.0] * len(epsilons)}


def test_only_mistakes():
    assert robustness_curve(np.zeros(3)) == {"epsilons": [0.0], "robust_accuracy": [0.0]}


def test_values_are_plain():
    curve = robustness_curve(DISTANCES.astype("float32"), epsilon=np.float32(0.5))
    assert {type(value) for values in curve.values() for value in values} == {float}


@pytest.mark.parametrize(
    "distances,expected",
    [
        ([0.0, 0.5, np.inf], 0.5),
        ([0.5, 0.25], 0.375),
        ([0.5, np.inf], None),
        ([np.inf, 0.5, np.inf], None),
        ([0.0], 0.0),
    ],
)
def test_median(distances, expected):
    assert median_distance(np.array(distances)) == expected


@pytest.mark.parametrize("function", [robustness_curve, median_distance])
@pytest.mark.parametrize("distances", [[], [-0.1, 0.2], [np.nan, 0.2], [[0.1], [0.2]], 0.3])
def test_wrong_distances(function, distances):
    message = "one distance per example.*Received: distances="
    refusals.assert_argument_refused(function, message, distances=np.array(distances))


def test_too_few_points():
    with refusals.assert_refused("`num_points` must be at least 2. Received: num_points=1"):
        robustness_curve(DISTANCES, num_points=1)
