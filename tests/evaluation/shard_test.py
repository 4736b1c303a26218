import numpy as np
import pytest

from keras_robust.evaluation.shard import Shard
from tests.support import refusals


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_hold_each_row_once_and_are_about_equal(count):
    parts = [Shard.of(f"{index}/{count}").rows(7) for index in range(count)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(7))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_a_shard_is_every_so_manieth_row():
    shard = Shard.of("3/16")
    assert (shard, str(shard)) == (Shard(3, 16), "3/16")
    np.testing.assert_array_equal(shard.rows(40), [3, 19, 35])


@pytest.mark.parametrize("text", ["16/16", "3", "a/2", "-1/4", "1/0", "1/4/4", " 1/4", 0.25])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match='"0/16", "1/16", ..., "15/16". Received: shard='):
        Shard.of(text)


def test_no_shard_is_empty():
    with refusals.assert_refused("at most as many shards as examples, 3. Received: shard=0/4"):
        Shard(0, 4).rows(3)
