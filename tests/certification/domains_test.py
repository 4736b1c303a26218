import numpy as np

from keras_robust.certification import domains

LOWER, UPPER = np.array([-1.0, -3.0, 0.5]), np.array([2.0, 1.0, 4.0])


def test_the_two_parts_of_a_domain_share_it_at_the_sign_of_its_unit():
    (root,) = domains.roots([7], (LOWER, UPPER))
    assert root.margin == 7 and root.slopes is None
    above, below = domains.split(root._replace(unit=1))
    np.testing.assert_array_equal(above.splits, [0, 1, 0])
    np.testing.assert_array_equal(below.splits, [0, -1, 0])
    np.testing.assert_array_equal([above.lower, above.upper], [[-1.0, 0.0, 0.5], UPPER])
    np.testing.assert_array_equal([below.lower, below.upper], [LOWER, [2.0, 0.0, 4.0]])
    # The domain itself is left alone.
    np.testing.assert_array_equal([root.lower, root.upper], [LOWER, UPPER])


def test_the_unit_to_split_is_open_and_has_the_highest_score():
    (root,) = domains.roots([0], (LOWER, UPPER))
    # The third unit has a known sign.
    assert domains.unit_to_split(root, np.array([1.0, 2.0, 9.0])) == 1
    assert domains.unit_to_split(root, np.array([3.0, 2.0, 9.0])) == 0
    known = root._replace(lower=np.zeros(3))
    assert domains.unit_to_split(known, np.ones(3)) is None


def test_ends_that_cross_by_rounding_are_not_empty():
    (root,) = domains.roots([0], (LOWER, UPPER))
    assert not domains.is_empty(root)
    crossed = np.array([2.0 + 1e-9, -3.0, 0.5])
    # The slack is 1e-9 * (1 + 2 + 2).
    assert not domains.is_empty(root._replace(lower=crossed))
    assert domains.is_empty(root._replace(lower=crossed + 1e-8))


def test_fields_are_stacked_in_the_order_of_the_domains():
    pair = domains.roots([0, 1], (LOWER, UPPER))
    pair[1] = pair[1]._replace(splits=np.array([1, 0, -1], "int8"))
    splits, lower = domains.stacked(pair, "splits", "lower")
    np.testing.assert_array_equal(splits, [[0, 0, 0], [1, 0, -1]])
    np.testing.assert_array_equal(lower, [LOWER, LOWER])
    assert splits.dtype == "float64"
