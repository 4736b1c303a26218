import numpy as np
import pytest
import tensorflow as tf

from keras_robust import backend
from keras_robust.backend.tensorflow import requirements


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
