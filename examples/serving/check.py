"""Check of the server: exports a model, serves it, and sends good and bad requests.

    python examples/serving/check.py

The program needs the extra `serve`. It trains for a few seconds, starts `serve.py` on a free port
of 127.0.0.1, sends requests over HTTP, and stops the server. This takes about a minute.
"""

import http.client
import itertools
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

import keras
from samples import MAX_SAMPLES
from samples import NUM_COPIES
from samples import bad_requests
from samples import certify
from samples import good_requests
from samples import largest_request

import keras_robust as kr

NUM_BAD, BAD_PER_GOOD = 1000, 4
NUM_HUGE, HUGE = 2, 100 * 10**6
NUM_CLIENTS = 8
PATIENCE = 10  # Seconds.
# Seconds for a health request. On an idle machine 0.1 is enough.
MAX_HEALTH = 1.0


def export(folder):
    """Trains a small network on digits, and exports it with randomized smoothing."""
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
    model = kr.layers.RandomizedSmoothing(model, 0.1, NUM_COPIES, seed=0)
    report = kr.evaluate(model, data.test, kr.Linf(0.1), "fgsm", num_examples=100)
    names = [f"digit {name}" for name in data.label_names]
    path = kr.export_saved_model(
        model, folder, report=report, label_names=names, max_samples=MAX_SAMPLES
    )
    return path, model, data


class Client:
    """HTTP client that opens a new connection whenever the server has closed the last one."""

    def __init__(self, address, path, timeout=60):
        self.address, self.path = address, path
        self.connection = http.client.HTTPConnection(address, timeout=timeout)

    def post(self, body, path=None, method="POST"):
        """Returns the status and the JSON of the answer."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.connection.request(
            method, path or self.path, body, {"Content-Type": "application/json"}
        )
        response = self.connection.getresponse()
        text = response.read()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text.decode(errors="replace")


def ask(client, name, body):
    """Sends a bad request. Returns a problem with the answer, or `None`."""
    status, answer = client.post(body)
    if 400 <= status < 500:
        return None
    return f"{name}: expected a status from 400 to 499. Received: {status}, {str(answer)[:200]}"


def check_health(client, x):
    """Sends a health request while the server computes its longest answer. Returns a problem."""
    other, found = Client(client.address, client.path), []
    thread = threading.Thread(
        target=lambda: found.append(other.post(certify(x[:1], MAX_SAMPLES))[0])
    )
    thread.start()
    time.sleep(0.3)
    status, _ = client.post(b"", client.path.split(":")[0], "GET")
    is_early = thread.is_alive()
    thread.join()
    if (status, is_early, found) != (200, True, [200]):
        return f"health: {status}, {'during' if is_early else 'after'} an answer of {found}"
    return None


def check_load(client, body):
    """Sends health requests while many clients send the largest bodies.

    Returns:
        The 99th percentile of the response time in seconds, and a list of problems.
    """
    found, seconds = [], []

    def post():
        found.append(Client(client.address, client.path, timeout=600).post(body)[0])

    threads = [threading.Thread(target=post) for _ in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        start = time.monotonic()
        status, _ = Client(client.address, client.path).post(b"", client.path.split(":")[0], "GET")
        seconds.append(time.monotonic() - start)
        if status != 200:
            return 0.0, [f"health: received {status}"]
        time.sleep(0.01)
    late = sorted(seconds)[int(0.99 * len(seconds))]
    problems = [] if late < MAX_HEALTH else [f"health: {late:.3f} s under load"]
    if found != [200] * NUM_CLIENTS:
        problems.append(f"largest bodies: received {found}")
    return late, problems


def check_halves(client):
    """Sends incomplete requests. Yields a problem for each that the server does not cut off."""
    host, port = client.address.split(":")
    head = f"POST {client.path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n"
    whole = f"GET {client.path.split(':')[0]} HTTP/1.1\r\nHost: {host}\r\n\r\n"
    halves = {"no byte": "", "half a head": head[:20], "half a body": head + "{", "a second": whole}
    connections = {name: socket.create_connection((host, int(port)), 60) for name in halves}
    for name, text in halves.items():
        connections[name].sendall(text.encode())
    time.sleep(1.0)
    connections["a second"].sendall(head[:20].encode())
    start = time.monotonic()
    for name, open_one in connections.items():
        open_one.settimeout(max(0.1, start + 3.0 * PATIENCE - time.monotonic()))
        try:
            text = b""
            while part := open_one.recv(4096):
                text += part
            if name == "half a body" and not text.startswith(b"HTTP/1.1 408"):
                yield f"{name}: received {text[:50]}"
        except ConnectionError:
            pass
        except TimeoutError:
            yield f"{name}: the server waits for the rest"
        open_one.close()


def check_doors(client):
    """Tries to load and unload the model. Yields a problem for each request that is not refused."""
    name = client.path.split("/")[-1].split(":")[0]
    for verb in ("load", "unload"):
        status, _ = client.post(b"", f"/v2/repository/models/{name}/{verb}")
        if status != 403:
            yield f"{verb}: expected the status 403. Received: {status}"


def check(client, good, bad):
    """Sends all good and bad requests. Returns a list of problems."""
    problems = [*check_doors(client)]
    problems += [ask(client, name, body) for name, body in bad.items()]
    problems += check_mixture(client, good, bad)
    status, _ = client.post(good[0][0], client.path.replace("models/", "models/no-"))
    if status != 404:
        problems.append(f"unknown model: received {status}")
    port = int(client.address.split(":")[1])
    with socket.socket() as other:
        # Linux serves all of 127.0.0.0/8, so a server that listens on all addresses answers here.
        if other.connect_ex(("127.0.0.2", port)) == 0:
            problems.append("the server does not listen on 127.0.0.1 only")
    return [problem for problem in problems if problem]


def check_mixture(client, good, bad):
    """Sends good requests among many bad ones. Returns a list of problems and `None`."""
    problems, turns = [], itertools.cycle(good)
    for number, (name, body) in zip(range(NUM_BAD), itertools.cycle(bad.items()), strict=False):
        problems.append(ask(client, name, body))
        if number % BAD_PER_GOOD == 0:
            request, is_right = next(turns)
            status, answer = client.post(request)
            if status != 200 or not is_right(answer):
                problems.append(f"{str(request)[:50]}: received {status}, {str(answer)[:200]}")
        if number < NUM_HUGE:
            problems.append(ask(client, "huge", b'{"instances": "' + b"0" * HUGE + b'"}'))
    return problems


def main():
    with tempfile.TemporaryDirectory() as folder:
        path, model, data = export(f"{folder}/digits/1")
        program = pathlib.Path(__file__).with_name("serve.py")
        command = [sys.executable, str(program), f"--base_path={path.parent}", "--port=0"]
        command.append(f"--patience={PATIENCE}")
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
            client = Client(*address.groups())
            problems = check(client, good, bad)
            problems += filter(None, [check_health(client, x)])
            problems += check_halves(client)
            late, wrong = check_load(client, largest_request(data.input_shape))
            problems += wrong
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
    print(f"Health under {NUM_CLIENTS} clients: 99% of the answers within {1000 * late:.0f} ms")
    return 1 if problems or not is_up else 0


if __name__ == "__main__":
    sys.exit(main())
