"""Serves an exported model over HTTP with KServe, in the REST form of TensorFlow Serving.

    python examples/serving/serve.py --base_path=models/digits --port=8501

Loads the highest version in the folder. Listens on 127.0.0.1 only: put a proxy with TLS and
authentication in front before anybody else may call. Needs the extra `serve`. The port 0 takes a
free one; the first line of the output tells which.
"""

import argparse
import asyncio
import logging
import pathlib
import socket

import rest
import tensorflow as tf
from fastapi import HTTPException
from kserve import Model
from kserve import ModelRepository
from kserve.errors import InferenceError
from kserve.errors import InvalidInput
from kserve.model_server import app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer

HOST = "127.0.0.1"
# Of the body of a request. JSON takes many times its size once it is parsed.
MAX_BYTES = 16 * 2**20
# Each takes all processors while it is computed; others wait.
MAX_ANSWERS = 2


class Served(Model):
    """A SavedModel as KServe wants it."""

    def __init__(self, name, base_path):
        super().__init__(name)
        versions = [path for path in pathlib.Path(base_path).iterdir() if path.name.isdecimal()]
        if not versions:
            raise SystemExit(
                f"There is no version, a folder with a number as its name: {base_path}"
            )
        self.version = max(versions, key=lambda path: int(path.name))
        # A signature does not keep the variables alive; the object does.
        self.loaded = tf.saved_model.load(str(self.version))
        self.turn = asyncio.Semaphore(MAX_ANSWERS)
        self.ready = True

    async def predict(self, payload, headers=None):
        try:
            # In a thread: a long answer must not keep others from asking whether the server is up.
            async with self.turn:
                return await asyncio.to_thread(rest.answer, self.loaded.signatures, payload)
        except ValueError as error:
            raise InvalidInput(str(error)) from error
        except tf.errors.OpError as error:
            logging.exception("The model failed")
            raise InferenceError("The model failed") from error


class FixedModels(ModelRepositoryExtension):
    """KServe's repository without its doors: anybody could unload the model through them."""

    async def load(self, model_name):
        raise HTTPException(403, "Models are neither loaded nor unloaded over HTTP")

    unload = load


class LimitBody:
    """Answers requests with too large a body by the status 413, and keeps none of the body."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        total = 0

        async def limited():
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total <= MAX_BYTES:
                return message
            # A client that still sends would not see the answer.
            while message.get("more_body", False):
                message = await receive()
            raise HTTPException(413, f"The body has more than {MAX_BYTES} bytes")

        await self.app(scope, limited, send)


def main():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--base_path", required=True, help="Folder with folders of versions.")
    parser.add_argument("--port", type=int, default=8501)
    options = parser.parse_args()
    name = pathlib.Path(options.base_path).name
    models = ModelRepository()
    model = Served(name, options.base_path)
    models.update(model)
    app.add_middleware(LimitBody)
    server = RESTServer(
        "kserve.model_server:app", DataPlane(models), FixedModels(models), options.port
    )
    # KServe would listen on all addresses.
    listener = socket.create_server((HOST, options.port))
    port = listener.getsockname()[1]
    print(f"Serving {model.version} at http://{HOST}:{port}/v1/models/{name}:predict", flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
