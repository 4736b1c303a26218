import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.backend.tensorflow.passes import forgotten_pass
from keras_robust.backend.tensorflow.passes import inference_pass
from tests.support import passes


def _in_a_loop(layer, x):
    def body(step, x):
        return step + 1, passes.run(layer, x)

    return tf.while_loop(lambda step, _: step < 3, body, (0, x))[1]


@pytest.mark.parametrize("compile_arguments", [None, {}, {"jit_compile": True}])
@pytest.mark.parametrize("calls", [lambda layer, x: passes.run(layer, x), _in_a_loop])
def test_state_is_put_back_and_seeds_go_on(calls, compile_arguments):
    layer, same, x = passes.layer(), passes.layer(), tf.zeros((1, 2))
    layer.count.assign(5.0)

    def draw():
        return keras.random.normal((), seed=same.seeds)

    function = calls
    if compile_arguments is not None:
        function = tf.function(calls, autograph=False, **compile_arguments)
        draw = tf.function(draw, autograph=False, **compile_arguments)
    found = function(layer, x)
    count = 1 if calls is not _in_a_loop else 3
    draws = [draw() for _ in range(count)]
    np.testing.assert_allclose(found, np.full((1, 2), 6.0 * count + sum(draws)), rtol=1e-5)
    assert float(layer.count.value) == 5.0
    np.testing.assert_array_equal(layer.seeds.state.numpy(), same.seeds.state.numpy())


def test_what_the_pass_assigns_within_a_loop_is_put_back():
    variable = keras.Variable(2.0, trainable=False)

    @tf.function(autograph=False)
    def run():
        def body(step):
            variable.assign(variable * 3.0)
            return (step + 1,)

        with inference_pass() as put_back:
            tf.while_loop(lambda step: step < 3, body, (0,))
            last = variable + 0.0
        assert put_back == [variable]
        return last

    assert float(run()) == 54.0
    assert float(variable.value) == 2.0


def test_an_error_puts_back_what_was_assigned():
    variable = keras.Variable(2.0)
    with pytest.raises(RuntimeError), inference_pass():
        variable.assign(3.0)
        raise RuntimeError
    assert float(variable.value) == 2.0


def test_a_scope_around_it_gets_what_is_assigned():
    layer = passes.layer()
    with forgotten_pass(layer) as scope:
        passes.run(layer, tf.zeros((1, 2)))
        assert float(scope.get_current_value(layer.count)) == 0.0
        assert scope.get_current_value(layer.seeds.state).numpy()[1] == 1
    assert layer.seeds.state.numpy()[1] == 0
