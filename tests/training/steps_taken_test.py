import keras
import numpy as np
import pytest

from keras_robust import training
from keras_robust.training.steps_taken import batches_seen
from keras_robust.training.steps_taken import steps_taken
from tests.support import backends


def _optimizer(count, **arguments):
    optimizer = keras.optimizers.SGD(**arguments)
    weight = keras.Variable([1.0])
    optimizer.build([weight])
    optimizer._iterations.assign(count)
    return optimizer


@pytest.mark.parametrize("count", [0, 7, 2**31 - 1])
def test_counts_what_keras_counts(count):
    optimizer = _optimizer(count)
    assert int(steps_taken(optimizer)) == training.read_steps(optimizer) == count
    assert int(batches_seen(optimizer)) == count


@pytest.mark.skipif(backends.IS_JAX, reason="JAX counts in int32")
def test_goes_on_behind_2_31():
    optimizer = _optimizer(2**31 + 5)
    assert training.read_steps(optimizer) == 2**31 + 5
    # The same bits as an int32.
    assert int(batches_seen(optimizer)) == 5 - 2**31


@pytest.mark.skipif(not backends.IS_JAX, reason="TensorFlow counts in int64")
def test_stays_at_the_largest_number_where_the_counter_has_run_over():
    optimizer = _optimizer(2**31 - 1)
    optimizer._iterations.assign_add(6)
    assert int(np.asarray(optimizer.iterations)) == 5 - 2**31
    assert training.read_steps(optimizer) == 2**31 - 1
    assert int(batches_seen(optimizer)) == 5 - 2**31


def test_accumulation_counts_steps_and_batches():
    optimizer = _optimizer(10, gradient_accumulation_steps=4)
    assert (training.read_steps(optimizer), int(batches_seen(optimizer))) == (2, 10)
