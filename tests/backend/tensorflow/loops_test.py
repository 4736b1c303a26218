import numpy as np
import pytest
import tensorflow as tf

from keras_robust import backend
from keras_robust.backend.tensorflow import loops
from tests import conftest
from tests.support import tiers

RECURRENCE = np.array([1.0, 2.0], "float32")


def _body(step, state):
    """A loop body whose result depends on the step and on the order of the steps."""
    total, count = state
    return (0.5 * total + tf.cast(step + 1, tf.float32), count + 1)


@pytest.mark.parametrize("unroll", [2, conftest.UNROLL])
@pytest.mark.parametrize("num_steps", [1, 7, 10, 11, 19, 20, 25, 50])
@pytest.mark.parametrize("compiled", [False, True])
def test_repeat_is_a_python_loop(num_steps, compiled, unroll, monkeypatch):
    monkeypatch.setattr(loops, "_UNROLL", unroll)
    total = RECURRENCE
    for step in range(num_steps):
        total = 0.5 * total + (step + 1)

    def run(start):
        return backend.repeat(num_steps, _body, (start, tf.constant(0)))

    found, count = (tf.function(run) if compiled else run)(tf.constant(RECURRENCE))
    np.testing.assert_allclose(found, total, rtol=1e-6)
    assert int(count) == num_steps


@tiers.parametrize("num_steps", [25, 2, 9, 19, 50])
def test_repeat_traces_its_body_once(num_steps, monkeypatch):
    monkeypatch.setattr(loops, "_UNROLL", conftest.UNROLL)
    traced = []

    def body(step, state):
        traced.append(step)
        return state + 1

    assert int(tf.function(lambda: backend.repeat(num_steps, body, tf.constant(0)))()) == num_steps
    assert len(traced) == 1


def _operations(num_steps, wide):
    """The types of the operations of a loop over a body of `wide` additions, or a loop of them."""

    def body(step, state):
        if wide == "loop":
            return tf.while_loop(lambda x: x < 99.0, lambda x: (x + 1.0 - 0.5,), (state,))[0]
        for _ in range(wide):
            state = state + 1.0
        return state

    function = tf.function(lambda: backend.repeat(num_steps, body, tf.constant(0.0)))
    return [operation.type for operation in function.get_concrete_function().graph.get_operations()]


@pytest.mark.parametrize(
    "num_steps,wide,num_loops,calls",
    [(9, 2, 0, 9), (19, 2, 0, 19), (25, 2, 1, 5), (9, 40, 1, 0), (25, 40, 1, 0), (9, "loop", 1, 0)],
)
def test_repeat_unrolls_small_steps_only(num_steps, wide, num_loops, calls, monkeypatch):
    monkeypatch.setattr(loops, "_UNROLL", conftest.UNROLL)
    monkeypatch.setattr(loops, "_LARGE", 10)
    found = _operations(num_steps, wide)
    assert sum("While" in operation for operation in found) == num_loops
    assert sum("PartitionedCall" in operation for operation in found) == calls
