import keras
import numpy as np
import pytest
from keras import layers

import keras_robust as kr
from keras_robust.certification import Interval
from keras_robust.certification import Linear
from keras_robust.certification import Lipschitz
from tests.support import backends
from tests.support import refusals
from tests.support import tiers

X = np.array([[0.9, 0.1]], "float32")
SPARSE = "sparse_categorical_crossentropy"
METHODS = {"interval": Interval(), "lipschitz": Lipschitz(), "linear": Linear()}
SLACKS = {**METHODS, "free": Linear(bounds=None), "crown": kr.certification.Crown(num_steps=20)}
every_bound = pytest.mark.parametrize("name", ["interval", "lipschitz"])


def identity(*behind, shape=(2,), units=2, activation=None, loss=None, **arguments):
    """Returns a model of a Dense layer that returns its input, and the given layers."""
    dense = layers.Dense(units, activation, kernel_initializer="identity", **arguments)
    model = keras.Sequential([keras.Input(shape), dense, *behind])
    if loss is not None:
        model.compile("sgd", loss)
    return model


def with_shared_bias(slope, *bias):
    """Returns a model with the logits `(bias[0], bias[1] + slope * x)`."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(2)])
    model.set_weights([np.array([[0.0, slope]]), np.array(bias)])
    return model


@pytest.mark.parametrize("name", SLACKS)
def test_the_rounding_of_large_logits_proves_nothing(name):
    x = np.array([[0.9]], "float32")
    # The gap of 1.8e-4 is below 1e-6 of the logits; in float32 it is only three roundings.
    assert SLACKS[name].certify(with_shared_bias(2e-4, 1000.0, 1000.0), x).radii == 0.0
    # Neither does a gap that no input changes.
    assert SLACKS[name].certify(with_shared_bias(0.0, 1000.0, 1000.0005), x).radii == 0.0


@pytest.mark.parametrize("name", SLACKS)
def test_the_slack_is_a_millionth_of_the_largest_logit(name):
    """The gap is `0.75 / 64`, which float32 holds exactly, and the radius `(gap - slack) * 64`."""
    model = with_shared_bias(1 / 64, 1024.0, 1024.0)
    found = SLACKS[name].certify(model, np.array([[0.75]], "float32"))
    expected = 0.75 - 64e-6 * (1024.0 + 0.75 / 64)
    assert found.radii[0] == pytest.approx(expected, abs=1e-5)


@every_bound
@tiers.parametrize("behind", [layers.Identity, lambda: layers.Dropout(0.5)])
@tiers.parametrize("loss", [None, SPARSE])
def test_layers_that_return_their_input_change_no_radius(name, behind, loss):
    radii = METHODS[name].certify(identity(activation="softmax", loss=loss), X).radii
    found = METHODS[name].certify(identity(behind(), activation="softmax", loss=loss), X).radii
    np.testing.assert_array_equal(found, radii)
    expected = {"interval": 0.4, "lipschitz": 0.8 / 2**0.5}
    assert found[0] == pytest.approx(expected[name], rel=1e-5)


@every_bound
@pytest.mark.parametrize(
    "model",
    [
        identity(layers.Flatten(), activation="softmax", loss=SPARSE),
        identity(layers.Reshape((2,)), activation="softmax", loss=SPARSE),
        identity(loss=SPARSE),
        identity(units=1, shape=(1,), loss="binary_crossentropy"),
    ],
)
def test_bounds_of_probabilities_are_refused(name, model):
    x = X[:, : model.input_shape[-1]]
    with pytest.raises(ValueError, match="end the model with a softmax .*'.*crossentropy'"):
        METHODS[name].certify(model, x)


@every_bound
def test_without_a_loss_the_outputs_are_the_logits(name):
    """The true distances of the probabilities, taken as logits, are 0.4 and 0.566."""
    found = METHODS[name].certify(identity(layers.Flatten(), activation="softmax"), X)
    assert 0.1 < found.radii[0] <= {"interval": 0.4, "lipschitz": 0.8 / 2**0.5}[name]


def test_the_ibp_objective_refuses_them_too():
    with pytest.raises(ValueError, match="end the model with a softmax"):
        kr.objectives.IBP().check(identity(loss=SPARSE), kr.Linf(0.1))
    kr.objectives.IBP().check(identity(loss=SPARSE, activation="softmax"), kr.Linf(0.1))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_half_precision_is_refused(name, dtype):
    for model in (
        identity(dtype=dtype, name="low"),
        identity(keras.Sequential([keras.Input((2,)), layers.Flatten(dtype=dtype, name="low")])),
        identity(layers.SpectralNormalization(layers.Dense(2, dtype=dtype, name="low"))),
    ):
        with pytest.raises(ValueError, match="layer 'low' of class .* in b?float16"):
            METHODS[name].certify(model, X)
    with pytest.raises(ValueError, match="exact arithmetic"):
        kr.certification.exact_linear(identity(dtype=dtype), X, np.array([0]), kr.Linf(0.1))


@pytest.mark.parametrize("name", [*SLACKS, "complete"])
@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan])
def test_weights_that_are_not_finite_are_refused(name, value):
    """With the bias `-inf` the logits are finite, because of the ReLU."""
    inner = layers.Dense(2, "relu", kernel_initializer="identity", name="bad")
    model = identity(keras.Sequential([keras.Input((2,)), inner]), layers.Dense(2))
    inner.bias.assign([0.0, value])
    methods = {**SLACKS, "complete": kr.certification.Complete(0.1)}
    message = "Expected finite weights.*layer 'bad' of class Dense with 1 of 2 values of 'bias'"
    with refusals.assert_refused(message):
        methods[name].certify(model, X)


@pytest.mark.parametrize("name", ["interval", "lipschitz", "crown", "alpha_crown"])
def test_no_inputs_have_no_radii(name):
    methods = {**SLACKS, "alpha_crown": kr.certification.AlphaCrown()}
    found = methods[name].certify(identity(), X[:0], verbose=True)
    assert found.predictions.shape == found.radii.shape == (0,)
    assert (found.predictions.dtype, found.radii.dtype) == ("int64", "float64")


@pytest.mark.parametrize("name", METHODS)
def test_inputs_that_are_rounded_are_refused(name):
    model = keras.Sequential([keras.Input((2,), dtype="int32", name="i"), layers.Dense(2)])
    with pytest.raises(ValueError, match="layer 'i' of class InputLayer in int32"):
        METHODS[name].certify(model, X)


@backends.tensorflow_only("JAX makes no float64 layer unless its x64 mode is on")
@every_bound
def test_double_precision_is_fine(name):
    found = METHODS[name].certify(identity(dtype="float64"), X)
    assert found.radii == pytest.approx(METHODS[name].certify(identity(), X).radii)


@every_bound
@pytest.mark.parametrize("shape", [(2, 1), (3,)])
def test_examples_of_another_shape_are_refused(name, shape):
    with refusals.assert_refused(r"shape \(2,\), .* the model input. Received: .*shape \("):
        METHODS[name].certify(identity(), np.zeros((4, *shape), "float32"))


@every_bound
@pytest.mark.parametrize("outside", ["reject", "clip"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, [1.0, 0.5]), None])
def test_a_guard_in_front_changes_nothing_within_its_bounds(name, outside, bounds):
    guard = kr.layers.InputGuard(bounds, outside=outside)
    head = layers.Dense(2, kernel_initializer="identity")
    model = keras.Sequential([keras.Input((2,)), guard, head])
    x = np.array([[0.7, 0.3]], "float32")
    found = METHODS[name].certify(model, x).radii
    np.testing.assert_allclose(found, METHODS[name].certify(identity(), x).radii, rtol=1e-6)


@pytest.mark.parametrize("outside", ["reject", "clip"])
def test_behind_a_guard_a_box_ends_at_its_bounds(outside):
    """The logits `(2 x, 1)` tie at `x = 0.5`, which the guard never lets through."""
    guard = kr.layers.InputGuard((0.6, 1.0), outside=outside)
    model = keras.Sequential([keras.Input((1,)), guard, layers.Dense(2)])
    model.layers[-1].set_weights([np.array([[2.0, 0.0]]), np.array([0.0, 1.0])])
    x = np.array([[0.9]], "float32")
    method = Interval(None, max_radius=5.0)
    assert method.certify(model, x).radii[0] == 5.0
    plain = keras.Sequential([keras.Input((1,)), model.layers[-1]])
    assert method.certify(plain, x).radii[0] == pytest.approx(0.4, abs=1e-5)


def test_a_dict_of_one_input_and_one_output():
    inputs = keras.Input((2,), name="image")
    dense = layers.Dense(2, kernel_initializer="identity")
    model = keras.Model({"image": inputs}, {"label": dense(inputs)})
    for name, expected in {"interval": 0.4, "lipschitz": 0.8 / 2**0.5}.items():
        assert METHODS[name].certify(model, X).radii[0] == pytest.approx(expected, rel=1e-5)
