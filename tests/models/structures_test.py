import keras
import numpy as np
import pytest

from keras_robust import models
from tests.support import refusals

X = {"b": np.arange(10.0).reshape(5, 2), "a": [np.arange(5), np.zeros((5, 1), "int8")]}


def test_the_only_input():
    for inputs in (X["b"], {"x": X["b"]}, [X["b"]]):
        assert models.only_input(inputs) is X["b"]
    with pytest.raises(ValueError, match=r"several inputs. Choose the inputs.*inputs \['b', 'a'\]"):
        models.only_input(X)
    with refusals.assert_refused("several inputs. Choose the inputs.*inputs 2 tensors"):
        models.only_input(X["a"])


def test_size_and_rows():
    assert models.size_of(X) == models.size_of(X["b"]) == 5
    some = models.take(X, np.array([3, 0]))
    np.testing.assert_array_equal(some["b"], [[6, 7], [0, 1]])
    np.testing.assert_array_equal(some["a"][0], [3, 0])
    np.testing.assert_array_equal(models.take(X["b"], slice(1, 2)), [[2, 3]])


def test_rows_fill_their_last_batch():
    np.testing.assert_array_equal(models.filled_rows(5, 3), [0, 1, 2, 3, 4, 4])
    np.testing.assert_array_equal(models.filled_rows(4, 2), [0, 1, 2, 3])
    np.testing.assert_array_equal(models.filled_rows(1, 3), [0, 0, 0])


@pytest.mark.parametrize(("batch_size", "sizes"), [(2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_batches_are_tensors_in_order(batch_size, sizes):
    batches = list(models.batches_of(X, batch_size))
    assert [len(batch["b"]) for batch in batches] == sizes
    for leaf, *parts in zip(
        keras.tree.flatten(X), *(keras.tree.flatten(batch) for batch in batches), strict=True
    ):
        assert all(keras.ops.is_tensor(part) for part in parts)
        joined = np.concatenate(parts)
        # JAX has int32 for int64.
        assert joined.dtype.kind == leaf.dtype.kind
        np.testing.assert_array_equal(joined, leaf)
