import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks.score_based import square_pyramids
from keras_robust.backend import counter_rng
from tests.support import square_reference


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7, 25])
def test_pyramids_are_those_of_the_authors(size, order):
    expected = square_reference.eta(size, order)
    found = square_pyramids.pyramid(size, size, 0, order)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(
        square_pyramids.pyramid(size, size, 1, order), expected.T, rtol=1e-12
    )
    assert np.linalg.norm(found.reshape(-1), ord=order) == pytest.approx(1.0)
    # Each lobe has a single sign, and both have the same norm.
    halves = found[: size // 2], found[size // 2 :]
    assert halves[0].min() > 0.0 and halves[1].max() < 0.0
    first, second = (np.linalg.norm(half.reshape(-1), ord=order) for half in halves)
    assert first == pytest.approx(second)


def test_a_small_pyramid_by_hand():
    # The upper lobe has one row, the lower lobe two; the squares of half-width 0 and 1 weigh 1 and
    # 1 / 4.
    upper = np.array([[0.25, 1.25, 0.25]])
    lower = np.array([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    lobes = [upper / np.sqrt((upper**2).sum()), -lower / np.sqrt((lower**2).sum())]
    expected = np.concatenate(lobes) / np.sqrt(2.0)
    np.testing.assert_allclose(square_pyramids.pyramid(3, 3, 0, 2), expected, rtol=1e-12)


@pytest.mark.parametrize("turned", [0, 1])
def test_a_single_row_or_column_is_split_along_its_length(turned):
    row = square_pyramids.pyramid(1, 5, turned, 2)
    assert row.shape == (1, 5) and (row[0, :2] > 0).all() and (row[0, 2:] < 0).all()
    column = square_pyramids.pyramid(5, 1, turned, 2)
    if turned == 0:
        np.testing.assert_array_equal(column, row.T)
    np.testing.assert_allclose(np.abs(square_pyramids.pyramid(1, 1, turned, 2)), 1.0)


def test_a_mosaic_of_five_by_five_tiles():
    tiles, count = square_pyramids.mosaic(28, 28)
    assert count == 25 and (tiles >= 0).sum() == 25 * 25
    assert tiles[0].max() == tiles[:, 0].max() == tiles[26].max() == -1
    assert tiles[1, 1] == 0 and tiles[1, 25] == 4 and tiles[25, 25] == 24
    tiles, count = square_pyramids.mosaic(1, 12)
    assert count == 5 and tiles.tolist() == [[-1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, -1]]
    tiles, count = square_pyramids.mosaic(2, 3)
    assert count == 6 and tiles.tolist() == [[0, 1, 2], [3, 4, 5]]


def make(x, threat_model, order, seeds=None):
    seeds = np.stack([np.full(len(x), 3), np.arange(len(x))], -1) if seeds is None else seeds
    keys = counter_rng.make_keys(keras.ops.convert_to_tensor(seeds.astype("int32")), len(x))
    shape = (*x.shape[1:], 1)[:3] if x.ndim > 2 else (1, x.shape[1], 1)
    x = keras.ops.convert_to_tensor(x)
    return square_pyramids.PyramidMoves(x, threat_model, keys, shape, 0.8, order)


@pytest.mark.exhaustive
@pytest.mark.parametrize("order", [1, 2])
def test_every_proposal_spends_the_budget_and_no_more(order):
    x = np.full((40, 10, 10, 2), 0.5, "float32")
    ball = {1: kr.threat_models.L1, 2: kr.threat_models.L2}[order](2.0, None)
    moves = make(x, ball, order)
    x_adv = moves.start()
    for query in range(1, 60):
        delta = (np.asarray(x_adv) - x).reshape(40, -1).astype("float64")
        size = np.linalg.norm(delta, ord=order, axis=-1)
        np.testing.assert_allclose(size, 2.0, rtol=3e-6)
        assert size.max() <= 2.0 + 1e-6
        x_adv = moves.propose(x_adv, query, query // 8)


@pytest.mark.exhaustive
@pytest.mark.parametrize("order", [1, 2])
def test_budget_that_the_box_cuts_off_is_used_later(order):
    x = np.random.default_rng(0).beta(0.3, 0.3, size=(40, 10, 10, 1)).astype("float32")
    ball = {1: kr.threat_models.L1, 2: kr.threat_models.L2}[order](3.0)
    moves = make(x, ball, order)
    x_adv, sizes = moves.start(), []
    for query in range(1, 100):
        x_adv = moves.propose(x_adv, query, 1 + query // 20)
        delta = (np.asarray(x_adv) - x).reshape(40, -1).astype("float64")
        sizes.append(np.linalg.norm(delta, ord=order, axis=-1))
        assert sizes[-1].max() <= 3.0 + 1e-6
        assert np.asarray(x_adv).min() >= 0.0 and np.asarray(x_adv).max() <= 1.0
    assert np.mean(sizes[0]) > 0.5
