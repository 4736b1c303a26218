"""Good and bad requests to a served image classifier, and checks of the answers."""

import base64
import json

import numpy as np
import tensorflow as tf
from limits import MAX_BYTES

# Noisy copies that the model votes with, and the most that one request may ask for.
NUM_COPIES, MAX_SAMPLES = 10, 400_000


def b64(file):
    """Returns the bytes of a file in the form that JSON can hold."""
    return {"b64": base64.b64encode(file).decode()}


def certify(x, num_samples, alpha=0.001):
    """Returns a request for certificates."""
    inputs = {"images": x.tolist(), "seed": [1, 2], "num_samples": num_samples, "alpha": alpha}
    return {"signature_name": "certify", "inputs": inputs}


def good_requests(model, x, names):
    """Returns pairs of a request and a function that returns whether an answer is right."""
    probabilities = model.predict(x, verbose=0)
    logits = np.log(np.maximum(probabilities, 0.5 / NUM_COPIES))
    labels = probabilities.argmax(axis=-1)
    pictures = np.rint(x * 255.0).astype("uint8")
    files = [b64(tf.io.encode_png(picture).numpy()) for picture in pictures]
    rounded = model.predict(pictures.astype("float32") / 255.0, verbose=0)

    def are_rows(answer, expected=labels):
        rows = answer["predictions"]
        return [row["label"] for row in rows] == expected.tolist() and [
            row["label_name"] for row in rows
        ] == [names[label] for label in expected]

    def are_columns(answer):
        found = answer["outputs"]
        close = np.allclose(found["probabilities"], probabilities, atol=1e-4)
        return found["label"] == labels.tolist() and close

    return [
        ({"instances": x.tolist()}, are_rows),
        ({"instances": [{"images": row} for row in x.tolist()]}, are_rows),
        ({"inputs": x.tolist()}, are_columns),
        ({"inputs": {"images": x.tolist()}}, are_columns),
        (
            {"signature_name": "logits", "inputs": {"images": x.tolist()}},
            lambda answer: np.allclose(answer["outputs"], logits, atol=1e-3),
        ),
        (
            {"signature_name": "predict_bytes", "instances": files},
            lambda answer: are_rows(answer, rounded.argmax(axis=-1)),
        ),
        (
            {"signature_name": "predict_bytes", "instances": [{"image_bytes": f} for f in files]},
            lambda answer: are_rows(answer, rounded.argmax(axis=-1)),
        ),
        (certify(x, 200), lambda answer: _are_certificates(answer, labels)),
    ]


def _are_certificates(answer, labels):
    found = {key: np.array(value) for key, value in answer["outputs"].items()}
    is_certified = found["label"] >= 0
    agrees = np.array_equal(found["label"][is_certified], labels[is_certified])
    return agrees and is_certified.any() and np.all(found["radius"][is_certified] > 0.0)


def bad_requests(x):
    """Returns a dict of requests that the server must answer with a status from 400 to 499."""
    row = x[0].tolist()
    return {
        **_bad_values(x),
        **_bad_files(x[0]),
        "too many copies": certify(x[:1], 10**9),
        "too many copies together": certify(x, MAX_SAMPLES),
        "no copies": certify(x, 0),
        "a certificate for nothing": certify(x[:0], 100),
        "a large alpha": certify(x, 200, 0.5),
        "unknown signature": {"signature_name": "other", "instances": [row]},
        "unknown input": {"inputs": {"pictures": [row]}},
        "nothing": {},
        "a list": [1, 2],
        "no JSON": b"{",
        "a string without an end": b'"' + b'\\"' * 10**6,
        "no UTF-8": b"\xff\xfe\x00",
        "deep": b"[" * 100_000,
        "deep rows": b'{"instances":[' + b"[[[[[[]]]]]]," * 10**6 + b"0]}",
        "many rows": b'{"instances":[' + b"[]," * 5 * 10**6 + b"0]}",
        "a large number": {"instances": [10**400]},
    }


def _bad_values(x):
    """Returns requests with wrong shapes, types or values."""
    row = x[0].tolist()

    def changed(value):
        other = x[:2].astype("float64")
        other[1, 3, 4, 0] = value
        return other

    one_boolean = x[:1].tolist()
    one_boolean[0][3][4][0] = True
    nan = json.dumps({"instances": changed(0.123456).tolist()}).replace("0.123456", "NaN")
    return {
        "wrong shape": {"instances": [row[:-1]]},
        "wrong rank": {"instances": row},
        "ragged": {"instances": [row, row[:-1]]},
        "strings for numbers": {"instances": np.asarray(x[:1]).astype(str).tolist()},
        "booleans for numbers": {"instances": (x[:1] > 0.5).tolist()},
        "a boolean among numbers": {"instances": one_boolean},
        "null for a number": json.dumps({"instances": [row]}).replace("0.0", "null").encode(),
        "NaN": nan.encode(),
        "1e30": {"instances": changed(1e30).tolist()},
        "1e300": {"instances": changed(1e300).tolist()},
        "a little outside": {"instances": changed(1.001).tolist()},
        "0 to 255": {"instances": (x[:2] * 255).tolist()},
        "empty batch, rows": {"instances": []},
        "empty batch, columns": {"inputs": {"images": []}},
    }


def _bad_files(image):
    """Returns requests to `predict_bytes` with wrong files."""
    png = tf.io.encode_png((image * 255).astype("uint8")).numpy()
    large = tf.io.encode_png(np.zeros((2900, 2900, 1), "uint8")).numpy()

    def files(*contents):
        return {"signature_name": "predict_bytes", "instances": list(contents)}

    return {
        "truncated PNG": files(b64(png), b64(png[: len(png) // 2])),
        "pictures of too many pixels together": files(b64(large), b64(large)),
        "no picture": files(b64(b"hello")),
        "no base64": files({"b64": "%%%"}),
        "text for bytes": files("hello"),
        "number for bytes": files(7),
    }


def largest_request(shape):
    """Returns the largest request that the server answers, which is full of constant rows."""
    row = "0.500000"
    for length in reversed(shape):
        row = "[" + ",".join([row] * length) + "]"
    return (
        b'{"instances":[' + b",".join([row.encode()] * ((MAX_BYTES - 20) // (len(row) + 1))) + b"]}"
    )
