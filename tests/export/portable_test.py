import importlib.util
import json

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.export import portable
from tests.export.inputs_test import two_inputs
from tests.support import backends
from tests.support import refusals

X = np.random.default_rng(0).uniform(size=(5, 6, 6, 1)).astype("float32")
SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
made_from_graphs = backends.tensorflow_only("the formats are made from its graphs")
# Warnings of the converters themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


def available(format):
    needs = {"onnx": ["tf2onnx", "onnxruntime"], "litert": [], "openvino": ["openvino"]}[format]
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: the extra `{format}`")


def network(*layers, activation=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1), name="images"),
            *layers,
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation=activation),
        ]
    )


@pytest.mark.exhaustive
@made_from_graphs
@pytest.mark.parametrize("format", portable.FORMATS)
@pytest.mark.parametrize("within", [False, True])
def test_predictions_and_what_the_guard_rejects(tmp_path, format, within):
    available(format)
    model = network(*([kr.layers.InputGuard()] if within else []))
    report = kr.evaluate(model, (X, np.zeros(5, "int64")), kr.Linf(0.1), "fgsm")
    path = portable.export_portable(model, tmp_path / "1", format, report=report)
    file = path / f"model{SUFFIXES[format]}"
    bad = X.copy()
    bad[1, 2, 3], bad[2, 0, 0], bad[4, 5, 5] = np.nan, 1.5, -np.inf
    for x, fine in ((X, [0, 1, 2, 3, 4]), (bad, [0, 3])):
        probabilities, label = portable.predict_portable(format, file, x)
        logits = model.predict(X, verbose=0)[fine]
        np.testing.assert_allclose(probabilities[fine], keras.ops.softmax(logits), atol=1e-5)
        np.testing.assert_array_equal(label[fine], logits.argmax(axis=-1))
        others = np.setdiff1d(np.arange(5), fine)
        assert np.isnan(probabilities[others]).all()
        np.testing.assert_array_equal(label[others], -1)
    manifest = json.loads((path / "robustness.json").read_text())
    assert manifest["data_fingerprint"]["num_examples"] == 5
    assert "Linf, epsilon 0.1" in (path / "MODEL_CARD.md").read_text()


@pytest.mark.exhaustive
@made_from_graphs
@pytest.mark.parametrize("format", portable.FORMATS)
def test_a_softmax_and_clipping(tmp_path, format):
    available(format)
    model = network(activation="softmax")
    guard = kr.layers.InputGuard(outside="clip", non_finite="replace")
    path = portable.export_portable(model, tmp_path / "1", format, guard=guard)
    x = X.copy()
    x[1, 2, 3], x[2, 0, 0] = np.nan, 1.5
    mended = X.copy()
    mended[1, 2, 3], mended[2, 0, 0] = 0.5, 1.0
    found, _ = portable.predict_portable(format, path / f"model{SUFFIXES[format]}", x)
    np.testing.assert_allclose(found, model.predict(mended, verbose=0), atol=1e-5)


@pytest.mark.exhaustive
@made_from_graphs
def test_a_file_with_other_predictions_is_not_kept(tmp_path, monkeypatch):
    wrong = {"probabilities": np.full((1, 3), 1 / 3, "float32"), "label": np.zeros(1, "int64")}
    monkeypatch.setattr(portable, "_run_litert", lambda file, x: wrong)
    with refusals.assert_refused(
        "predictions of the litert file differ from those of Keras", folder=tmp_path
    ):
        portable.export_portable(network(), tmp_path / "1", "litert", guard=kr.layers.InputGuard())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
@made_from_graphs
def test_logits_that_are_not_finite_have_no_class(tmp_path):
    scale = [keras.layers.Rescaling(1e30), keras.layers.Rescaling(1e30)]
    data = np.zeros_like(X), np.zeros(5)
    path = portable.export_portable(
        network(*scale), tmp_path / "1", "litert", data=data, guard=kr.layers.InputGuard()
    )
    probabilities, label = portable.predict_portable("litert", path / "model.tflite", X)
    assert np.isnan(probabilities).all() and label.tolist() == [-1] * 5


@made_from_graphs
def test_a_rejecting_guard_behind_other_layers_is_refused(tmp_path):
    model = network(keras.layers.Rescaling(1 / 255), kr.layers.InputGuard())
    with refusals.assert_refused("put the InputGuard first.*Received: the layer", folder=tmp_path):
        portable.export_portable(model, tmp_path / "1", "litert", guard=kr.layers.InputGuard())
    smoothed = kr.layers.RandomizedSmoothing(network())
    with refusals.assert_refused("give the RandomizedSmoothing a seed", folder=tmp_path):
        portable.export_portable(smoothed, tmp_path / "1", "litert", guard=kr.layers.InputGuard())


@made_from_graphs
def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(portable.importlib, "import_module", missing)
    message = r"needs the package tf2onnx.*keras_robust\[onnx\]"
    with refusals.assert_refused(message, folder=tmp_path, error=ImportError):
        portable.export_portable(network(), tmp_path / "1", "onnx", guard=kr.layers.InputGuard())


@made_from_graphs
def test_other_formats_and_models(tmp_path):
    with refusals.assert_refused("'openvino'].*Received: 'torch'", folder=tmp_path):
        portable.export_portable(network(), tmp_path / "1", "torch", guard=kr.layers.InputGuard())
    with refusals.assert_refused("takes models with one input. Received: ", folder=tmp_path):
        portable.export_portable(
            two_inputs(), tmp_path / "1", "litert", guard=kr.layers.InputGuard()
        )


def test_another_backend_is_refused(tmp_path, monkeypatch):
    message = "set KERAS_BACKEND=tensorflow, and load the model there. Received: KERAS_BACKEND=jax"
    model = network()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with refusals.assert_refused(message, folder=tmp_path):
        portable.export_portable(model, tmp_path / "1", "litert", guard=kr.layers.InputGuard())
    assert list(tmp_path.iterdir()) == []
