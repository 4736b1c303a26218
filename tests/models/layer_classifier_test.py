import threading

import keras
import numpy as np
import pytest
from keras.src.backend import set_keras_mask

from keras_robust import backend
from keras_robust import models
from keras_robust.models.layer_classifier import changed_output
from tests.support import refusals
from tests.support import tiers

LayerClassifier = models.LayerClassifier
TOKENS = np.array([[1, 2, 0], [3, 3, 1]])


def model(mask_zero=False, dropout=0.0, loss=None):
    """Embedding, dropout, pooling and a dense layer, with weights that are not small."""
    keras.utils.set_random_seed(4)
    layers = [
        keras.layers.Embedding(5, 4, mask_zero=mask_zero, name="embedding"),
        keras.layers.Dropout(dropout, seed=2, name="dropout"),
        keras.layers.GlobalAveragePooling1D(name="pool"),
        keras.layers.Dense(3, name="head"),
    ]
    network = keras.Sequential([keras.Input((3,), dtype="int32"), *layers])
    network.set_weights([w + 0.3 * np.random.normal(size=w.shape) for w in network.get_weights()])
    if loss is not None:
        network.compile("sgd", loss)
    return network


def embedded(network):
    return network.layers[0].get_weights()[0][TOKENS]


@tiers.parametrize("mask_zero", [False, True])
@tiers.parametrize("training", [False, True])
def test_at_the_origin_it_is_the_model_bit_for_bit(training, mask_zero):
    expected = model(mask_zero, dropout=0.5)(TOKENS, training=training)
    network = model(mask_zero, dropout=0.5)
    state = keras.ops.convert_to_numpy(network.layers[1].seed_generator.state)
    for layer in ("embedding", "dropout", "pool", "head"):
        # Reset the seed of the dropout.
        network.layers[1].seed_generator.state.assign(state)
        classifier = LayerClassifier(network, layer, TOKENS)
        np.testing.assert_array_equal(classifier(classifier.origin, training=training), expected)


def test_the_tensor_takes_the_place_of_the_output():
    network = model()
    classifier = LayerClassifier(network, "embedding", TOKENS)
    np.testing.assert_array_equal(classifier.origin, embedded(network))
    assert classifier.mask is None
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    kernel, bias = network.get_weights()[1:]
    np.testing.assert_allclose(classifier(x), x.mean(axis=1) @ kernel + bias, rtol=0, atol=1e-6)
    pooled = LayerClassifier(network, "pool", TOKENS)
    np.testing.assert_allclose(pooled(x[:, 0]), x[:, 0] @ kernel + bias, rtol=0, atol=1e-6)


def test_masks_survive():
    network = model(mask_zero=True)
    classifier = LayerClassifier(network, "embedding", TOKENS)
    np.testing.assert_array_equal(classifier.mask, TOKENS != 0)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    kernel, bias = network.get_weights()[1:]
    pooled = np.stack([x[0, :2].mean(axis=0), x[1].mean(axis=0)])
    np.testing.assert_allclose(classifier(x), pooled @ kernel + bias, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(LayerClassifier(network, "dropout", TOKENS).mask, TOKENS != 0)


class MaskSetter(keras.layers.Layer):
    """Creates its own mask inside `call`."""

    def call(self, x):
        x = keras.ops.cast(x, "float32")[..., None] + keras.ops.zeros((1, 1, 2))
        set_keras_mask(x, keras.ops.convert_to_tensor(TOKENS == 3))
        return x


def test_masks_that_a_layer_sets_itself_survive():
    pool = keras.layers.GlobalAveragePooling1D()
    network = keras.Sequential([MaskSetter(name="setter"), pool])
    classifier = LayerClassifier(network, "setter", TOKENS)
    np.testing.assert_array_equal(classifier.mask, TOKENS == 3)
    found = classifier(classifier.origin + 1.0)
    np.testing.assert_allclose(found[1], [4.0, 4.0])


def test_gradients_at_the_origin_are_those_of_the_tensor():
    network = model(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    classifier = LayerClassifier(network, "embedding", TOKENS)
    kernel = network.get_weights()[1]

    def first(x):
        return classifier.logits(x)[:, 0], ()

    _, gradient = backend.value_and_input_gradient(first, classifier.origin)
    np.testing.assert_allclose(gradient, np.tile(kernel[:, 0] / 3, (2, 3, 1)), rtol=1e-5)


class WithLoss(keras.Model):
    """A subclassed model with a layer inside another one, and an own `compute_loss`."""

    def __init__(self):
        super().__init__()
        embedding = keras.layers.Embedding(5, 4, name="inner")
        self.encoder = keras.Sequential([embedding, keras.layers.GlobalAveragePooling1D()])
        self.head = keras.layers.Dense(3)
        self.seen = None

    def call(self, inputs):
        return self.head(self.encoder(inputs["tokens"])) + inputs["shift"]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.seen = x
        return super().compute_loss(x, y, y_pred, sample_weight)


def test_subclassed_models_layers_within_and_several_inputs():
    network = WithLoss()
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs = {"tokens": TOKENS, "shift": np.ones((2, 1), "float32")}
    classifier = LayerClassifier(network, "inner", inputs)
    assert tuple(classifier.origin.shape) == (2, 3, 4)
    np.testing.assert_array_equal(classifier(classifier.origin), network(inputs))
    y = np.array([0, 1])
    classifier.compiled_loss(classifier.origin + 1.0, y)
    assert network.seen["tokens"] is TOKENS


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(dtype):
    embedding = keras.layers.Embedding(5, 4, name="embedding", dtype=dtype)
    pool = keras.layers.GlobalAveragePooling1D(dtype=dtype)
    network = keras.Sequential([embedding, pool])
    expected = network(TOKENS)
    classifier = LayerClassifier(network, "embedding", TOKENS)
    assert classifier.origin.dtype == "float32"
    assert classifier(classifier.origin).dtype == expected.dtype
    np.testing.assert_array_equal(classifier(classifier.origin), expected)
    assert not np.array_equal(classifier(classifier.origin + 0.1), expected)


def test_nothing_is_left_on_the_layer():
    network = model()
    layer = network.layers[0]
    before = dict(vars(layer))
    classifier = LayerClassifier(network, "embedding", TOKENS)
    classifier(classifier.origin + 1.0, training=True)
    with pytest.raises(Exception):  # noqa: B017
        classifier(np.zeros((7, 7), "float32"))
    assert vars(layer) == before
    np.testing.assert_array_equal(network(TOKENS), model()(TOKENS))


def test_a_call_that_somebody_put_on_the_layer_is_put_back():
    layer = keras.layers.Dense(2, use_bias=False, kernel_initializer="ones")
    plain = layer.call
    vars(layer)["call"] = own = lambda x: 10.0 * plain(x)
    x = np.ones((1, 2), "float32")
    with changed_output(layer, lambda output: output + 1.0):
        np.testing.assert_array_equal(layer(x), [[21.0, 21.0]])
    assert vars(layer)["call"] is own


def test_nested_changes_follow_one_another():
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    x = np.ones((1, 1), "float32")
    with changed_output(layer, lambda output: output + 1.0):
        with changed_output(layer, lambda output: output * 10.0):
            np.testing.assert_array_equal(layer(x), [[20.0]])
        np.testing.assert_array_equal(layer(x), [[2.0]])
    np.testing.assert_array_equal(layer(x), [[1.0]])
    assert "call" not in vars(layer)


def test_threads_that_take_turns_see_their_own_change():
    # The order in which replicas of a strategy run a model, one of which is done before the other.
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    x = np.ones((1, 1), "float32")
    layer(x)
    inside, leave, seen = threading.Event(), threading.Event(), {}

    def first():
        with changed_output(layer, lambda output: output + 1.0):
            inside.set()
            leave.wait(10)
            seen["first"] = float(layer(x)[0, 0])

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)
    assert float(layer(x)[0, 0]) == 1.0
    with changed_output(layer, lambda output: output + 2.0):
        seen["second"] = float(layer(x)[0, 0])
    leave.set()
    thread.join()
    assert seen == {"first": 2.0, "second": 3.0}
    assert "call" not in vars(layer)


class Tuple(keras.layers.Layer):
    def call(self, x):
        return x, x


class Integer(keras.layers.Layer):
    def call(self, x):
        return keras.ops.cast(x, "int32")


def chained():
    """A model with layers whose outputs cannot be perturbed."""
    twice, unused = keras.layers.Dense(3, name="twice"), keras.layers.Dense(3, name="unused")
    inputs = keras.Input((3,))
    x, _ = Tuple(name="tuple")(twice(twice(inputs)))
    network = keras.Model(inputs, Integer(name="integer")(x))
    network.unused = unused
    network.same = keras.Sequential([keras.layers.Dense(3, name="twin")])
    network.other = keras.Sequential([keras.layers.Dense(3, name="twin")])
    return network


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            "nothing",
            r"one of \[.*'integer'.*'twice'.*\]. Received: layer='nothing', which 0 layers",
        ),
        ("twin", "layer='twin', which 2 layers have"),
        ("twice", "must run once per pass.*layer='twice', which runs 2 times"),
        ("unused", "must run once per pass.*layer='unused', which runs 0 times"),
        ("tuple", "must return one float tensor. Name a later layer.*layer='tuple'"),
        ("integer", "must return one float tensor.*layer='integer', which returns"),
    ],
)
def test_bad_layers_are_explained(layer, message):
    with refusals.assert_refused(message):
        LayerClassifier(chained(), layer, np.ones((2, 3), "float32"))


def test_only_keras_models_have_layers():
    with pytest.raises(ValueError, match="needs a keras.Model.*Received: .* type function"):
        LayerClassifier(lambda x: x, "embedding", TOKENS)


def test_the_shape_is_known_before_there_is_data():
    symbol = keras.KerasTensor((None, 3), "int64")
    classifier = LayerClassifier(model(), "embedding", symbol)
    assert isinstance(classifier.origin, keras.KerasTensor)
    assert classifier.origin.shape == (None, 3, 4)
    inputs = {"tokens": symbol, "shift": keras.KerasTensor((None, 1), "float32")}
    network = WithLoss()
    network(inputs)
    assert LayerClassifier(network, "inner", inputs).origin.shape == (None, 3, 4)
