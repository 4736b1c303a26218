"""The example server: what it makes of requests, and, with KServe, over HTTP."""

import base64
import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

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
    kr.export_saved_model(model, path, label_names=["a", "b", "c"])
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


def test_errors_tell_nothing_of_the_inside(served):
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


@pytest.mark.parametrize("body", [None, 3, [1], "text"])
def test_no_object(served, body):
    with pytest.raises(ValueError, match="Expected a JSON object"):
        rest.answer(served[1].signatures, body)


def test_over_http():
    """A thousand bad requests between good ones, to a server in another process."""
    pytest.importorskip("kserve", reason="needs the extra `serve`")
    root = str(FOLDER.parents[1])
    done = subprocess.run(
        [sys.executable, str(FOLDER / "check.py")],
        env={**os.environ, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1000 bad requests and 2 of 100 MB: 0 wrong answers, server up" in done.stdout
