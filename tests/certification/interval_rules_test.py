import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_robust as kr
from keras_robust import backend
from keras_robust.certification.interval_bounds import IntervalBounds
from keras_robust.certification.interval_bounds import worst_margins
from keras_robust.certification.interval_rules import propagate_box
from tests.support.bounded import IMAGE
from tests.support.bounded import network
from tests.support.bounded import randomise
from tests.support.bounded import sequential

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _double_precision():
    with backend.double_precision():
        yield


def normalization(**arguments):
    return layers.Normalization(mean=[0.2, 0.5], variance=[0.1, 2.0], **arguments)


# One model for each rule, with the options of its layer.
MODELS = {
    "dense": (layers.Flatten(), layers.Dense(4)),
    "dense of images": (layers.Dense(3, use_bias=False), layers.Flatten()),
    "tanh": (layers.Flatten(), layers.Dense(4, activation="tanh")),
    "valid": (layers.Conv2D(3, 3, strides=2, activation="relu"),),
    "same": (layers.Conv2D(4, (2, 3), padding="same", dilation_rate=2, groups=2),),
    "conv1d": (layers.Reshape((15, 4)), layers.Conv1D(2, 3)),
    "conv3d": (layers.Reshape((6, 5, 2, 1)), layers.Conv3D(2, 2)),
    "pools": (layers.MaxPooling2D(2), layers.AveragePooling2D(2, padding="same")),
    "global": (layers.ZeroPadding2D(1), layers.GlobalAveragePooling2D()),
    "global max": (layers.Cropping2D(1), layers.GlobalMaxPooling2D()),
    "batch norm": (layers.BatchNormalization(), layers.Permute((2, 1, 3))),
    "batch norm axis": (layers.BatchNormalization(axis=1, center=False, scale=False),),
    "rescaling": (layers.Rescaling([-2.0, 0.5], [1.0, -1.0]), layers.Dropout(0.5)),
    "normalization": (normalization(),),
    "inverse": (normalization(invert=True), layers.ReLU(2.0, 0.1, 0.2)),
    "leaky": (layers.LeakyReLU(), layers.ELU(), layers.GaussianNoise(0.5)),
    "lipschitz": (kr.layers.OrthogonalConv2D(4, 2, strides=2), kr.layers.GroupSort()),
    "spectral": (layers.Flatten(), kr.layers.SpectralDense(3)),
    "softmax": (layers.Flatten(), layers.Dense(3), layers.Softmax()),
    "softmax inside": (layers.Dense(3, activation="softmax"), layers.Dense(2)),
}
for _name in ("sigmoid", "selu", "softplus", "hard_sigmoid", "exponential", "softsign", "celu"):
    MODELS[_name] = (layers.Activation(_name),)


def contained(model, x, radius, count=2000):
    """Checks that the box contains the outputs of random points and corners, and returns both."""
    low, high = x - radius, x + radius
    box = propagate_box(
        model, IntervalBounds(*(ops.convert_to_tensor(end, "float64") for end in (low, high)))
    )
    share = RNG.uniform(size=(count, *x.shape[1:]))
    share = np.where(RNG.uniform(size=(count, 1, 1, 1)) < 0.5, share, np.rint(share))
    outputs = np.asarray(model((low + share * (high - low)).astype("float32")))
    slack = 1e-5 * (1.0 + np.abs(outputs))
    assert np.all(outputs >= box.lower - slack) and np.all(outputs <= box.upper + slack)
    return box, outputs


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_keeps_its_outputs_in_the_box(name):
    model = sequential(*MODELS[name])
    x = RNG.normal(size=(1, *IMAGE))
    box, outputs = contained(model, x, 0.3)
    assert "float64" in str(box.lower.dtype)
    assert np.all(box.upper >= box.lower) and np.any(box.upper > box.lower)
    exact = propagate_box(model, IntervalBounds(*[ops.convert_to_tensor(x, "float64")] * 2))
    expected = model(x.astype("float32"))
    np.testing.assert_allclose(exact.lower, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(exact.upper, expected, rtol=1e-4, atol=1e-5)


def test_a_dense_layer_is_bounded_exactly():
    model = sequential(layers.Dense(2, activation="sigmoid"), shape=(3,))
    kernel, bias = model.layers[0].get_weights()
    x, radius = np.array([[0.1, -0.4, 0.7]]), np.array([[0.1, 0.2, 0.0]])
    box = propagate_box(
        model,
        IntervalBounds(*(ops.convert_to_tensor(x + sign * radius, "float64") for sign in (-1, 1))),
    )
    for end, sign in ((box.lower, -1), (box.upper, 1)):
        z = x @ kernel + bias + sign * radius @ np.abs(kernel)
        np.testing.assert_allclose(end, 1.0 / (1.0 + np.exp(-z)), rtol=1e-6)


def test_the_boxes_in_front_of_every_relu_are_told():
    parts = [layers.Dense(4, activation="relu"), layers.Dense(3), layers.ReLU(max_value=2.0)]
    model = sequential(*parts, layers.Activation("relu"), layers.Dense(2), shape=(3,))
    ends = (ops.convert_to_tensor(np.full((1, 3), end), "float64") for end in (-0.2, 0.3))
    told = []
    box = propagate_box(model, IntervalBounds(*ends), told)
    assert [tuple(one.lower.shape) for one in told] == [(1, 4), (1, 3), (1, 3)]
    kernel, bias = model.layers[0].get_weights()
    np.testing.assert_allclose(told[0].centre, [0.05 * kernel.sum(axis=0) + bias], rtol=1e-6)
    np.testing.assert_allclose(told[0].radius, [0.25 * np.abs(kernel).sum(axis=0)], rtol=1e-6)
    np.testing.assert_allclose(told[2].upper, np.clip(told[1].upper, 0.0, 2.0))
    assert np.min(told[1].lower) < 0.0 and box.upper.shape == (1, 2)


@pytest.mark.parametrize(
    "merge", ["Add", "Average", "Concatenate", "Maximum", "Minimum", "Subtract"]
)
def test_merges(merge):
    inputs = keras.Input(IMAGE)
    parts = [layers.Conv2D(2, 3, padding="same")(inputs), layers.Rescaling(-2.0)(inputs)]
    model = randomise(keras.Model(inputs, getattr(layers, merge)()(parts)))
    contained(model, RNG.normal(size=(1, *IMAGE)), 0.2)


@pytest.mark.parametrize("merge", ["Subtract", "Add", "Maximum"])
def test_merged_tensors_may_have_different_numbers_of_axes(merge):
    inputs = keras.Input((6,))
    parts = [layers.Dense(3)(inputs), layers.Reshape((2, 3))(inputs)]
    model = randomise(keras.Model(inputs, getattr(layers, merge)()(parts)))
    x = RNG.normal(size=(2, 6))
    point = ops.convert_to_tensor(x, "float64")
    box = propagate_box(model, IntervalBounds(point, point))
    np.testing.assert_allclose(box.lower, model(x.astype("float32")), rtol=1e-4, atol=1e-5)


@pytest.mark.exhaustive
def test_ten_thousand_points_and_the_extremes_that_pgd_finds():
    model, radius = network(layers.Dense(4)), 0.05
    x = RNG.uniform(size=(1, *IMAGE)).astype("float32")
    box, outputs = contained(model, x.astype("float64"), radius, 10_000)
    labels = np.argmax(model(x), axis=-1)
    margins = np.asarray(worst_margins(box, ops.convert_to_tensor(labels)))
    ball = kr.Linf(radius, None)
    for target in range(4):
        if target == labels[0]:
            continue
        attack = kr.attacks.PGD(num_steps=30, targeted=True, loss="margin")
        z = np.asarray(model(attack(model, x, np.array([target]), ball)))
        assert np.all(z >= np.asarray(box.lower) - 1e-4) and np.all(z <= box.upper + 1e-4)
        assert z[0, target] - z[0, labels[0]] <= margins[0, target] + 1e-4
    sampled = outputs - outputs[:, labels]
    assert np.all(sampled <= margins + 1e-4)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.Dense(3, activation="gelu", name="a"), "gelu in layer 'a'"),
        (layers.Activation("silu", name="b"), "silu in layer 'b'"),
        (layers.LayerNormalization(name="c"), "layer 'c' of class LayerNormalization"),
        (layers.ELU(-0.5, name="d"), "negative alpha.*layer 'd' of class ELU"),
        (layers.Softmax(axis=1, name="g"), "another axis.*layer 'g' of class Softmax"),
        (kr.layers.BitDepth(3, name="h"), "layer 'h' of class BitDepth"),
    ],
)
def test_layers_without_a_rule_are_refused_by_name(layer, message):
    model = sequential(layer)
    x = ops.zeros((1, *IMAGE))
    with pytest.raises(ValueError, match=f"No interval bound.*{message}"):
        propagate_box(model, IntervalBounds(x, x))


def test_subclasses_of_layers_are_refused():
    class Odd(layers.Dense):
        def call(self, x):
            return -super().call(x)

    x = ops.zeros((1, 3))
    with pytest.raises(ValueError, match="of class Odd"):
        propagate_box(sequential(Odd(2), shape=(3,)), IntervalBounds(x, x))


def test_causal_padding_is_refused():
    model = sequential(layers.Conv1D(2, 2, padding="causal"), shape=(5, 2))
    x = ops.zeros((1, 5, 2))
    with pytest.raises(ValueError, match="padding='causal'.*Conv1D"):
        propagate_box(model, IntervalBounds(x, x))
