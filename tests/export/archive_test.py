import keras
import numpy as np
import tensorflow as tf

from keras_robust.export import archive


def test_the_archive_is_that_of_the_backend(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    written = archive.ExportArchive(model)
    assert keras.backend.backend() in type(written).__module__
    run = written.in_graph(model)
    spec = tf.TensorSpec((None, 3), tf.float32, name="x")
    written.add_endpoint("run", lambda x: {"z": run(x)}, [spec])
    written.write_out(str(tmp_path / "out"))
    served = tf.saved_model.load(tmp_path / "out").signatures["run"]
    x = np.eye(3, dtype="float32")
    np.testing.assert_allclose(served(x=tf.constant(x))["z"], model(x), rtol=1e-6)


def test_functions_of_tensorflow_run_on_tensors_of_the_backend():
    found = archive.from_tf_function(tf.square)(keras.ops.convert_to_tensor([3.0]))
    np.testing.assert_array_equal(found, [9.0])
