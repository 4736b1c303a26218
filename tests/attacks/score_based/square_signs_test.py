import numpy as np

import keras_robust as kr
from keras_robust.attacks.score_based.square_signs import SignMoves
from keras_robust.backend import counter_rng

SHAPE = (6, 5, 2)
X = np.random.default_rng(0).uniform(size=(3, *SHAPE)).astype("float32")
BALL = kr.Linf(0.2)


def moves(p_init=0.3):
    seeds = np.array([[1, 2], [3, 4], [5, 6]], "int32")
    return SignMoves(X, BALL, counter_rng.make_keys(seeds, 3), SHAPE, p_init)


def corners():
    return np.clip(X - 0.2, 0.0, 1.0), np.clip(X + 0.2, 0.0, 1.0)


def test_starts_with_stripes_of_one_sign_per_column_and_channel():
    low, high = corners()
    start = np.asarray(moves().start())
    is_high = np.isclose(start, high, atol=1e-6)
    assert np.all(is_high | np.isclose(start, low, atol=1e-6))
    np.testing.assert_array_equal(is_high, np.broadcast_to(is_high[:, :1], is_high.shape))
    assert 0.2 < is_high[:, 0].mean() < 0.8
    assert not np.array_equal(is_high[0], is_high[1])


def test_a_proposal_changes_one_square_to_a_corner_with_one_sign_per_channel():
    low, high = corners()
    proposed = np.asarray(moves().propose(X, 7, 0))
    for image, before, lowest, highest in zip(proposed, X, low, high, strict=True):
        rows, columns = np.where((image != before).any(axis=-1))
        # The side is round(sqrt(0.3 * 30)) = 3 pixels.
        assert (np.ptp(rows), np.ptp(columns), len(rows)) == (2, 2, 9)
        window = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        for channel in range(2):
            values = image[window][..., channel]
            is_high = np.allclose(values, highest[window][..., channel], atol=1e-6)
            assert is_high or np.allclose(values, lowest[window][..., channel], atol=1e-6)


def test_every_query_draws_new_numbers():
    one, other = (np.asarray(moves().propose(X, query, 0)) for query in (7, 8))
    assert np.all((one != other).any(axis=(1, 2, 3)))
