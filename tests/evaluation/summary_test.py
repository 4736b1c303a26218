import numpy as np
import pytest
import scipy.stats

import keras_robust as kr
from tests.support.told import BALL
from tests.support.told import FALLS
from tests.support.told import Fixed
from tests.support.told import FixedNearest
from tests.support.told import X
from tests.support.told import Y
from tests.support.told import model


def _evaluate(attacks, **arguments):
    return kr.evaluate(model, (X, Y), BALL, attacks, **{"minimum_norm": None, **arguments})


@pytest.mark.parametrize("robust", range(5))
def test_confidence_is_the_clopper_pearson_interval(robust):
    moves = 0.3 * FALLS
    moves[:robust] = 0.0
    x = X.copy()
    x[[0, 3], 0] = 0.7, 0.3
    attack = Fixed(moves, x=x)
    report = kr.evaluate(model, (x, Y), BALL, attack, minimum_norm=None)
    assert report.robust_accuracy == pytest.approx(robust / 5)
    low = scipy.stats.beta.ppf(0.025, robust, 6 - robust) if robust else 0.0
    high = scipy.stats.beta.ppf(0.975, robust + 1, 5 - robust)
    assert report.confidence == pytest.approx((low, high), abs=1e-9)


def test_the_interval_of_a_perfect_model_ends_at_one():
    report = _evaluate(Fixed([0.0] * 5), num_examples=4)
    assert report.confidence == pytest.approx((0.025 ** (1 / 4), 1.0))


@pytest.mark.usefixtures("search_alone")
def test_the_curve_shows_the_nearest_mistakes():
    # Only the search breaks the second example, and it finds a nearer mistake for the third.
    attack = Fixed([0.0, 0.0, -0.3, 0.0, 0.0])
    search = FixedNearest([-0.5, -0.25, -0.26, 0.0, 0.0])
    report = _evaluate(attack, minimum_norm=search)
    np.testing.assert_allclose(report.distances, [0.5, 0.25, 0.26, np.inf, 0.0], rtol=1e-5)
    # A mistake in the ball that the search finds lowers robust accuracy.
    assert report.robust_accuracy == 0.4
    assert [attack.accuracy_so_far for attack in report.attacks] == pytest.approx([0.6, 0.4])
    np.testing.assert_array_equal(report.attacks[1].robust, [1, 0, 0, 1, 0])
    assert report.curve["attack"] == "FixedNearest (any radius)"
    at_epsilon = report.curve["epsilons"].index(report.threat_model["epsilon"])
    assert report.curve["robust_accuracy"][at_epsilon] == report.robust_accuracy
    np.testing.assert_allclose(report.curve["epsilons"], [0.0, 0.25, 0.26, 0.3, 0.5], rtol=1e-5)
    assert report.curve["robust_accuracy"] == [0.8, 0.6, 0.4, 0.4, 0.2]
    assert report.median_distance == pytest.approx(0.26)
    assert report.warnings == []
    unlucky = _evaluate(attack, minimum_norm=FixedNearest([0.0] * 5))
    assert unlucky.median_distance is None and unlucky.curve["robust_accuracy"] == [0.8, 0.6]


def test_accuracy_per_class_and_confusion():
    report = _evaluate(Fixed([0.0, -0.3, -0.3, 0.0, 0.0]))
    assert report.confusion == [[1, 1], [2, 1]]
    assert report.per_class == [
        {"class": 0, "num_examples": 2, "clean_accuracy": 0.5, "robust_accuracy": 0.5},
        {"class": 1, "num_examples": 3, "clean_accuracy": 1.0, "robust_accuracy": 1 / 3},
    ]
