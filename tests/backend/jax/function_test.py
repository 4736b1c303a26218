import keras
import numpy as np

from keras_robust.backend.jax.function import Function
from keras_robust.backend.jax.function import OpenFunction


def test_variables_are_read_and_assigned_when_it_is_called():
    variable, traces = keras.Variable(1.0), []

    def function(x):
        traces.append(x)
        variable.assign(variable.value + 1.0)
        return x * variable.value

    run = Function(function)
    assert float(run(np.float32(3.0))) == 6.0
    variable.assign(10.0)
    assert float(run(np.float32(2.0))) == 22.0
    assert float(variable.value) == 11.0
    count = len(traces)
    assert float(run(np.float32(1.0))) == 12.0
    assert len(traces) == count


def test_given_values_are_arguments_and_results():
    variable = keras.Variable(1.0)
    run = Function(lambda x: variable.assign(variable.value + x), [variable])
    _, (value,), (others, _) = run.call([keras.ops.convert_to_tensor(5.0)], np.float32(2.0))
    assert float(value) == 7.0 and others == []
    assert float(variable.value) == 1.0


def test_smaller_batches_are_padded():
    shapes = []

    def function(x):
        shapes.append(x.shape)
        return 2.0 * x, keras.ops.sum(x[:1])

    run = OpenFunction(function)
    x = np.arange(4.0, dtype="float32")
    for size in (4, 3, 2):
        doubled, first = run(x[:size])
        np.testing.assert_array_equal(doubled, 2.0 * x[:size])
        assert float(first) == 0.0
    assert set(shapes) == {(4,)}
    run(x[:1])
    assert (1,) in shapes


def test_a_function_that_makes_variables_in_every_trace_ends():
    traces = []

    def function(x):
        traces.append(x)
        return keras.layers.Dropout(0.5)(x, training=True)

    run = Function(function)
    for _ in range(2):
        found = np.asarray(run(np.ones(100, "float32")))
        assert set(found.tolist()) == {0.0, 2.0}
    assert len(traces) <= 6
