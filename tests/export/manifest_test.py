import hashlib
import pathlib

import keras
import numpy as np
import tensorflow as tf
from google.protobuf import text_format

import keras_robust as kr
from keras_robust.export import manifest
from keras_robust.export.inputs import Inputs
from keras_robust.export.served_model import ServedModel
from keras_robust.layers import InputGuard

X, Y = np.eye(3, dtype="float32"), np.array([2, 0, 1])


def make(report=None, names=None, data=None, guard=None):
    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(3)], name="small")
    served = ServedModel(model, Inputs(model), [guard])
    return manifest.make_manifest(served, ["b", "a"], report=report, label_names=names, data=data)


def test_the_manifest_is_complete():
    report = kr.evaluate(lambda x: x, (X, Y), kr.L2(0.1), "fgsm")
    found = make(report, ("a", "b", "c"), (X, Y), InputGuard((0, 2), outside="clip"))
    assert found["schema"] == "keras_robust.served_model"
    names = ["a", "b", "c"]
    expected = {"name": "small", "num_parameters": 12, "label_names": names, "smoothing": None}
    assert found["model"] == expected
    guard = {
        "bounds": [0.0, 2.0],
        "outside": "clip",
        "non_finite": "reject",
        "integers": "scale",
    }
    assert found["inputs"] == {"x": {"shape": [None, 3], "dtype": "float32", "guard": guard}}
    assert found["signatures"] == ["a", "b"]
    assert found["threat_model"]["class_name"] == "L2"
    assert kr.RobustnessReport.from_dict(found["report"]) == report
    assert found["versions"]["tensorflow"] == tf.__version__
    assert found["versions"]["keras_robust"] == kr.__version__


def test_a_manifest_without_report_and_data():
    found = make()
    names = ("report", "threat_model", "data_fingerprint")
    assert [found[name] for name in names] == [None] * 3
    assert found["inputs"]["x"]["guard"] is None


def test_the_noise_of_a_smoothed_model():
    base = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(3)])
    smoothed = kr.layers.RandomizedSmoothing(base, "1/4", num_samples=7, seed=3)
    served = ServedModel(smoothed, Inputs(smoothed), [None])
    found = manifest.make_manifest(served, [], report=None, label_names=None, data=None)
    assert found["model"]["smoothing"] == {"noise_stddev": 0.25, "num_samples": 7, "seed": 3}


def test_fingerprint():
    text = b"float32 (3, 3)" + X.tobytes() + b"int64 (3,)" + Y.tobytes()
    expected = {"sha256": hashlib.sha256(text).hexdigest(), "num_examples": 3}
    assert manifest.fingerprint(X, Y) == expected == make(data=(X, Y))["data_fingerprint"]
    others = [(X, Y[::-1]), (X.T[::-1], Y), (X.reshape(3, 3, 1), Y), ({"a": X, "b": X}, Y)]
    found = [manifest.fingerprint(*other)["sha256"] for other in others]
    assert len({expected["sha256"], *found}) == 5
    strings = np.array([["a"], ["b"], ["c"]], object)
    assert manifest.fingerprint(strings, Y) == manifest.fingerprint(strings.copy(), Y)


def test_models_config_is_text_that_protocol_buffers_read():
    text = manifest.models_config(pathlib.Path('/models/my "digits"/12'))
    assert 'name: "my \\"digits\\""' in text
    assert 'base_path: "/models/my \\"digits\\""' in text
    assert "versions: 12 }" in text and "value: 12 }" in text
    assert text.count("12") == 2
    tokens = text_format.Tokenizer(text.splitlines(keepends=True))
    assert tokens.TryConsume("model_config_list")
    assert text.count("{") == text.count("}")
    assert "version" not in manifest.models_config(pathlib.Path("/models/digits/latest"))
