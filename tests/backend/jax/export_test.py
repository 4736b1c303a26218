import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust import backend
from keras_robust.backend.jax.export import ExportArchive
from keras_robust.backend.jax.export import from_tf_function


def _served(tmp_path, model, function):
    archive = ExportArchive(model)
    run = archive.in_graph(function)
    spec = tf.TensorSpec((None, 3), tf.float32, name="x")
    archive.add_endpoint("run", lambda x: {"z": run(x)}, [spec])
    archive.write_out(str(tmp_path / "out"))
    return tf.saved_model.load(tmp_path / "out").signatures["run"]


def _model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def test_a_written_function_returns_the_same_results(tmp_path):
    model = _model()
    served = _served(tmp_path, model, model)
    for size in (1, 3):
        x = np.eye(3, dtype="float32")[:size]
        np.testing.assert_allclose(served(x=tf.constant(x))["z"], model(x), rtol=1e-5)


def test_requirements_are_checked_in_the_served_function(tmp_path):
    served = _served(
        tmp_path, _model(), lambda x: backend.require_all(x > 0.0, "Expected more than 0", x)
    )
    np.testing.assert_array_equal(served(x=tf.ones((2, 3)))["z"], np.ones((2, 3)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected more than 0"):
        served(x=tf.zeros((2, 3)))


def test_a_function_of_tensorflow_takes_and_gives_tensors_of_the_backend():
    found = from_tf_function(lambda x: tf.square(x))(keras.ops.convert_to_tensor([3.0]))
    assert keras.ops.is_tensor(found) and float(found[0]) == 9.0


def test_inputs_may_have_open_lengths_of_their_own(tmp_path):
    inputs = [keras.Input((None, 3), name=name) for name in "ab"]
    pooled = [keras.layers.GlobalAveragePooling1D()(one) for one in inputs]
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()(pooled))
    model = keras.Model(inputs, outputs)
    served = tf.saved_model.load(
        str(kr.export_saved_model(model, tmp_path / "1", guard=kr.layers.InputGuard()))
    )
    a, b = (np.random.default_rng(0).uniform(size=(2, n, 3)).astype("float32") for n in (4, 5))
    found = served.signatures["logits"](a=tf.constant(a), b=tf.constant(b))["logits"]
    np.testing.assert_allclose(found, model([a, b]), atol=1e-5)
