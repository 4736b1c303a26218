import jax
import keras
import numpy as np
import pytest

from keras_robust import backend


def _body(step, state):
    """A loop body whose result depends on the step and on the order of the steps."""
    total, count = state
    return 0.5 * total + keras.ops.cast(step + 1, "float32"), count + 1


@pytest.mark.parametrize("num_steps", [0, 1, 7, 25])
@pytest.mark.parametrize("compiled", [False, True])
def test_repeat_is_a_python_loop(num_steps, compiled):
    total = np.array([1.0, 2.0])
    for step in range(num_steps):
        total = 0.5 * total + (step + 1)

    def run(start):
        return backend.repeat(num_steps, _body, (start, 0))

    found, count = (jax.jit(run) if compiled else run)(np.array([1.0, 2.0], "float32"))
    np.testing.assert_allclose(found, total, rtol=1e-6)
    assert int(count) == num_steps


def test_repeat_keeps_assigned_variables():
    generator = keras.random.SeedGenerator(3)

    def draw(_, total):
        return total + keras.random.uniform((), seed=generator)

    def run(start):
        return backend.repeat(5, draw, start), backend.repeat(3, draw, start)

    expected = run(np.float32(0.0))
    end = np.array(generator.state)
    generator.state.assign([3, 0])
    start = keras.ops.convert_to_tensor(0.0)
    found = backend.compile_function(run)(start)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(generator.state, end)
    assert len(np.unique(np.diff([0.0, *np.asarray(found)]))) == 2


class Counted(keras.layers.Layer):
    """Adds the number of its calls to its inputs."""

    def __init__(self):
        super().__init__()
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        return x + self.count


@pytest.mark.parametrize("is_compiled", [False, True])
def test_loops_carry_assigned_variables(is_compiled):
    layer = Counted()

    def both(x):
        total = backend.fori_loop(0, 3, lambda _, y: layer(y), x)
        return backend.while_loop(lambda y: y[0] < 30.0, lambda y: (layer(y),), (total,))

    run = backend.compile_function(both) if is_compiled else both
    (found,) = run(keras.ops.zeros((2,)))
    # 1 + 2 + 3, then 4, 5, 6, 7 and 8.
    assert found.tolist() == [36.0, 36.0] and float(layer.count) == 8.0
    limited = backend.while_loop(lambda y: y < 9, lambda y: (y + 1,), (0,), maximum_iterations=4)
    assert [int(one) for one in limited] == [4]


@pytest.mark.parametrize("is_compiled", [True, False])
def test_cond_keeps_assigned_variables(is_compiled):
    first, second = keras.Variable(1.0), keras.Variable(2.0)

    def choose(x):
        def then():
            first.assign(first.value + x)
            return 2.0 * x

        def otherwise():
            second.assign(x)
            return x + second.value

        return backend.cond(x > 0.0, then, otherwise)

    run = backend.compile_function(choose) if is_compiled else choose
    assert float(run(keras.ops.convert_to_tensor(4.0))) == 8.0
    assert float(first) == 5.0 and float(second) == 2.0
    assert float(run(keras.ops.convert_to_tensor(-1.0))) == -2.0
    assert float(first) == 5.0 and float(second) == -1.0
