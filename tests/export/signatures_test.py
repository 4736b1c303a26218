import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.export.guards import choose_guards
from keras_robust.export.inputs import Inputs
from keras_robust.export.served_model import ServedModel
from keras_robust.export.signatures import make_signatures
from keras_robust.export.signatures import takes_pictures
from keras_robust.layers import InputGuard
from tests.support import tiers

PICTURES = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype="uint8")
FILES = tf.constant([tf.io.encode_png(picture).numpy() for picture in PICTURES])


def network(*layers, shape=(5, 6, 3), dtype=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(shape, name="images", dtype=dtype),
            *layers,
            keras.layers.Rescaling(1.0),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def signatures(model, guard="auto", names=None):
    inputs = Inputs(model)
    served = ServedModel(model, inputs, choose_guards(model, inputs, guard, None))
    return make_signatures(served, names)


def test_predict_bytes_answers_as_serving_default_does():
    found = signatures(network(), InputGuard((0, 1)), names=["a", "b", "c"])
    assert sorted(found) == ["logits", "predict_bytes", "serving_default"]
    expected = found["serving_default"].function(tf.constant(PICTURES / 255.0, tf.float32))
    answer = found["predict_bytes"].function(FILES)
    assert answer.keys() == {"probabilities", "label", "label_name"}
    np.testing.assert_allclose(answer["probabilities"], expected["probabilities"], rtol=1e-5)
    np.testing.assert_array_equal(answer["label_name"], expected["label_name"])
    assert np.ptp(answer["probabilities"], axis=0).max() > 0.01


@tiers.parametrize(
    ("guard", "within", "dtype", "scale"),
    [
        (InputGuard((-1, 1)), (), None, lambda x: x / 127.5 - 1.0),
        (InputGuard((0, 255), integers="cast"), (), None, lambda x: x),
        ("auto", (InputGuard((0, 2)),), None, lambda x: x / 127.5),
        (None, (InputGuard((0, 2)),), None, lambda x: x / 127.5),
        ("auto", (), "uint8", lambda x: x),
    ],
)
def test_pictures_come_on_the_scale_of_the_model(guard, within, dtype, scale):
    model = network(*within, dtype=dtype)
    found = signatures(model, guard)
    answer = found["predict_bytes"].function(FILES)["probabilities"]
    values = scale(PICTURES.astype("float32")).astype(dtype or "float32")
    np.testing.assert_allclose(answer, tf.nn.softmax(model(values)), rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 6, 1), True),
        ((5, 6, 4), True),
        ((5, 6, 2), False),
        ((5, None, 3), False),
        ((5,), False),
    ],
)
def test_which_models_take_pictures(shape, expected):
    tensor = keras.Input(shape)
    model = keras.Model(tensor, keras.layers.Dense(2)(tensor[:, :1]))
    assert takes_pictures(Inputs(model)) == expected


def test_an_empty_batch_has_empty_answers():
    found = signatures(network())
    answer = found["serving_default"].function(tf.zeros((0, 5, 6, 3)))
    assert (answer["probabilities"].shape, answer["label"].shape) == ((0, 3), (0,))


@pytest.mark.parametrize(
    ("guard", "within"),
    [
        (None, ()),
        (InputGuard(None), ()),
        (InputGuard((0, 1), integers="cast"), ()),
        ("auto", (keras.layers.Rescaling(1 / 255), InputGuard((0, 1)))),
    ],
)
def test_no_predict_bytes_for_an_unknown_scale(guard, within):
    assert sorted(signatures(network(*within), guard)) == ["logits", "serving_default"]


def test_a_guard_that_is_first_in_a_functional_model():
    tensor = keras.Input((5, 6, 3), name="images")
    outputs = network()(InputGuard((0, 1))(keras.layers.Rescaling(1 / 255)(tensor)))
    assert "predict_bytes" not in signatures(keras.Model(tensor, outputs))
    guard = InputGuard((0, 2))
    model = keras.Model(tensor, network()(guard(tensor)))
    answer = signatures(model)["predict_bytes"].function(FILES)["probabilities"]
    expected = model(PICTURES.astype("float32") / 127.5)
    np.testing.assert_allclose(answer, tf.nn.softmax(expected), rtol=1e-4)


@pytest.mark.parametrize("signature", ["serving_default", "logits"])
def test_logits_that_are_not_finite_have_no_class(signature):
    model = network(keras.layers.Rescaling(1e38), keras.layers.Rescaling(1e38))
    function = signatures(model)[signature].function
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite logits"):
        function(tf.ones((1, 5, 6, 3)))
