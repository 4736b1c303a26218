import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_robust import backend
from keras_robust.backend.jax.functions import as_backend_function


def test_what_tensorflow_compiled_is_told_from_other_functions():
    compiled = tf.function(lambda x: 2.0 * x, input_signature=[tf.TensorSpec((None,), tf.float32)])
    assert as_backend_function(keras.ops.square) is keras.ops.square
    for one in (compiled, compiled.get_concrete_function()):
        found, (gradient, *_) = backend.value_and_input_gradient(
            lambda x, one=one: (as_backend_function(one)(x), None), np.ones(3, "float32")
        )
        np.testing.assert_array_equal(found[0], [2.0] * 3)
        np.testing.assert_array_equal(gradient, 2.0)


def test_other_functions_do_not_import_tensorflow():
    program = """
import sys
sys.modules["tensorflow"] = None
from keras_robust.backend.jax.functions import as_backend_function
assert as_backend_function(len) is len
"""
    subprocess.run([sys.executable, "-c", program], check=True)
