import fractions
import re

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.export import vnnlib
from tests.export.inputs_test import two_inputs
from tests.export.portable_test import available
from tests.export.portable_test import made_from_graphs
from tests.support import refusals
from tests.support import small_models

FEATURES = [[0.25, 0.5, 1.0, 0.0], [0.875, 0.125, 0.75, 0.5]]
# Warnings of the converter itself.
pytestmark = pytest.mark.filterwarnings("ignore")


def parse(file):
    """Returns the statements of a VNN-LIB file as nested lists of words."""
    stack = [[]]
    for word in re.findall(r"[()]|[^\s()]+", re.sub(";.*", "", file.read_text())):
        if word == "(":
            stack.append([])
        elif word == ")":
            inner = stack.pop()
            stack[-1].append(inner)
        else:
            stack[-1].append(word)
    (statements,) = stack
    return statements


def box_of(file):
    """Returns the words of the lower and the upper ends, in the order of the declared inputs."""
    statements = parse(file)
    names = [one[1] for one in statements if one[0] == "declare-const" and one[1][0] == "X"]
    assert names == [f"X_{place}" for place in range(len(names))]
    compared = (one[1] for one in statements if one[0] == "assert" and one[1][0] != "or")
    ends = {(sign, name): end for sign, name, end in compared}
    return [[ends[sign, name] for name in names] for sign in (">=", "<=")]


def ends_of(path, x):
    """Returns the lower and the upper ends of all boxes, float64 and shaped like `x`."""
    boxes = [box_of(path / f"vnnlib/example_{row}.vnnlib") for row in range(len(x))]
    return np.array(boxes, "float64").swapaxes(0, 1).reshape(2, *x.shape)


def holds(expression, values):
    """Returns whether an assertion is true."""
    head, *rest = expression
    if head in ("and", "or"):
        return {"and": all, "or": any}[head](holds(one, values) for one in rest)
    left, right = (values[one] if one in values else float(one) for one in rest)
    return {">=": left >= right, "<=": left <= right}[head]


def is_counterexample(file, x, outputs):
    """Returns whether a point and the outputs there make every assertion true."""
    values = {f"{kind}_{k}": v for kind, a in (("X", x), ("Y", outputs)) for k, v in enumerate(a)}
    statements = parse(file)
    declared = {one[1] for one in statements if one[0] == "declare-const"}
    assert declared == set(values)
    return all(holds(one[1], values) for one in statements if one[0] == "assert")


@pytest.fixture
def without_network(monkeypatch):
    """Writes no network, which needs other packages, and makes the properties alone."""
    monkeypatch.setattr(vnnlib, "check_format", lambda format: None)

    def outputs_of(model, file, x, spec):
        return model.output_shape[-1]

    monkeypatch.setattr(vnnlib, "_write_network", outputs_of)


def linear(size=4, num_outputs=3, **arguments):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((size,)), keras.layers.Dense(num_outputs, **arguments)])


def test_the_files_of_two_examples(tmp_path, without_network):
    x = np.array([[0.25, 1.0], [0.5, 0.0]], "float32")
    path = kr.export.export_vnnlib(
        linear(2), x, [2, 0], kr.Linf(0.125), tmp_path / "digits", timeout=60
    )
    assert path == tmp_path / "digits"
    assert (path / "instances.csv").read_text() == (
        "onnx/model.onnx,vnnlib/example_0.vnnlib,60\nonnx/model.onnx,vnnlib/example_1.vnnlib,60\n"
    )
    assert (path / "vnnlib/example_0.vnnlib").read_text() == (
        "; Example 0, label 2\n"
        "(declare-const X_0 Real)\n(declare-const X_1 Real)\n"
        "(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n(declare-const Y_2 Real)\n"
        "(assert (>= X_0 0.125))\n(assert (<= X_0 0.375))\n"
        "(assert (>= X_1 0.875))\n(assert (<= X_1 1.0))\n"
        "(assert (or\n    (and (>= Y_0 Y_2))\n    (and (>= Y_1 Y_2))\n))\n"
    )
    assert parse(path / "vnnlib/example_1.vnnlib")[5:] == [
        ["assert", [">=", "X_0", "0.375"]],
        ["assert", ["<=", "X_0", "0.625"]],
        ["assert", [">=", "X_1", "0.0"]],
        ["assert", ["<=", "X_1", "0.125"]],
        ["assert", ["or", ["and", [">=", "Y_1", "Y_0"]], ["and", [">=", "Y_2", "Y_0"]]]],
    ]


@pytest.mark.parametrize(
    ("arguments", "y", "unsafe"),
    [
        ({"num_outputs": 1, "activation": "sigmoid"}, [0, 1], [">= Y_0 0.0", "<= Y_0 0.0"]),
        ({"num_outputs": 2}, [[0, 1], [1, 0]], ["or and >= Y_0 Y_1", "or and >= Y_1 Y_0"]),
    ],
    ids=["one output", "two outputs and rows of labels"],
)
def test_binary_models(tmp_path, without_network, arguments, y, unsafe):
    path = kr.export.export_vnnlib(linear(**arguments), FEATURES, y, "linf", tmp_path / "1")
    for row, words in enumerate(unsafe):
        last = parse(path / f"vnnlib/example_{row}.vnnlib")[-1]
        assert re.findall(r"[^\s\[\]',]+", str(last)) == ["assert", *words.split()]


_FOUR = np.array([0.1, 0.0, 0.3, 1e-6])
_DECAY = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)


@pytest.mark.parametrize(
    ("threat_model", "radii", "low", "high"),
    [
        (kr.Linf("8/255"), 8 / 255, 0.0, 1.0),
        (kr.Linf(_FOUR), _FOUR, 0.0, 1.0),
        (kr.Linf(np.array([[0.1], [0.2]])), [[0.1], [0.2]], 0.0, 1.0),
        (kr.Linf(0.1, bounds=(-0.5, [1.0, 2.0, 1.0, 0.0])), 0.1, -0.5, [1.0, 2.0, 1.0, 0.0]),
        (kr.Linf(0.7, bounds=None), 0.7, -9.0, 9.0),
        (kr.Linf(_DECAY).at(2), 0.125, 0.0, 1.0),
    ],
    ids=["number", "per feature", "per example", "bounds", "no bounds", "schedule at a step"],
)
def test_boxes_are_the_feasible_sets(tmp_path, without_network, threat_model, radii, low, high):
    x = np.array(FEATURES, "float32") * np.float32(0.9)
    x[:, 3] = np.minimum(x[:, 3], np.broadcast_to(high, 4)[3])
    path = kr.export.export_vnnlib(linear(), x, [0, 2], threat_model, tmp_path / "1")
    words = [box_of(path / f"vnnlib/example_{row}.vnnlib") for row in range(2)]
    assert not any("e" in word for word in np.ravel(words))
    lower, upper = ends_of(path, x)
    exact = np.vectorize(fractions.Fraction, otypes=[object])
    centre, radius = exact(x.astype("float64")), exact(radii)
    # Each end is rounded once, here by half a unit in the last place of float64 at most.
    error = exact(lower) - np.maximum(centre - radius, exact(low))
    assert np.abs(error).max() <= fractions.Fraction(2.0**-53)
    error = exact(upper) - np.minimum(centre + radius, exact(high))
    assert np.abs(error).max() <= fractions.Fraction(2.0**-53)
    for corner, step in ((lower, -1e-3), (upper, 1e-3)):
        assert np.all(threat_model.contains(corner.astype("float32"), x))
        assert not np.any(threat_model.contains((corner + step).astype("float32"), x))


def _run(path, x):
    """Returns the logits that ONNX Runtime computes for one example after the other."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path / "onnx" / "model.onnx"))
    (network_input,), (output,) = session.get_inputs(), session.get_outputs()
    assert network_input.shape == [1, *x.shape[1:]] and output.shape[0] == 1
    rows = [session.run(None, {network_input.name: one[None]})[0][0] for one in x]
    return np.array(rows)


@pytest.mark.exhaustive
@made_from_graphs
def test_the_property_is_true_where_the_model_is_wrong(tmp_path):
    available("onnx")
    model = small_models.convolution()
    x, y = small_models.images(model)
    ball = kr.Linf(0.15)
    path = kr.export.export_vnnlib(model, x, y, ball, tmp_path / "1")
    found = kr.attacks.PGD(num_steps=20, num_restarts=2).run(model, x, y, ball)
    noise = np.random.default_rng(0).uniform(-0.15, 0.15, size=(20, *x.shape)).astype("float32")
    points = [x, np.asarray(found.x_adv), *np.clip(x + noise, 0.0, 1.0)]
    count = 0
    for point in points:
        logits = _run(path, point)
        np.testing.assert_allclose(logits, model.predict(point, verbose=0), atol=1e-4)
        # Within the box in float64, as a verifier has it.
        inside = np.clip(point.astype("float64"), *ends_of(path, x))
        np.testing.assert_allclose(inside, point, atol=1e-7)
        for row, label in enumerate(y):
            file = path / f"vnnlib/example_{row}.vnnlib"
            wrong = logits[row].argmax() != label
            assert is_counterexample(file, inside[row].ravel(), logits[row]) == wrong
            count += wrong
        # A wrong point outside of the box is no counterexample.
        file = path / "vnnlib/example_8.vnnlib"
        wrong = np.eye(3)[(y[8] + 1) % 3]
        assert is_counterexample(file, inside[8].ravel(), wrong)
        assert not is_counterexample(file, inside[8].ravel() + 0.31, wrong)
    success = np.asarray(found.success)
    assert 2 < success.sum() < 9 and 2 * len(points) < count < 9 * len(points)


@pytest.mark.exhaustive
@made_from_graphs
def test_a_softmax_has_its_logits(tmp_path):
    available("onnx")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.layers[-1].set_weights([np.eye(4, 3) * 50.0, np.array([0.0, 1.0, -1.0])])
    x = np.array(FEATURES, "float32")
    path = kr.export.export_vnnlib(model, x, [2, 0], kr.Linf(0.1), tmp_path / "1")
    np.testing.assert_allclose(_run(path, x), [[12.5, 26.0, 49.0], [43.75, 7.25, 36.5]], atol=1e-4)


@pytest.mark.exhaustive
@made_from_graphs
def test_a_sigmoid_of_a_named_input(tmp_path):
    available("onnx")
    given = keras.Input((4,), name="table of 4")
    head = keras.layers.Dense(1, activation="sigmoid")
    model = keras.Model({"table of 4": given}, head(given))
    head.set_weights([np.array([[4.0], [0.0], [-1.0], [0.0]]), np.array([-0.25])])
    model.compile("sgd", "binary_crossentropy")
    x = np.array(FEATURES, "float32")
    path = kr.export.export_vnnlib(
        model, {"table of 4": x}, [[0], [1]], kr.Linf(0.2), tmp_path / "1"
    )
    logits = _run(path, x)
    np.testing.assert_allclose(logits, [[-0.25], [2.5]], atol=1e-4)
    # By hand: within 0.2 the first logit rises to 4 * 0.45 - 0.8 - 0.25, and the second falls to
    # 4 * 0.675 - 0.95 - 0.25.
    worst = np.array([[0.45, 0.5, 0.8, 0.0], [0.675, 0.125, 0.95, 0.5]])
    logits = _run(path, worst.astype("float32"))
    np.testing.assert_allclose(logits, [[0.75], [1.5]], atol=1e-4)
    inside = np.clip(worst, *ends_of(path, x))
    np.testing.assert_allclose(inside, worst, atol=1e-7)
    files = [path / f"vnnlib/example_{row}.vnnlib" for row in range(2)]
    pairs = zip(files, inside, logits, strict=True)
    assert [is_counterexample(*one) for one in pairs] == [True, False]


@pytest.mark.exhaustive
@made_from_graphs
def test_a_network_with_other_logits_is_not_kept(tmp_path, monkeypatch):
    available("onnx")
    wrong = {"logits": np.zeros((1, 3), "float32")}
    monkeypatch.setattr(vnnlib, "run_onnx", lambda file, x: wrong)
    with refusals.assert_refused(
        "predictions of the onnx file differ from those of Keras", folder=tmp_path
    ):
        kr.export.export_vnnlib(linear(), FEATURES, [0, 1], "linf", tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def _guarded():
    head = keras.layers.Dense(3)
    return keras.Sequential([keras.Input((4,)), kr.layers.InputGuard(name="door"), head])


def _integers():
    table = keras.layers.Embedding(2, 3)
    layers = [table, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((4,), dtype="int32", name="words"), *layers])


_BOX = r"the feasible set of kr.Linf. For L1 and L2 pass.*Received: "


@pytest.mark.parametrize(
    ("model", "changed", "message"),
    [
        (linear, {"threat_model": kr.L2(0.5)}, rf"{_BOX}L2\(epsilon=0.5"),
        (linear, {"threat_model": {"a": kr.Linf(0.1)}}, rf"{_BOX}PerInput"),
        (linear, {"threat_model": kr.Linf(_DECAY)}, r"Use `threat_model.at\(step\)`, or give"),
        (linear, {"y": [0, 3]}, "class indices from 0 to 2.*Received: labels from 0 to 3"),
        (linear, {"y": [0]}, r"one label per example.*2 examples, labels of shape \(1,\)"),
        (linear, {"x": np.full((2, 4), 1.5)}, r"Inputs must lie in.*values in \[1.5, 1.5\]"),
        (linear, {"x": np.full((2, 4), np.nan)}, "Inputs must be finite. Received: 8 NaN"),
        (linear, {"x": np.zeros((2, 5))}, r"Expected examples of shapes.*\[\(None, 5\)\]"),
        (linear, {"timeout": 0}, "`timeout` must be an int >= 1. Received: 0"),
        (two_inputs, {}, r"takes models with one input. Received: \['a', 'z_in'\]"),
        (_guarded, {}, r"build the model from its other layers.*Received: the layer 'door'"),
        (_integers, {}, "an input of dtype float32. Received: the input 'words' of dtype int32"),
        (lambda: linear(dtype="bfloat16"), {}, "build the model with float32 layers.*in bfloat16"),
        (lambda: kr.layers.RandomizedSmoothing(linear()), {}, "pass the model inside of it"),
    ],
)
def test_refusals(tmp_path, without_network, model, changed, message):
    arguments = {"x": np.array(FEATURES), "y": [0, 1], "threat_model": kr.Linf(0.1), **changed}
    with refusals.assert_refused(message, folder=tmp_path):
        kr.export.export_vnnlib(model(), path=tmp_path / "1", **arguments)
    assert list(tmp_path.iterdir()) == []


@made_from_graphs
@pytest.mark.parametrize("loss", [None, "sparse_categorical_crossentropy"])
def test_probabilities_without_logits_are_refused(tmp_path, monkeypatch, loss):
    monkeypatch.setattr(vnnlib, "check_format", lambda format: None)
    given = keras.Input((4,))
    exponentials = keras.ops.exp(keras.layers.Dense(3, kernel_initializer="zeros")(given))
    total = keras.ops.sum(exponentials, axis=-1, keepdims=True)
    model = keras.Model(given, exponentials / total)
    if loss:
        model.compile("sgd", loss)
    message = "end the model with keras.layers.Softmax.*Received: outputs from 0.333333 to 0.333333"
    with refusals.assert_refused(message, folder=tmp_path):
        kr.export.export_vnnlib(model, FEATURES, [0, 1], "linf", tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_stays(tmp_path, without_network):
    (tmp_path / "1").mkdir()
    with refusals.assert_refused("pass a new folder", folder=tmp_path, error=FileExistsError):
        kr.export.export_vnnlib(linear(), FEATURES, [0, 1], "linf", tmp_path / "1")
    assert list((tmp_path / "1").iterdir()) == []


@made_from_graphs
def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr("importlib.import_module", missing)
    message = r"needs the package tf2onnx.*keras_robust\[onnx\]"
    with refusals.assert_refused(message, folder=tmp_path, error=ImportError):
        vnnlib.export_vnnlib(linear(), FEATURES, [0, 1], "linf", tmp_path / "1")


def test_another_backend_is_refused(tmp_path, monkeypatch):
    model = linear()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    message = "set KERAS_BACKEND=tensorflow, and load the model there. Received: KERAS_BACKEND=jax"
    with refusals.assert_refused(message, folder=tmp_path):
        vnnlib.export_vnnlib(model, FEATURES, [0, 1], "linf", tmp_path / "1")
