import itertools

import numpy as np
import pytest

from keras_robust.attacks.minimum_norm.saliency_pairs import best_pair


def brute_force(first, second, usable):
    """Returns the best of all pairs, or `None`."""
    best, pair = 0.0, None
    for p, q in itertools.combinations(np.flatnonzero(usable), 2):
        one, other = first[p] + first[q], second[p] + second[q]
        if one > 0 and other > 0 and one * other > best:
            best, pair = one * other, {p, q}
    return pair


@pytest.mark.parametrize("size", [2, 3, 8, 9])
def test_the_best_pair_of_all(size):
    rng = np.random.default_rng(size)
    first, second = rng.normal(size=(2, 40, size)).astype("float32")
    usable = rng.uniform(size=(40, size)) < 0.8
    pairs, exists = best_pair(first, second, usable, np.full(40, 2.0, "float32"))
    expected = [brute_force(*rows) for rows in zip(first, second, usable, strict=True)]
    assert None in expected and any(expected)
    np.testing.assert_array_equal(exists, [pair is not None for pair in expected])
    assert [set(np.flatnonzero(row)) or None for row in np.asarray(pairs)] == expected


def test_a_pair_is_found_if_neither_feature_qualifies_alone():
    # Neither feature alone meets both conditions, but together they do.
    first, second = np.array([[3.0, -1.0, 0.5]]), np.array([[-1.0, 3.0, -0.4]])
    pair, exists = best_pair(first, second, np.ones((1, 3), bool), np.array([5.0]))
    np.testing.assert_array_equal(pair, [[True, True, False]])
    assert exists


def test_one_feature_left_gives_the_best_feature_and_none_left_gives_none():
    first, second = np.array([[3.0, 1.0, 2.0]] * 2), np.array([[1.0, 2.0, 2.0]] * 2)
    chosen, exists = best_pair(first, second, np.ones((2, 3), bool), np.array([1.0, 0.0]))
    np.testing.assert_array_equal(chosen, [[False, False, True], [False, False, False]])
    np.testing.assert_array_equal(exists, [True, False])


def test_small_slopes_do_not_underflow():
    slopes = np.array([[1e-25, 3e-25, 2e-25]], "float32")
    pair, _ = best_pair(slopes, slopes, np.ones((1, 3), bool), np.array([2.0], "float32"))
    np.testing.assert_array_equal(pair, [[False, True, True]])
