import tensorflow as tf

from keras_robust.backend.tensorflow.functions import as_backend_function


def test_every_function_is_one_of_this_backend():
    compiled = tf.function(lambda x: 2.0 * x)
    assert as_backend_function(compiled) is compiled
    assert as_backend_function(len) is len
