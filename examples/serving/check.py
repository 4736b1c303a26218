"""Exports a model, serves it, and checks the answers to good and to bad requests.

    python examples/serving/check.py

Needs the extra `serve`. Trains for a few seconds, starts `serve.py` on a free port of 127.0.0.1,
sends requests over HTTP, and stops it. Takes about a minute.
"""

import base64
import http.client
import itertools
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

import keras_robust as kr

NUM_BAD, BAD_PER_GOOD = 1000, 4
NUM_HUGE, HUGE = 2, 100 * 10**6


def export(folder):
    """Trains a small network on digits for an epoch or two, and exports it."""
    data = kr.datasets.load("digits")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(data.input_shape, name="images"),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(data.num_classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(*data.train, epochs=3, verbose=0, callbacks=[kr.AdvTrain(kr.Linf(0.1))])
    report = kr.evaluate(model, data.test, kr.Linf(0.1), "fgsm", num_examples=100)
    names = [f"digit {name}" for name in data.label_names]
    return kr.export_saved_model(model, folder, report=report, label_names=names), model, data


class Client:
    """Sends requests over one connection, and opens another when the server closes it."""

    def __init__(self, address, path):
        self.address, self.path = address, path
        self.connection = http.client.HTTPConnection(address, timeout=60)

    def post(self, body, path=None):
        """Returns the status and the JSON of the answer."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.connection.request(
            "POST", path or self.path, body, {"Content-Type": "application/json"}
        )
        response = self.connection.getresponse()
        text = response.read()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text.decode(errors="replace")


def b64(file):
    """A file as JSON holds it."""
    return {"b64": base64.b64encode(file).decode()}


def good_requests(model, x, names):
    """Returns pairs: what is asked, and a function that says whether the answer is right."""
    logits = model.predict(x, verbose=0)
    probabilities = np.asarray(keras.ops.softmax(logits))
    labels = logits.argmax(axis=-1)
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
    ]


def bad_requests(x):
    """Returns requests by name; each must be answered by a status from 400 to 499."""
    row = x[0].tolist()
    png = tf.io.encode_png((x[0] * 255).astype("uint8")).numpy()

    def changed(value):
        other = x[:2].astype("float64")
        other[1, 3, 4, 0] = value
        return other

    def files(*contents):
        return {"signature_name": "predict_bytes", "instances": list(contents)}

    nan = json.dumps({"instances": changed(0.123456).tolist()}).replace("0.123456", "NaN")
    return {
        "wrong shape": {"instances": [row[:-1]]},
        "wrong rank": {"instances": row},
        "ragged": {"instances": [row, row[:-1]]},
        "strings for numbers": {"instances": np.asarray(x[:1]).astype(str).tolist()},
        "booleans for numbers": {"instances": (x[:1] > 0.5).tolist()},
        "null for a number": json.dumps({"instances": [row]}).replace("0.0", "null").encode(),
        "NaN": nan.encode(),
        "1e30": {"instances": changed(1e30).tolist()},
        "1e300": {"instances": changed(1e300).tolist()},
        "a little outside": {"instances": changed(1.001).tolist()},
        "0 to 255": {"instances": (x[:2] * 255).tolist()},
        "empty batch, rows": {"instances": []},
        "empty batch, columns": {"inputs": {"images": []}},
        "truncated PNG": files(b64(png), b64(png[: len(png) // 2])),
        "no picture": files(b64(b"hello")),
        "no base64": files({"b64": "%%%"}),
        "text for bytes": files("hello"),
        "number for bytes": files(7),
        "unknown signature": {"signature_name": "other", "instances": [row]},
        "unknown input": {"inputs": {"pictures": [row]}},
        "nothing": {},
        "a list": [1, 2],
        "no JSON": b"{",
        "no UTF-8": b"\xff\xfe\x00",
        "deep": b"[" * 100_000,
    }


def ask(client, name, body):
    """Sends a bad request, and returns what is wrong with the answer, or `None`."""
    status, answer = client.post(body)
    if 400 <= status < 500:
        return None
    return f"{name}: expected a status from 400 to 499. Received: {status}, {str(answer)[:200]}"


def check(client, good, bad):
    """Sends everything, and returns a list of what went wrong."""
    problems = [ask(client, name, body) for name, body in bad.items()]
    turns = itertools.cycle(good)
    for number, (name, body) in zip(range(NUM_BAD), itertools.cycle(bad.items()), strict=False):
        problems.append(ask(client, name, body))
        if number % BAD_PER_GOOD == 0:
            request, is_right = next(turns)
            status, answer = client.post(request)
            if status != 200 or not is_right(answer):
                problems.append(f"{str(request)[:50]}: received {status}, {str(answer)[:200]}")
        if number < NUM_HUGE:
            problems.append(ask(client, "huge", b'{"instances": "' + b"0" * HUGE + b'"}'))
    status, _ = client.post(good[0][0], client.path.replace("models/", "models/no-"))
    problems.append(None if status == 404 else f"unknown model: received {status}")
    port = int(client.address.split(":")[1])
    with socket.socket() as other:
        # Linux has all of 127.0.0.0/8; a server that listens everywhere is there as well.
        if other.connect_ex(("127.0.0.2", port)) == 0:
            problems.append("the server does not listen on 127.0.0.1 only")
    return [problem for problem in problems if problem]


def main():
    with tempfile.TemporaryDirectory() as folder:
        path, model, data = export(f"{folder}/digits/1")
        program = pathlib.Path(__file__).with_name("serve.py")
        command = [sys.executable, str(program), f"--base_path={path.parent}", "--port=0"]
        with open(f"{folder}/log", "w") as log:
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            lines = iter(server.stdout.readline, "")
            found = (re.search("http://([^/]+)(/.*)$", line.strip()) for line in lines)
            address = next((match for match in found if match), None)
            if address is None:
                raise SystemExit(pathlib.Path(f"{folder}/log").read_text()[-2000:])
            x = data.test[0][:5]
            good = good_requests(model, x, [f"digit {name}" for name in data.label_names])
            bad = bad_requests(x)
            problems = check(Client(*address.groups()), good, bad)
            is_up = server.poll() is None
        finally:
            server.terminate()
            server.wait(60)
    for problem in problems:
        print(problem)
    print(
        f"{len(good)} kinds of good requests, {len(bad)} kinds of bad ones, {NUM_BAD} bad requests "
        f"and {NUM_HUGE} of {HUGE // 10**6} MB: {len(problems)} wrong answers, server "
        f"{'up' if is_up else 'down'}"
    )
    return 1 if problems or not is_up else 0


if __name__ == "__main__":
    sys.exit(main())
