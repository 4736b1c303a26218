import keras
import numpy as np
import pytest

from keras_robust.backend import counter_rng
from tests.support import backends
from tests.support import hashing

SEEDS = np.array([[1, 2], [1, 3], [-7, 2], [5, -1]], "int32")


def draw(seed, counter, count, batch_size=4):
    keys = counter_rng.make_keys(keras.ops.convert_to_tensor(seed), batch_size)
    return np.asarray(counter_rng.draw(keys, counter, count))


@backends.with_and_without_xla
def test_equals_the_hash_in_python_integers(jit_compile):
    function = backends.traced(draw_in_graph, jit_compile)
    for counter in (0, 1, 70000):
        bits = np.asarray(function(SEEDS, keras.ops.convert_to_tensor(counter)))
        expected = [hashing.draw(hashing.key(seed), counter, 5) for seed in SEEDS]
        np.testing.assert_array_equal(bits, expected)


def draw_in_graph(seed, counter):
    return counter_rng.draw(counter_rng.make_keys(seed, 4), counter, 5)


def test_all_numbers_differ_between_examples_counters_and_places():
    numbers = np.stack([draw(SEEDS, counter, 100) for counter in range(50)])
    # Among 20 000 random numbers below 2^32, two are equal with probability 0.05 * 0.9.
    assert len(np.unique(numbers)) >= numbers.size - 1
    np.testing.assert_array_equal(draw(SEEDS[2:], 3, 7, 2), draw(SEEDS, 3, 7)[2:])


def test_one_seed_gives_every_position_its_own_stream():
    one = draw([3, 4], 0, 50)
    assert len(np.unique(one)) == one.size
    np.testing.assert_array_equal(draw([3, 4], 0, 50, 2), one[:2])
    assert not np.any(one == draw([3, 5], 0, 50)) and not np.any(one == draw([4, 4], 0, 50))


def test_bits_are_fair_and_independent():
    bits = draw(np.stack([np.zeros(200), np.arange(200)], axis=-1).astype("int32"), 9, 200, 200)
    flips = (bits[..., None] >> np.arange(32, dtype="uint32") & 1).astype("float64")
    # 40 000 flips of a fair coin: a standard deviation of 0.0025.
    np.testing.assert_allclose(flips.mean(axis=(0, 1)), 0.5, atol=0.0125)
    centred = flips - 0.5
    for other in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1]):
        np.testing.assert_allclose(4.0 * other.mean(axis=(0, 1)), 0.0, atol=0.025)


@pytest.mark.parametrize("limit", [1, 3, 7, 24])
def test_integers_below_a_limit(limit):
    bits = draw(SEEDS, 1, 3000)
    found = np.asarray(counter_rng.below(bits, keras.ops.convert_to_tensor(float(limit))))
    expected = [[hashing.below(int(bit), limit) for bit in row] for row in bits]
    np.testing.assert_array_equal(found, expected)
    counts = np.bincount(found.astype(int).reshape(-1), minlength=limit)
    assert len(counts) == limit and counts.min() > 0.8 * bits.size / limit
    edges = keras.ops.convert_to_tensor([0, 2**32 - 1], "uint32")
    assert np.asarray(
        counter_rng.below(edges, keras.ops.convert_to_tensor(float(limit)))
    ).tolist() == [0, limit - 1]


def test_coins_and_signs():
    bits = keras.ops.convert_to_tensor([0, 2**31 - 1, 2**31, 2**32 - 1], "uint32")
    assert np.asarray(counter_rng.is_heads(bits)).tolist() == [False, False, True, True]
    assert np.asarray(counter_rng.signs(bits)).tolist() == [-1.0, -1.0, 1.0, 1.0]
