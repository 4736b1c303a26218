import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from keras_robust.certification import affine
from tests.support import backends
from tests.support import gradients
from tests.support import linear_model
from tests.support import tiers

_RNG = np.random.default_rng(21)
SHAPE = (2, 3)
KERNEL = _RNG.normal(size=(6, 4)).astype("float32")
BIAS = _RNG.normal(size=4).astype("float32")
X = _RNG.beta(0.5, 0.5, size=(5, *SHAPE)).astype("float32")
Y = np.array([3, 0, 1, 2, 0])
EPSILON = {"Linf": 0.15, "L2": 0.6, "L1": 0.9}
NORMS = tuple(EPSILON)
BOUNDS = {"box": (0.0, 1.0), "free": None}


def model(*layers, classes=4, **arguments):
    head = keras.layers.Dense(classes, **arguments)
    network = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), *layers, head])
    head.set_weights([KERNEL[:, :classes], BIAS[:classes]])
    return network


def margins(kernel, bias, norm, bounds):
    """Returns the worst margins in float64, `(n, num_classes)`."""
    x, low, high = X.reshape(5, 6).astype("float64"), *(bounds or (-np.inf, np.inf))
    z, columns = x @ kernel + bias, []
    for j in range(4):
        gain = linear_model.largest_gain(
            (kernel[:, [j]] - kernel[:, Y]).T, x, norm, EPSILON[norm], low, high
        )
        columns.append(z[:, j] - z[np.arange(5), Y] + gain)
    return np.stack(columns, axis=-1)


def lowest(norm, bounds):
    """Returns the lowest feasible logit of the true class, `(n,)`."""
    x, low, high = X.reshape(5, 6).astype("float64"), *(bounds or (-np.inf, np.inf))
    gain = linear_model.largest_gain(-KERNEL[:, Y].T, x, norm, EPSILON[norm], low, high)
    return (x @ KERNEL + BIAS)[np.arange(5), Y] - gain


def found(function, network, norm, bounds):
    classifier, x = models.Classifier(network), keras.ops.convert_to_tensor(X)
    ball = getattr(kr, norm)(EPSILON[norm], bounds)
    slopes = affine.slopes(classifier, x)
    return function(classifier.logits(x), slopes, x, keras.ops.convert_to_tensor(Y), ball)


def test_slopes_are_the_columns_of_the_kernel():
    slopes = affine.slopes(models.Classifier(model()), keras.ops.convert_to_tensor(X))
    assert slopes.shape == (4, *SHAPE)
    np.testing.assert_allclose(slopes, KERNEL.T.reshape(4, *SHAPE), rtol=1e-6)


def test_slopes_include_the_layers_before_the_last():
    layers = [keras.layers.Rescaling(1 / 4, offset=3.0), keras.layers.Dense(6)]
    network = model(*layers)
    slopes = affine.slopes(models.Classifier(network), keras.ops.convert_to_tensor(X[2:]))
    expected = 0.25 * layers[1].get_weights()[0] @ KERNEL
    np.testing.assert_allclose(slopes, expected.T.reshape(4, *SHAPE), rtol=1e-5, atol=1e-6)


def test_slopes_of_a_single_logit():
    slopes = affine.slopes(models.Classifier(model(classes=1)), keras.ops.convert_to_tensor(X))
    expected = np.stack([np.zeros(6), KERNEL[:, 0]]).reshape(2, *SHAPE)
    np.testing.assert_allclose(slopes, expected, rtol=1e-6)


def test_slopes_have_a_gradient():
    network = model()
    factor = np.arange(24.0, dtype="float32").reshape(4, *SHAPE)

    def compute():
        return keras.ops.sum(
            factor * affine.slopes(models.Classifier(network), keras.ops.convert_to_tensor(X))
        )

    total, slopes = gradients.of(compute, network.trainable_weights)
    np.testing.assert_allclose(slopes[0], factor.reshape(4, 6).T, rtol=1e-6)
    assert slopes[1] is None or not np.any(slopes[1])


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("norm", NORMS)
def test_worst_margins_are_the_closed_form(norm, bounds):
    values = found(affine.worst_margins, model(), norm, bounds)
    expected = margins(KERNEL.astype("float64"), BIAS, norm, bounds)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(np.asarray(values)[np.arange(5), Y], 0.0)


@tiers.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@tiers.parametrize("norm", NORMS)
def test_the_gradient_of_worst_margins_is_that_of_the_maximum(norm, bounds):
    network, factor = model(), _RNG.normal(size=(5, 4)).astype("float32")

    def compute():
        return keras.ops.sum(factor * found(affine.worst_margins, network, norm, bounds))

    total, slopes = gradients.of(compute, network.trainable_weights)
    for direction in _RNG.normal(size=(3, 7, 4)):
        kernel, bias = direction[:6], direction[6]

        def value(size, kernel=kernel, bias=bias):
            moved = margins(KERNEL + size * kernel, BIAS + size * bias, norm, bounds)
            return np.sum(factor * moved)

        expected = (value(1e-5) - value(-1e-5)) / 2e-5
        slope = np.sum(slopes[0] * kernel) + np.sum(slopes[1] * bias)
        assert slope == pytest.approx(expected, rel=1e-4, abs=1e-4)


@tiers.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@tiers.parametrize("norm", NORMS)
def test_worst_logits_add_the_lowest_true_logit(norm, bounds):
    values = found(affine.worst_logits, model(), norm, bounds)
    expected = lowest(norm, bounds)[:, None] + margins(KERNEL, BIAS, norm, bounds)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=2e-6)


def test_no_gradient_flows_through_the_maximizer():
    x = keras.ops.convert_to_tensor(X)

    def compute(x):
        network = model()
        slopes = affine.slopes(models.Classifier(network), x)
        logits = keras.ops.zeros((5, 4))
        return affine.worst_margins(logits, slopes, x, keras.ops.convert_to_tensor(Y), kr.L2(0.6))

    _, slopes = gradients.of(compute, x)
    # On JAX a missing gradient is zero.
    assert not np.any(slopes) if backends.IS_JAX else slopes is None


@tiers.parametrize(
    "layers",
    [
        [],
        [keras.layers.Rescaling(1 / 127.5, offset=-1.0)],
        [keras.layers.Normalization(mean=[0.5] * 6, variance=[0.1] * 6)],
        [keras.layers.Dense(6)],
        [keras.layers.Reshape((2, 3)), keras.layers.AveragePooling1D(1), keras.layers.Flatten()],
    ],
)
@tiers.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), ([-1.0, 0.0, 2.0], 3.0), None])
def test_affine_models_pass(layers, bounds):
    affine.check_affine(model(*layers), SHAPE, kr.Linf(0.1, bounds))


def test_callables_and_softmax_models_pass():
    affine.check_affine(lambda x: x[:, 0, :2] - 3.0, SHAPE, kr.Linf(0.1))
    affine.check_affine(model(activation="softmax"), SHAPE, kr.Linf(0.1))


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dense(6, activation="relu"),
        keras.layers.Activation("tanh"),
        keras.layers.Dropout(0.1),
        keras.layers.BatchNormalization(),
    ],
)
def test_other_models_are_refused_and_do_not_change(layer):
    network = model(layer)
    before = network.get_weights()
    message = (
        r"no Dropout and no BatchNormalization\. Train another model with the objective "
        r'"adversarial".*Received: logits of up to [\d.]+ that differ .* by up to [\d.]+'
    )
    with pytest.raises(ValueError, match=message):
        affine.check_affine(network, SHAPE, kr.Linf(0.1))
    for value, old in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_a_kink_in_a_corner_of_the_box_is_detected():
    # Bends only if nearly all features are high, as uniform points of 100 features never are.
    def bent(x):
        total = keras.ops.sum(x, axis=-1, keepdims=True)
        return keras.ops.concatenate([total, keras.ops.relu(total - 80.0)], axis=-1)

    with pytest.raises(ValueError, match="affine"):
        affine.check_affine(bent, (100,), kr.Linf(0.1))


@pytest.mark.parametrize("slope", [0.2, 0.0])
def test_a_shared_bias_does_not_hide_a_kink_that_changes_the_class(slope):
    """The margin of class 1 is `0.1 x - 0.03` plus a kink at 0.5 of the given slope."""
    dense = keras.layers.Dense
    network = keras.Sequential([keras.Input((1,)), dense(2, "relu"), dense(2)])
    hidden = [np.ones((1, 2)), np.array([0.0, -0.5])]
    network.set_weights([*hidden, np.array([[0.0, 0.1], [0.0, slope]]), np.array([1e3, 999.97])])
    if slope:
        with pytest.raises(ValueError, match="affine"):
            affine.check_affine(network, (1,), kr.Linf(0.1))
    else:
        affine.check_affine(network, (1,), kr.Linf(0.1))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("bias", [0.0, 100.0])
def test_the_rounding_of_half_precision_is_no_kink(dtype, bias):
    keras.config.set_dtype_policy(dtype)
    try:
        head = keras.layers.Dense(3, bias_initializer=keras.initializers.Constant(bias))
        low = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32), head])
    finally:
        keras.config.set_dtype_policy("float32")
    affine.check_affine(low, (64,), kr.Linf(0.1))


def test_without_bounds_the_examples_give_the_range():
    def bent(x):
        return keras.ops.concatenate([x, keras.ops.relu(x - 100.0)], axis=-1)

    affine.check_affine(bent, (1,), kr.L2(0.1, bounds=None))
    with pytest.raises(ValueError, match="affine"):
        affine.check_affine(bent, (1,), kr.L2(0.1, bounds=None), x=np.array([[95.0]]))
    with pytest.raises(ValueError, match="affine"):
        data = np.array([[95.0]], "float32"), np.array([0])
        kr.certify(bent, data, "linear", norm="L2", bounds=None)


def test_nan_logits_are_refused():
    with pytest.raises(ValueError, match="affine"):
        affine.check_affine(lambda x: x[:, 0] * float("nan"), SHAPE, kr.Linf(0.1))


def test_threat_models_at_a_layer_are_refused():
    hidden = kr.threat_models.AtLayer("dense", kr.L2(0.1, None))
    with pytest.raises(ValueError, match="for threat models of a single input.*AtLayer"):
        affine.check_affine(model(), SHAPE, hidden)
