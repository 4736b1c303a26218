import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_robust as kr
from keras_robust import backend
from keras_robust.certification import bound_graph as graphs
from keras_robust.certification import curves
from keras_robust.certification import interval_rules
from keras_robust.certification.bound_graph import bound_graph
from keras_robust.certification.curves import curve_of_activation
from keras_robust.certification.interval_bounds import IntervalBounds
from tests.support import tiers
from tests.support.bounded import randomise
from tests.support.bounded import sequential

RNG = np.random.default_rng(0)
IMAGE = (4, 3, 2)
# For one, two and three axes in front of the channels.
SHAPES = {"1": (6, 3), "2": IMAGE, "3": (3, 3, 3, 2)}
# The arguments of each class, which is here without its number of axes.
ARGUMENTS = {
    "Activation": ("linear",),
    "ActivityRegularization": (0.1,),
    "AlphaDropout": (0.5,),
    "AveragePooling": (2,),
    "Conv": (3, 2),
    "Cropping": (1,),
    "Dense": (4,),
    "Dropout": (0.5,),
    "GaussianDropout": (0.5,),
    "GaussianNoise": (0.5,),
    "InputGuard": ((0.2, 0.7),),
    "MaxPooling": (2,),
    "Normalization": (-1, [0.2, 0.5], [0.1, 2.0]),
    "OrthogonalConv": (3, 2),
    "Permute": ((3, 1, 2),),
    "Reshape": ((6, 4),),
    "Rescaling": (-1.5, 0.3),
    "SpatialDropout": (0.5,),
    "SpectralDense": (4,),
    "UpSampling": (2,),
    "ZeroPadding": (1,),
}
MERGES = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Subtract")


def instance(cls):
    """Returns a model that is one layer of a class, with random weights."""
    name, axes = cls.__name__, "2"
    if name.endswith("D"):
        name, axes = name[:-2], name[-2]
    shape, arguments = SHAPES[axes], ARGUMENTS.get(name, ())
    if cls is layers.RepeatVector:
        shape, arguments = (4,), (3,)
    x = keras.Input(shape)
    layer = cls(*arguments)
    parts = [x, layers.Conv2D(2, 1)(x)] if name in MERGES else x
    return randomise(keras.Model(x, layer(parts)))


def _with(function, shape=IMAGE):
    return randomise(keras.Model(x := keras.Input(shape), function(x)))


def _residual(x):
    inner = layers.Conv2D(2, 3, padding="same", activation="relu")(x)
    return layers.ReLU()(layers.Add()([x, layers.Conv2D(2, 1)(inner), inner]))


def _broadcast(x):
    return layers.Maximum()([x, layers.Conv2D(1, 1)(x), layers.Rescaling(-1.0)(x)])


def _shared(x):
    dense = layers.Dense(2, activation="relu")
    inner = keras.Sequential([keras.Input(IMAGE), layers.Conv2D(2, 2, padding="same"), dense])
    return inner(layers.Minimum()([dense(x), inner(x)]))


# Options of layers, and layers together.
OPTIONS = {
    "average same": lambda x: layers.AveragePooling2D((3, 2), strides=2, padding="same")(x),
    "batch norm axis": lambda x: layers.BatchNormalization(axis=1, scale=False)(x),
    "broadcast": _broadcast,
    "concatenate": lambda x: layers.Concatenate(axis=1)([x, layers.ReLU()(x)]),
    "dilated": lambda x: layers.Conv2D(4, (2, 3), dilation_rate=2, groups=2, padding="same")(x),
    "global max": lambda x: layers.GlobalMaxPooling2D(keepdims=True)(x),
    "global max first": lambda x: layers.GlobalMaxPooling2D("channels_first", keepdims=True)(x),
    "guard": lambda x: kr.layers.InputGuard(([0.1, 0.4], [0.6, 1.0]), outside="clip")(x),
    "inverse": lambda x: layers.Normalization(mean=0.3, variance=0.2, invert=True)(x),
    "max first": lambda x: layers.MaxPooling2D((1, 2), data_format="channels_first")(x),
    "max overlap": lambda x: layers.MaxPooling2D((3, 2), strides=(2, 1))(x),
    "max same": lambda x: layers.MaxPooling2D(3, strides=(2, 3), padding="same")(x),
    "max sparse": lambda x: layers.MaxPooling2D((1, 2), strides=(3, 4), padding="same")(x),
    "open guard": lambda x: kr.layers.InputGuard(None)(x),
    "residual": _residual,
    "shared": _shared,
    "sigmoid": lambda x: layers.Dense(3, activation="sigmoid")(layers.Flatten()(x)),
    "softmax": lambda x: layers.Dense(3, activation="softmax")(layers.Flatten()(x)),
    "sort": lambda x: kr.layers.GroupSort()(layers.Conv2D(6, 1, activation="elu")(x)),
    "two curves": lambda x: layers.ReLU(0.5)(layers.ELU()(layers.Conv2D(2, 1)(x))),
}
CLASSES = {cls.__name__: cls for cls in graphs._RULES}
AFFINE = {name: cls for name, cls in CLASSES.items() if graphs._RULES[cls] is graphs._Tracer.layer}
MODELS = {name: lambda cls=cls: instance(cls) for name, cls in CLASSES.items()}
MODELS |= {name: lambda make=make: _with(make) for name, make in OPTIONS.items()}
every_affine_layer = pytest.mark.parametrize("name", AFFINE)


@pytest.fixture(autouse=True)
def _double_precision():
    with backend.double_precision():
        yield


def _values(node, x):
    """Returns the values of all nodes at inputs, by number, and checks the intervals of a box."""
    found, boxes = {}, {}
    x = ops.convert_to_tensor(x, "float64")
    ends = (ops.expand_dims(end(x, axis=0), 0) for end in (ops.min, ops.max))
    for part in node.ancestors():
        before = [found[source.number] for source in part.inputs]
        inner = [boxes[source.number] for source in part.inputs]
        if not part.inputs:
            found[part.number], boxes[part.number] = x, IntervalBounds(*ends)
        elif part.interval is None:
            found[part.number] = ops.softmax(*before)
            continue
        else:
            function = part.function if part.curve is None else part.curve.function
            found[part.number], boxes[part.number] = function(*before), part.interval(*inner)
        value, box = found[part.number], boxes[part.number]
        assert np.all(value >= box.lower - 1e-9) and np.all(value <= box.upper + 1e-9)
        assert part.shape == tuple(value.shape[1:]) == tuple(box.lower.shape[1:])
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_nodes_compute_what_the_model_computes_and_stay_in_their_boxes(name):
    model = MODELS[name]()
    x = RNG.uniform(size=(7, *model.input_shape[1:]))
    if name == "InputGuard":
        x = np.clip(x, *ARGUMENTS[name][0])
    node = bound_graph(model, x.shape[1:], "float64")
    found = _values(node, x)[node.number]
    assert "float64" in str(found.dtype)
    expected = np.asarray(model(x.astype("float32")))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@every_affine_layer
def test_layers_with_the_affine_rule_are_affine(name):
    model = instance(AFFINE[name])
    ends = RNG.normal(size=(2, 5, *model.input_shape[1:])).astype("float32")
    first, second, middle = (np.asarray(model(x)) for x in (*ends, np.mean(ends, axis=0)))
    size = np.max(np.abs([first, second]))
    np.testing.assert_allclose(middle, (first + second) / 2, rtol=0, atol=1e-5 * size)
    assert np.max(np.abs(first - second)) > 0.1 * size


@tiers.parametrize("name", AFFINE, one_for=lambda name: interval_rules._RULES[AFFINE[name]])
def test_affine_functions_are_computed_in_double_precision(name):
    model = instance(AFFINE[name])
    node = bound_graph(model, model.input_shape[1:], "float64")
    # The input itself is a node without a function, where a layer does nothing in inference.
    function = node.function or (lambda x: x)
    inputs = [
        [RNG.normal(size=(5, *source.shape)) for source in node.inputs or [node]] for _ in range(2)
    ]
    first, second, middle = (
        np.asarray(function(*map(ops.convert_to_tensor, arguments)))
        for arguments in (*inputs, [(a + b) / 2 for a, b in zip(*inputs, strict=True)])
    )
    size = np.max(np.abs([first, second]))
    np.testing.assert_allclose(middle, (first + second) / 2, rtol=0, atol=1e-13 * size)


def test_every_layer_that_intervals_know_is_known():
    assert set(interval_rules._RULES) <= set(graphs._RULES)
    assert len(graphs._RULES) >= 54


def test_final_activations_tell_their_logits():
    for name in ("softmax", "sigmoid"):
        dense = layers.Dense(3, activation=name)
        model = sequential(dense, shape=(2,))
        node = bound_graph(model, (2,), "float64")
        x = np.array([[0.3, -0.8]])
        kernel, bias = dense.get_weights()
        found = _values(node.logits, x)[node.logits.number]
        np.testing.assert_allclose(found, x @ kernel + bias, rtol=1e-6)
    assert bound_graph(sequential(layers.Dense(3), shape=(2,)), (2,), "float64").logits is None
    last = bound_graph(sequential(layers.Softmax(), shape=(2,)), (2,), "float64")
    assert last.logits is last.inputs[0]


def test_activations_are_the_curves_of_keras():
    dense = layers.Dense(3, activation="gelu")
    node = bound_graph(sequential(dense, shape=(2,)), (2,), "float32")
    assert node.curve is curve_of_activation(dense, keras.activations.gelu)
    assert node.inputs[0].offset.dtype == "float32"
    larger = bound_graph(instance(layers.Maximum), IMAGE, "float64").inputs[1]
    assert larger.curve is curves.RELU and larger.inputs[0].curve is None


def test_nodes_come_after_their_inputs_and_once():
    node = bound_graph(_with(_shared), IMAGE, "float64")
    numbers = [part.number for part in node.ancestors()]
    assert numbers == sorted(set(numbers)) and numbers[-1] == node.number
    for part in node.ancestors():
        assert all(source.number in numbers[: numbers.index(part.number)] for source in part.inputs)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.LayerNormalization(name="a"), "linear bound.*layer 'a' of class LayerNorm"),
        (layers.Dense(3, activation="mish", name="b"), "linear bound.*mish in layer 'b'"),
        (layers.ReLU(threshold=0.1, name="c"), "linear bound with a threshold.*'c' of class ReLU"),
        (layers.Softmax(axis=1, name="d"), "linear bound with another axis.*layer 'd' of class"),
        (kr.layers.BitDepth(3, name="e"), "linear bound.*layer 'e' of class BitDepth"),
    ],
)
def test_other_layers_are_refused_by_name(layer, message):
    with pytest.raises(ValueError, match=f"No {message}"):
        bound_graph(sequential(layer), IMAGE, "float64")


def test_layers_that_only_compute_something_else_here_are_refused():
    class Odd(layers.Dense):
        def call(self, x):
            return -super().call(x)

    for layer, shape, message in (
        (Odd(2, name="a"), (3,), "linear bound .*layer 'a' of class Odd"),
        (kr.layers.GroupSort(3, name="b"), (6,), "group_size other than 2.*'b' of class GroupS"),
        (layers.Conv1D(2, 2, padding="causal", name="c"), (5, 2), "padding='causal'.*'c' of class"),
    ):
        with pytest.raises(ValueError, match=f"No .*{message}"):
            bound_graph(sequential(layer, shape=shape), shape, "float64")


@pytest.mark.parametrize(
    "after", [layers.Identity(name="z"), layers.Softmax(name="z"), layers.Dense(2, name="z")]
)
def test_a_softmax_inside_a_model_is_refused(after):
    model = sequential(layers.Dense(3, activation="softmax"), after, shape=(4,))
    with pytest.raises(ValueError, match="linear bound after a softmax.*layer 'z' of class"):
        bound_graph(model, (4,), "float64")


def test_a_sigmoid_inside_a_model_is_a_curve():
    model = sequential(layers.Dense(3, activation="sigmoid"), layers.Dense(2), shape=(4,))
    node = bound_graph(model, (4,), "float64")
    sigmoid = curves._CURVES[keras.activations.sigmoid]
    assert node.logits is None and node.inputs[0].curve is sigmoid


@pytest.mark.parametrize("merge", [layers.Subtract, layers.Maximum, layers.Minimum])
def test_merged_tensors_may_have_different_numbers_of_axes(merge):
    def merged(x):
        return merge()([layers.Dense(3)(x), layers.Reshape((2, 3))(x)])

    model = _with(merged, (6,))
    x = RNG.normal(size=(2, 6))
    node = bound_graph(model, (6,), "float64")
    found = _values(node, x)[node.number]
    np.testing.assert_allclose(found, model(x.astype("float32")), rtol=1e-4, atol=1e-4)
