import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust import backend
from keras_robust.backend.tensorflow import requirements
from tests.support import gradient_steps


@pytest.mark.parametrize("compiled", [False, True])
def test_require(compiled):
    def checked(x):
        largest = tf.reduce_max(x)
        template = "Expected at most 1. Received: up to {} in {} values"
        check = requirements.require(largest <= 1.0, template, largest, tf.size(x))
        with tf.control_dependencies([check] if tf.inside_function() else []):
            return tf.identity(x)

    run = tf.function(checked) if compiled else checked
    np.testing.assert_array_equal(run(tf.constant([0.5, 1.0])), [0.5, 1.0])
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        run(tf.constant([0.5, 2.25, 1.0]))
    expected = "Expected at most 1. Received: up to 2.25 in 3 values"
    assert backend.required_message(caught.value) == expected


@pytest.mark.parametrize("compiled", [False, True])
def test_require_all(compiled):
    def function(x):
        return backend.require_all(x <= 1.0, "Expected small ones", 2.0 * x)

    function = tf.function(function) if compiled else function
    np.testing.assert_array_equal(function(tf.constant([1.0, -3.0])), [2.0, -6.0])
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        function(tf.constant([0.0, 1.5]))
    assert backend.required_message(caught.value) == "Expected small ones"


def test_required_message_of_another_error():
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        tf.debugging.Assert(False, ["another assertion"])
    assert backend.required_message(caught.value) is None
    assert backend.required_message(ValueError("text")) is None


class Normalise(keras.layers.Layer):
    """A softmax that Keras does not recognize."""

    def call(self, x):
        exponentials = keras.ops.exp(x)
        return exponentials / keras.ops.sum(exponentials, axis=-1, keepdims=True)


@pytest.mark.parametrize("loss", [gradient_steps.mixed, gradient_steps.adversarial])
def test_misread_outputs_stop_before_the_first_update(loss):
    model, _ = gradient_steps.linear(after=[Normalise()])
    before = model.get_weights()
    model.optimizer.build(model.trainable_variables)

    def run():
        gradient_step = gradient_steps.gradient_step(model)
        gradient_step.apply(gradient_step.backward(loss, gradient_steps.found()))

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        tf.function(run)()
    message = backend.required_message(caught.value)
    assert message.startswith("The loss takes logits, but the outputs of the model are probabil")
    gradient_steps.assert_same(model.get_weights(), before)
    assert int(model.optimizer.iterations) == 0


def test_misread_outputs_are_recorded_without_checks():
    for after, expected in ([Normalise()], True), ([], False):
        model, _ = gradient_steps.linear(after=after)
        gradient_step = gradient_steps.gradient_step(model, checks=False)
        result = gradient_step.apply(
            gradient_step.backward(gradient_steps.mixed, gradient_steps.found())
        )
        assert bool(result.logits_mismatch) is expected
        assert int(model.optimizer.iterations) == 1


def test_nothing_can_be_misread_in_a_regression():
    model, _ = gradient_steps.linear(loss="mse")
    gradient_step = gradient_steps.gradient_step(model, y=np.ones((4, 3), "float32"))
    result = gradient_step.apply(
        gradient_step.backward(gradient_steps.adversarial, gradient_steps.found())
    )
    assert result.logits_mismatch is None
    assert result.outputs.shape == (4, 3)
