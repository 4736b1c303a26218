import keras
import numpy as np
import tensorflow as tf

from keras_robust.backend.tensorflow.export import ExportArchive
from keras_robust.backend.tensorflow.export import from_tf_function


def test_a_written_function_returns_the_same_results(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    archive = ExportArchive(model)
    run = archive.in_graph(model)
    spec = tf.TensorSpec((None, 3), tf.float32, name="x")
    archive.add_endpoint("twice", lambda x: {"z": 2.0 * run(x)}, [spec])
    archive.write_out(str(tmp_path / "out"))
    x = np.eye(3, dtype="float32")
    served = tf.saved_model.load(tmp_path / "out").signatures["twice"]
    np.testing.assert_allclose(served(x=tf.constant(x))["z"], 2.0 * model(x), rtol=1e-6)
    assert from_tf_function(run) is run
