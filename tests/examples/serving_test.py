"""Tests of the example server, of its translation of requests, and of KServe over HTTP."""

import base64
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import refusals

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "serving"
X = np.random.default_rng(0).uniform(size=(3, 4, 5, 1)).astype("float32")


def _load(name):
    spec = importlib.util.spec_from_file_location(f"serving_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rest = _load("rest")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4, 5, 1), name="images"), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    path = tmp_path_factory.mktemp("models") / "1"
    kr.export_saved_model(model, path, label_names=["a", "b", "c"], guard=kr.layers.InputGuard())
    return model, tf.saved_model.load(str(path))


def ask(served, **body):
    return rest.answer(served[1].signatures, body)


@pytest.mark.exhaustive
def test_rows_and_columns(served):
    model, _ = served
    logits = model.predict(X, verbose=0)
    labels = logits.argmax(axis=-1)
    rows = ask(served, instances=X.tolist())["predictions"]
    assert rows == ask(served, instances=[{"images": x} for x in X.tolist()])["predictions"]
    columns = ask(served, inputs=X.tolist())["outputs"]
    assert columns == ask(served, inputs={"images": X.tolist()})["outputs"]
    np.testing.assert_allclose(columns["probabilities"], keras.ops.softmax(logits), atol=1e-5)
    assert columns["label"] == labels.tolist() == [row["label"] for row in rows]
    assert columns["label_name"] == ["abc"[label] for label in labels]
    assert rows[2]["probabilities"] == columns["probabilities"][2]


@pytest.mark.exhaustive
def test_one_output_is_bare(served):
    logits = served[0].predict(X, verbose=0)
    for form, answer in (("instances", "predictions"), ("inputs", "outputs")):
        found = ask(served, signature_name="logits", **{form: X.tolist()})
        np.testing.assert_allclose(found[answer], logits, atol=1e-5)


def test_bytes_keep_their_zeros(served):
    picture = np.zeros((4, 5, 1), "uint8")
    file = tf.io.encode_png(picture).numpy()
    items = [{"b64": base64.b64encode(file + bytes(zeros)).decode()} for zeros in (0, 2)]
    found = ask(served, signature_name="predict_bytes", instances=items)["predictions"]
    expected = ask(served, instances=[picture.tolist()])["predictions"][0]
    assert found == [expected, expected]


def _with(value):
    """Returns examples with one number replaced."""
    rows = X.tolist()
    rows[2][3][1][0] = value
    return rows


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, 'either "instances" or "inputs"'),
        ({"instances": [1], "inputs": [1]}, 'either "instances" or "inputs"'),
        ({"instances": []}, "at least one example"),
        ({"instances": "abc"}, "at least one example"),
        ({"signature_name": "no", "instances": [1]}, "signature_name out of"),
        ({"signature_name": ["no"], "instances": [1]}, "signature_name out of"),
        ({"instances": [1.0]}, r"float32 of shape \[None, 4, 5, 1\] for 'images'.*shape \[1\]"),
        ({"instances": X.astype(str).tolist()}, "Received: shape .*, <U"),
        ({"instances": (X > 0.5).tolist()}, "Received: shape .*, bool"),
        ({"instances": _with(True)}, "Received: true or false among the numbers"),
        ({"instances": _with(False)}, "Received: true or false among the numbers"),
        ({"inputs": {"images": _with(True)}}, "Received: true or false among the numbers"),
        ({"instances": _with(10**400)}, "Received: shape .*, object"),
        ({"inputs": {"other": X.tolist()}}, "Received: something else"),
        ({"instances": [[1, 2], [3]]}, "Received: something else"),
        ({"instances": (X * 1e30).tolist()}, "Expected finite values within"),
        ({"instances": (X.astype("float64") * 1e300).tolist()}, "Expected finite values within"),
        ({"instances": (X * np.nan).tolist()}, "Expected finite values within"),
        ({"signature_name": "predict_bytes", "instances": ["a"]}, "bytes of a PNG or JPEG"),
        ({"signature_name": "predict_bytes", "instances": [{"b64": "?"}]}, "something else"),
        ({"signature_name": "predict_bytes", "instances": [{"b64": 3}]}, "something else"),
        ({"signature_name": "predict_bytes", "instances": [None]}, "Received: shape"),
    ],
)
def test_bad_requests(served, body, message):
    with pytest.raises(ValueError, match=message):
        rest.answer(served[1].signatures, body)


def test_errors_hide_internals(served):
    file = tf.io.encode_png(np.zeros((4, 5, 1), "uint8")).numpy()
    bodies = [
        {"instances": (X + 1.0).tolist()},
        {
            "signature_name": "predict_bytes",
            "instances": [{"b64": base64.b64encode(file[:-20]).decode()}],
        },
    ]
    messages = []
    for body in bodies:
        with pytest.raises(ValueError) as caught:
            rest.answer(served[1].signatures, body)
        messages.append(str(caught.value))
    within = "Expected finite values within [0.0, 1.0]. Received: an example with other values"
    assert messages == [within, "Expected inputs that the model takes, such as whole files"]


def test_a_model_of_truth_values_takes_them():
    spec = tf.TensorSpec((None, 2), tf.bool, name="x")
    tensor = rest._tensor("x", [[True, False]], spec)
    np.testing.assert_array_equal(tensor, [[True, False]])
    with pytest.raises(ValueError, match="Expected bool"):
        rest._tensor("x", [[1, 0]], spec)


@pytest.mark.parametrize(
    "value",
    [
        {"instances": X.tolist()},
        {"a": 'text with [[[[[[[[[[[[[[[[[[[[ and \\" and ,,,, in it'},
        [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]],
        [],
        3,
    ],
)
def test_json_is_decoded_and_encoded(value):
    assert rest.decode(json.dumps(value).encode()) == value
    assert rest.decode(rest.encode(value)) == value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"instances":[' + b"[[[[[[]]]]]]," * 10**6 + b"0]}", "at most 4194304 values"),
        (b"[" + b"0," * 4_200_000 + b"0]", "at most 4194304 values.*Received: 4200001"),
        (b"[" * 100_000, "lists at most 16 deep. Received: 100000"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "lists at most 16 deep. Received: 17"),
        (b'["' + b"[" * 99 + b'",' + b"[" * 17, "lists at most 16 deep. Received: 18"),
        (b"{", "Expected a body in JSON"),
        (b"", "Expected a body in JSON"),
        (b"\xff\xfe\x00", "Expected a body in JSON"),
        (b"9" * 5000, "Expected a body in JSON"),
    ],
)
def test_large_requests_are_refused_before_decoding(monkeypatch, body, message):
    if "JSON" not in message:
        monkeypatch.setattr(rest.json, "loads", None)
    with refusals.assert_refused(message):
        rest.decode(body)


@pytest.mark.parametrize("body", [None, 3, [1], "text"])
def test_requests_that_are_not_objects(served, body):
    with pytest.raises(ValueError, match="Expected a JSON object"):
        rest.answer(served[1].signatures, body)


def test_over_http():
    """Sends a thousand bad requests and some good ones to a server in another process."""
    pytest.importorskip("kserve", reason="needs the extra `serve`")
    root = str(FOLDER.parents[1])
    done = subprocess.run(
        [sys.executable, str(FOLDER / "check.py")],
        env={**os.environ, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1000 bad requests and 2 of 100 MB: 0 wrong answers, server up" in done.stdout
