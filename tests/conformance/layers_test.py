"""What a Keras user expects of every layer: files, exports, dtypes, XLA, any batch size."""

import keras
import numpy as np
import tensorflow as tf

from tests.support import backends
from tests.support import cases
from tests.support import gradients
from tests.support import tiers

IMAGES = (
    "BitDepth",
    "InputGuard",
    "InputGuard-mending",
    "JPEG",
    "JPEG-all",
    "MedianSmoothing",
    "Thermometer",
    "Thermometer-raw",
)
X = np.random.default_rng(0).uniform(size=(5, 9, 10, 3)).astype("float32")
every_layer = tiers.parametrize("name", IMAGES, one_for=cases.class_of)


def fresh(name, **changes):
    layer = cases.CASES["layers"][name]
    return type(layer).from_config({**layer.get_config(), **changes})


def in_model(layer, **arguments):
    return keras.Sequential([keras.Input(X.shape[1:], **arguments), layer])


def test_every_image_layer_is_here():
    others = ("FeatureSqueezingDetector", "GroupSort", "OrthogonalConv2D", "PairedLogits")
    others += ("RandomizedSmoothing", "SpectralDense", "Temperature")
    assert {name for name in cases.CASES["layers"] if not name.startswith(others)} == set(IMAGES)


@every_layer
def test_file_round_trip(name, tmp_path):
    model = in_model(fresh(name))
    model.save(tmp_path / "model.keras")
    revived = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(revived(X), model(X))
    assert revived.layers[-1].get_config() == model.layers[-1].get_config()


@every_layer
def test_export_has_plain_ops_and_takes_any_batch(name, tmp_path):
    model = in_model(fresh(name))
    model.export(tmp_path / "model", verbose=False)
    served = tf.saved_model.load(tmp_path / "model").signatures["serving_default"]
    kinds = {node.op for node in served.graph.as_graph_def().node}
    assert not {kind for kind in kinds if "PyFunc" in kind}
    for count in (1, 5):
        (found,) = served(tf.constant(X[:count])).values()
        np.testing.assert_allclose(found, model(X[:count]), atol=1e-6)


@every_layer
def test_examples_do_not_mix(name):
    layer = fresh(name)
    alone = np.concatenate([layer(X[i : i + 1]) for i in range(len(X))])
    np.testing.assert_array_equal(layer(X), alone)


@every_layer
def test_xla_gives_the_same_values_and_gradients(name):
    layer = fresh(name)

    weights = np.cos(np.arange(layer(X).shape[-1])).astype("float32")

    def values_and_gradient(x):
        return gradients.of(layer, x, weights)

    expected = values_and_gradient(keras.ops.convert_to_tensor(X))
    found = backends.traced(values_and_gradient, True)(keras.ops.convert_to_tensor(X))
    # One rounding may go the other way where the order of a sum differs.
    assert np.mean(np.abs(found[0] - expected[0]) > 1e-5) < 0.01
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


@every_layer
@tiers.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_rounds_the_result_only(name, policy):
    expected = fresh(name)(X)
    found = in_model(fresh(name, dtype=policy))(X)
    dtype = policy.removeprefix("mixed_")
    assert found.dtype == dtype
    if name == "MedianSmoothing":
        np.testing.assert_array_equal(found, fresh(name)(keras.ops.cast(X, dtype)))
    else:
        np.testing.assert_array_equal(found, keras.ops.cast(expected, dtype))


@backends.tensorflow_only("JAX computes in float32 unless all of it is told otherwise")
@every_layer
def test_float64_stays_float64(name):
    x = X.astype("float64") + 1e-10
    found = np.asarray(fresh(name, dtype="float64")(x))
    assert found.dtype == "float64"
    # One rounding may go the other way.
    assert np.mean(np.abs(found - np.asarray(fresh(name)(X))) > 1e-5) < 0.01


@every_layer
def test_keras_knows_the_output_shape(name):
    layer = fresh(name)
    symbolic = layer(keras.Input(X.shape[1:]))
    assert tuple(symbolic.shape) == (None, *layer(X).shape[1:])
