import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_robust import backend
from keras_robust import models
from keras_robust.certification import curves
from keras_robust.certification.backward_bounds import affine_parts
from keras_robust.certification.backward_bounds import backward_bound
from keras_robust.certification.bound_graph import bound_graph
from keras_robust.certification.curves import Lines
from keras_robust.certification.input_region import InputRegion
from keras_robust.certification.linear_bounds import LinearBounds
from tests.certification import bound_graph_test as examples
from tests.support import backends
from tests.support import tiers
from tests.support.bounded import sequential

RNG = np.random.default_rng(0)
RADII = {"Linf": 0.05, "L2": 0.2, "L1": 0.5}
ORDERS = {"Linf": np.inf, "L2": 2, "L1": 1}
DUALS = {"Linf": 1, "L2": 2, "L1": np.inf}
LABELS = np.array([0, 2])
LAYERS = {
    "humped": (layers.ELU, -0.6),
    "capped": (layers.ReLU, 0.7, 0.2),
    "elu": (layers.ELU, 0.6),
    "leaky": (layers.LeakyReLU, 1.5),
}


@pytest.fixture(autouse=True)
def _double_precision():
    with backend.double_precision():
        yield


@pytest.fixture
def not_compiled(monkeypatch):
    """Runs bounds of small models on TensorFlow in the time that compiling them would not take."""
    if backends.IS_JAX:
        return
    monkeypatch.setattr(LinearBounds, "_compile", lambda self, node, purpose, function: function)


def region_of(x, radius, bounds=None):
    radii = np.broadcast_to(radius, len(x))
    tensors = (ops.convert_to_tensor(part, "float64") for part in (x, radii))
    return InputRegion.around(*tensors, bounds)


def norms(values, order):
    return np.linalg.norm(np.reshape(values, (len(values), -1)), order, axis=-1)


def margins(model, x, labels):
    """Returns the largest margins of wrong classes, their gradients, and the size of the logits."""
    classifier = models.Classifier(model)
    own = ops.one_hot(labels, max(2, model.output_shape[-1]), dtype="bool")

    def values(x):
        logits = classifier.logits(x)
        right = ops.sum(ops.where(own, logits, 0.0), axis=-1)
        return ops.max(ops.where(own, -np.inf, logits), axis=-1) - right, logits

    x = ops.convert_to_tensor(x.astype("float32"))
    (found, logits), gradient = backend.value_and_input_gradient(values, x)
    parts = (np.asarray(part, "float64") for part in (found, gradient))
    return *parts, np.max(np.abs(logits))


def project(delta, radius, norm):
    """Returns changes that are in the ball: on its surface, if they are long."""
    if norm == "Linf":
        return np.clip(delta, -radius, radius)
    sizes = norms(delta, ORDERS[norm]).reshape(-1, *[1] * (delta.ndim - 1))
    return delta * np.minimum(1.0, radius / np.maximum(sizes, 1e-30))


def steepest(gradient, norm):
    """Returns the direction of length 1 in which a linear function grows most."""
    if norm == "Linf":
        return np.sign(gradient)
    if norm == "L1":
        sizes = np.abs(gradient).reshape(len(gradient), -1)
        largest = np.eye(sizes.shape[-1])[np.argmax(sizes, axis=-1)].reshape(gradient.shape)
        gradient = gradient * largest
    return gradient / norms(gradient, 2).reshape(-1, *[1] * (gradient.ndim - 1)).clip(1e-30)


def attacked(model, x, labels, radius, norm, bounds, rng, count=100, num_steps=6):
    """Returns the largest margins of random points, corners and gradient steps, and a tolerance."""
    delta = rng.normal(size=(len(x) * count, *x.shape[1:]))
    # With a share of the coordinates only, from very few to all of them.
    shares = np.tile(np.linspace(0.05, 1.0, count), len(x)).reshape(-1, *[1] * (x.ndim - 1))
    delta = np.where(rng.uniform(size=delta.shape) < shares, 100.0 * delta, 0.0)
    centre, labels = np.repeat(x, count, axis=0), np.repeat(labels, count)
    worst = -np.inf
    for _ in range(num_steps):
        point = centre + project(delta, radius, norm)
        if bounds is not None:
            point = np.clip(point, *bounds)
        found, gradient, size = margins(model, point, labels)
        worst = np.maximum(worst, found)
        delta = point - centre + 0.5 * radius * steepest(gradient, norm)
    return np.max(worst.reshape(len(x), count), axis=-1), 1e-5 * (1.0 + size)


def assert_sound(model, norm, rng, bounds=None, **iterations):
    """Asserts that no point is above a bound, and that the bound of a small ball is linear."""
    shape = model.input_shape[1:]
    x = rng.uniform(0.2, 0.8, size=(len(LABELS), *shape))
    radii = np.repeat([RADII[norm], 0.0, 1e-6], len(x))
    region = region_of(np.concatenate([x] * 3), radii, bounds)
    linear = LinearBounds(model, shape, norm, 256)
    found = linear.largest_margins(region, np.tile(LABELS, 3), **iterations)
    found, at_x, tiny = np.split(found, 3)
    worst, slack = attacked(model, x, LABELS, RADII[norm], norm, bounds, rng)
    assert np.all(worst <= found + slack), (worst, found)
    expected, gradient, _ = margins(model, x, LABELS)
    np.testing.assert_allclose(at_x, expected, rtol=0, atol=slack)
    slopes = norms(gradient, DUALS[norm])
    np.testing.assert_allclose((tiny - at_x) / 1e-6, slopes, rtol=1e-3, atol=1e-4)


def _rotating(names):
    """Cases of every norm, another norm for each name in the first."""
    names, shifted = list(names), list(RADII)
    for i, name in enumerate(names):
        yield from ((name, shifted[(i + j) % 3]) for j in range(3))


@tiers.parametrize(("name", "norm"), _rotating(examples.AFFINE), one_for=lambda name, norm: name)
def test_the_bound_of_an_affine_function_is_its_maximum(name, norm):
    model = examples.instance(examples.AFFINE[name])
    shape = model.input_shape[1:]
    node = bound_graph(model, shape, "float64")
    x, radius = RNG.normal(size=(3, *shape)), 0.3
    slopes = RNG.normal(size=(3, *node.shape))

    def values(x):
        return ops.sum(ops.reshape(slopes.astype("float32") * model(x), (3, -1)), axis=-1), ()

    inputs = ops.convert_to_tensor(x.astype("float32"))
    (at_x, _), gradient = backend.value_and_input_gradient(values, inputs)
    region, slopes_64 = region_of(x, radius), ops.convert_to_tensor(slopes)
    found = backward_bound(node, slopes_64, None, region, norm)
    assert "float64" in str(found.dtype)
    expected = np.asarray(at_x) + radius * norms(np.asarray(gradient), DUALS[norm])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_positive_slopes_pass_the_line_above_and_negative_ones_that_below():
    model = sequential(layers.Dense(2, activation="relu"), shape=(1,))
    model.set_weights([np.array([[1.0, 2.0]]), np.array([0.5, -0.5])])
    node = bound_graph(model, (1,), "float64")
    # The lines below are 0.1 h - 1 and 0.2 h - 2, those above 0.3 h + 3 and 0.4 h + 4.
    parts = [[0.1, 0.2], [-1.0, -2.0], [0.3, 0.4], [3.0, 4.0]]
    lines = Lines(*(ops.convert_to_tensor([part], "float64") for part in parts))
    # `x` is 1, and moves by at most 0.5.
    region = region_of(np.ones((1, 1)), 0.5)
    for slopes, expected in (([1.0, 0.0], 3.6), ([0.0, -1.0], 1.9), ([2.0, -1.0], 8.7)):
        slopes = ops.convert_to_tensor([slopes], "float64")
        found = backward_bound(node, slopes, lambda part: lines, region, "L2")
        assert float(found[0]) == pytest.approx(expected, rel=1e-9)


def _classifier(name):
    """Returns one of the example models, followed by a hidden layer."""
    if name in ("sigmoid", "softmax"):
        return examples.MODELS[name]()
    if name == "Softmax":
        return sequential(layers.Flatten(), layers.Dense(3), layers.Softmax())
    first = examples.MODELS[name]()
    head = layers.Flatten(), layers.Dense(5, activation="relu"), layers.Dense(3)
    return sequential(first, *head, shape=first.input_shape[1:])


# Those in the default tier have every rule but those of affine layers and of global pooling.
_FIRST = ("broadcast", "guard", "max same", "residual", "shared", "softmax", "sort", "two curves")
_OTHERS = [name for name in examples.OPTIONS if name not in _FIRST]
# A guard that rejects inputs is no function of all of them.
_OTHERS += [name for name in examples.CLASSES if name != "InputGuard"]


def _is_first(name, norm):
    return name if name in _FIRST else None


@tiers.parametrize(("name", "norm"), _rotating([*_FIRST, *_OTHERS]), one_for=_is_first)
def test_no_point_has_larger_margins_behind_a_layer(name, norm, not_compiled):
    assert_sound(_classifier(name), norm, RNG)


_ACTIVATIONS = {function.__name__: curve for function, curve in curves._CURVES.items()}


def _pieces(name, norm):
    return _ACTIVATIONS[name].pieces


@tiers.parametrize(("name", "norm"), _rotating(_ACTIVATIONS), one_for=_pieces)
def test_no_point_has_larger_margins_behind_an_activation(name, norm, not_compiled):
    model = sequential(layers.Dense(6, activation=name), layers.Dense(3), shape=(4,))
    assert_sound(model, norm, RNG)


@tiers.parametrize(("name", "norm"), _rotating(LAYERS))
def test_no_point_has_larger_margins_behind_an_activation_with_arguments(name, norm, not_compiled):
    cls, *arguments = LAYERS[name]
    model = sequential(layers.Dense(6), cls(*arguments), layers.Dense(3), shape=(4,))
    assert_sound(model, norm, RNG)


@tiers.parametrize("norm", ["L1", "L2", "Linf"])
def test_no_point_of_a_box_has_larger_margins(norm, not_compiled):
    head = layers.Flatten(), layers.Dense(6, activation="relu"), layers.Dense(3)
    model = sequential(layers.Conv2D(3, 2, activation="relu"), *head)
    assert_sound(model, norm, RNG, bounds=(0.2, [0.8, 0.85]))


def test_affine_parts_end_at_the_curves():
    first, second = layers.Dense(4, activation="relu"), layers.Dense(3)
    model = sequential(first, second, shape=(2,))
    node = bound_graph(model, (2,), "float64")
    slopes = RNG.normal(size=(5, 3))
    parts, offset = affine_parts(node, ops.convert_to_tensor(slopes))
    (number,) = parts
    kernel, bias = second.get_weights()
    assert number == node.inputs[0].number and node.inputs[0].curve is curves.RELU
    np.testing.assert_allclose(parts[number], slopes @ kernel.T, rtol=1e-6)
    np.testing.assert_allclose(offset, slopes @ bias, rtol=1e-6)
    # A residual connection reaches both the curve and the input.
    inputs = keras.Input((2,))
    hidden = layers.Dense(2, activation="relu")(inputs)
    node = bound_graph(keras.Model(inputs, layers.Add()([hidden, inputs])), (2,), "float64")
    parts, offset = affine_parts(node, ops.convert_to_tensor(slopes[:, :2]))
    assert sorted(parts) == sorted([node.ancestors()[0].number, node.inputs[0].number])
    for part in parts.values():
        np.testing.assert_array_equal(part, slopes[:, :2])
    np.testing.assert_array_equal(offset, np.zeros(5))
