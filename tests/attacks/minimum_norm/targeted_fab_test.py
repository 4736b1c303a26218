import numpy as np
import pytest

import keras_robust as kr
from tests.support import refusals
from tests.support import tiers


def three_classes(x):
    """Returns logits; class 1 is the most likely wrong class, but only class 2 is in the box."""
    kernel = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 8.0]], "float32")
    return x @ kernel + np.array([[0.0, -1.0, -2.0]], "float32")


@pytest.mark.exhaustive
@tiers.parametrize(("num_targets", "expected"), [(1, 0.9), (2, 0.15)])
def test_targets_are_taken_in_the_order_of_the_clean_logits(num_targets, expected):
    x, y = np.array([[0.1, 0.1]], "float32"), np.array([0])
    ball = kr.Linf(1.0, bounds=(0.0, 2.0)).with_epsilon(np.inf)
    attack = kr.attacks.TargetedFAB(num_targets=num_targets, num_steps=20)
    found = attack.run(lambda x: three_classes(x), x, y, ball)
    # A point on the way to class 1 would be of class 2 if all coordinates moved, but only one does.
    assert found.success[0] and -found.loss[0] == pytest.approx(expected, rel=0.06)


@pytest.mark.usefixtures("search_alone")
@pytest.mark.exhaustive
def test_searches_are_counted():
    x, y = np.array([[0.1, 0.1]], "float32"), np.array([0])
    attack = kr.attacks.TargetedFAB(num_targets=2, num_steps=5)
    found = attack.run(lambda x: three_classes(x), x, y, kr.Linf(0.01))
    # Per search: the clean logits, three passes per step, and three queries to judge the result.
    np.testing.assert_array_equal(found.queries, [2 * (1 + 3 * 5 + 3)])


def test_wrong_arguments_are_named():
    refusals.assert_argument_refused(
        kr.attacks.TargetedFAB, "`num_targets` must be an int >= 1. Received: 0", num_targets=0
    )
