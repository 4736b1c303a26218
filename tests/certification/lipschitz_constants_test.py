import keras
import numpy as np
import pytest
from keras import layers

import keras_robust as kr
from keras_robust.certification.graph import propagate
from keras_robust.certification.lipschitz_constants import LipschitzBound
from keras_robust.certification.lipschitz_constants import convolution_norm
from keras_robust.certification.lipschitz_constants import lipschitz_bound
from keras_robust.certification.lipschitz_constants import singular_values
from tests.support.bounded import IMAGE
from tests.support.bounded import sequential

RNG = np.random.default_rng(0)
# Models, and whether their constant equals the norm.
LINEAR = {
    "dense": ((layers.Flatten(), layers.Dense(4)), True),
    "same": ((layers.Conv2D(3, 3, padding="same"),), False),
    "valid": ((layers.Conv2D(3, (2, 3), strides=2),), False),
    "dilated": ((layers.Conv2D(3, 2, dilation_rate=2, padding="same"),), False),
    "average": ((layers.AveragePooling2D(2),), True),
    "overlapping": ((layers.AveragePooling2D(3, strides=1),), False),
    "global": ((layers.GlobalAveragePooling2D(),), True),
    "batch norm": ((layers.BatchNormalization(),), True),
    "rescaling": ((layers.Rescaling([-2.0, 0.5], 1.0),), True),
    "normalization": ((layers.Normalization(mean=[0.0, 1.0], variance=[4.0, 0.25]),), True),
    "orthogonal": ((kr.layers.OrthogonalConv2D(4, 3),), False),
    "spectral": ((layers.Flatten(), kr.layers.SpectralDense(4)), True),
    "wrapped": ((layers.Flatten(), layers.SpectralNormalization(layers.Dense(3))), True),
}
OTHERS = {
    "max": (layers.MaxPooling2D(2, strides=1), layers.GlobalMaxPooling2D()),
    "softmax": (layers.Flatten(), layers.Dense(3), layers.Softmax()),
    "sigmoid": (layers.Flatten(), layers.Dense(3, activation="sigmoid")),
    "steep": (layers.LeakyReLU(3.0), layers.ELU(2.0), layers.ReLU(negative_slope=1.5)),
    "sort": (layers.Conv2D(4, 3, activation="relu"), kr.layers.GroupSort()),
}


def constant(model):
    return propagate(model, LipschitzBound(1.0, (None, *IMAGE)), lipschitz_bound).constant


def matrix_of(model):
    """Returns the matrix of an affine model, from its outputs for the unit vectors."""
    size = int(np.prod(IMAGE))
    units = np.eye(size, dtype="float32").reshape(size, *IMAGE)
    outputs = np.asarray(model(units)) - np.asarray(model(0 * units))
    return outputs.reshape(size, -1).astype("float64")


@pytest.mark.parametrize("name", LINEAR)
def test_the_constant_bounds_the_norm_of_the_matrix(name):
    parts, is_exact = LINEAR[name]
    model = sequential(*parts)
    exact = np.linalg.svd(matrix_of(model), compute_uv=False)[0]
    found = constant(model)
    if is_exact:
        assert found == pytest.approx(exact, rel=1e-4)
    assert exact * (1 - 1e-5) <= found <= 1.5 * exact


@pytest.mark.parametrize("name", OTHERS)
def test_no_pair_of_inputs_exceeds_the_constant(name):
    model = sequential(*OTHERS[name])
    found, worst = constant(model), 0.0
    x = RNG.normal(size=(400, *IMAGE)).astype("float32")
    for size in (1e-2, 1.0):
        step = size * RNG.normal(size=x.shape).astype("float32")
        moved = np.asarray(model(x + step)) - np.asarray(model(x))
        ends = (np.linalg.norm(delta.reshape(400, -1), axis=-1) for delta in (moved, step))
        worst = max(worst, np.max(np.divide(*ends)))
    assert worst <= found * (1 + 1e-3)


def test_a_maximum_that_counts_four_times():
    """An entry that is the maximum of four overlapping windows changes four outputs."""
    model = sequential(layers.MaxPooling2D(2, strides=1))
    x = np.zeros((1, *IMAGE), "float32")
    x[0, 2, 2, 0] = 1.0
    assert np.linalg.norm(model(x)) == constant(model) == 2.0


def test_circular_convolutions_are_exact():
    kernel = RNG.normal(size=(3, 2, 2, 4))
    found = convolution_norm(kernel, (4, 5))
    x = RNG.normal(size=(6, 6, 2))
    matrix = np.zeros((72, 6 * 6 * 4))
    for index in range(72):
        unit = np.zeros(72)
        unit[index] = 1.0
        unit = unit.reshape(x.shape)
        moved = sum(
            np.roll(unit, (-a, -b), (0, 1)) @ kernel[a, b] for a in range(3) for b in range(2)
        )
        matrix[index] = moved.ravel()
    assert found == pytest.approx(np.linalg.svd(matrix, compute_uv=False)[0], rel=1e-10)


def test_slopes_above_one_count():
    assert constant(sequential(*OTHERS["steep"])) == 3.0 * 2.0 * 1.5
    assert constant(sequential(layers.LeakyReLU(0.1), layers.ELU(0.5))) == 1.0


def test_merges_add_up():
    inputs = keras.Input(IMAGE)
    a, b = layers.Rescaling(3.0)(inputs), layers.Rescaling(-4.0)(inputs)
    assert constant(keras.Model(inputs, layers.Add()([a, b]))) == 7.0
    assert constant(keras.Model(inputs, layers.Concatenate()([a, b]))) == pytest.approx(5.0)


def test_repeated_entries_are_refused():
    inputs = keras.Input((1,))
    model = keras.Model(inputs, layers.Add(name="a")([layers.Dense(3)(inputs), inputs]))
    for given, message in (
        (model, "inputs of several shapes.*layer 'a' of class Add"),
        (sequential(layers.Rescaling([1.0, 2.0], name="b"), shape=(1,)), "larger.*layer 'b'"),
    ):
        with pytest.raises(ValueError, match=message):
            propagate(given, LipschitzBound(1.0, (None, 1)), lipschitz_bound)


def test_only_layers_that_return_their_input_keep_the_logits():
    dense = layers.Dense(3, activation="softmax")
    for layer in (layers.Identity(), layers.Dropout(0.5), layers.GaussianNoise(0.1)):
        reach = propagate(
            sequential(dense, layer, shape=(2,)), LipschitzBound(1.0, (None, 2)), lipschitz_bound
        )
        assert reach.logits.head is not None
    for layer in (layers.Flatten(), layers.Reshape((3,)), layers.Rescaling(1.0)):
        reach = propagate(
            sequential(dense, layer, shape=(2,)), LipschitzBound(1.0, (None, 2)), lipschitz_bound
        )
        assert reach.logits is None and reach.head is None


def test_singular_values_are_those_of_lapack():
    np.testing.assert_allclose(singular_values(np.diag([3.0, -5.0])), [5.0, 3.0])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.Dense(2, activation="gelu", name="a"), "gelu in layer 'a'"),
        (layers.LayerNormalization(name="b"), "'b' of class LayerNormalization"),
        (layers.Conv2D(2, 1, groups=2, name="c"), "groups.*'c' of class Conv2D"),
        (layers.AveragePooling2D(2, padding="same", name="d"), "padding='same'.*'d'"),
        (layers.ReLU(threshold=0.5, name="f"), "that jumps.*'f' of class ReLU"),
        (layers.Multiply(name="e"), "'e' of class Multiply"),
        (layers.GlobalAveragePooling2D("channels_first", name="g"), "channels first.*'g'"),
    ],
)
def test_layers_without_a_constant_are_refused_by_name(layer, message):
    inputs = keras.Input(IMAGE)
    merges = isinstance(layer, layers.Multiply)
    model = keras.Model(inputs, layer([inputs, inputs] if merges else inputs))
    with pytest.raises(ValueError, match=f"No Lipschitz constant.*{message}"):
        constant(model)
