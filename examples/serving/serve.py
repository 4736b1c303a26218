"""Serves an exported model over HTTP with KServe, in the REST form of TensorFlow Serving.

    python examples/serving/serve.py --base_path=models/digits --port=8501

The program loads the highest version in the folder. It listens on 127.0.0.1 only: put a proxy with
TLS and authentication in front of it before you open it to other machines. It needs the extra
`serve`. With port 0 it chooses a free port, which the first line of the output shows.
"""

import argparse
import asyncio
import concurrent.futures
import multiprocessing
import pathlib
import socket
from concurrent.futures.process import BrokenProcessPool

import worker
from fastapi import HTTPException
from kserve import Model
from kserve import ModelRepository
from kserve.errors import InferenceError
from kserve.errors import InvalidInput
from kserve.model_server import app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from limits import LimitBody
from limits import protocol

HOST = "127.0.0.1"
# Number of worker processes, each with its own copy of the model. Further requests wait, because
# one computation already uses all processors.
MAX_ANSWERS = 2


class Served(Model):
    """KServe model that runs a SavedModel in worker processes."""

    def __init__(self, name, base_path):
        super().__init__(name)
        versions = [path for path in pathlib.Path(base_path).iterdir() if path.name.isdecimal()]
        if not versions:
            raise SystemExit(
                "Expected a folder with a version, which is a folder whose name is a number. "
                f"Received: --base_path={base_path}"
            )
        self.version = max(versions, key=lambda path: int(path.name))
        self.pool = self._start()
        self.pool.submit(worker.is_loaded).result()
        self.turn = asyncio.Semaphore(MAX_ANSWERS)
        self.ready = True

    def _start(self):
        return concurrent.futures.ProcessPoolExecutor(
            MAX_ANSWERS,
            multiprocessing.get_context("spawn"),
            initializer=worker.load,
            initargs=(str(self.version),),
        )

    async def predict(self, payload, headers=None):
        async with self.turn:
            pool = self.pool
            try:
                status, content = await asyncio.wrap_future(pool.submit(worker.answer, payload))
            except BrokenProcessPool as error:
                # The system killed a worker, perhaps for its memory. Start new ones once.
                if self.pool is pool:
                    self.pool = self._start()
                raise InferenceError("The model failed") from error
        if status == 200:
            return content
        raise (InvalidInput if status == 400 else InferenceError)(content.decode())


class Bytes(DataPlane):
    """KServe data plane that passes bodies on unchanged."""

    def decode(self, body, headers, *arguments, **others):
        return bytes(body), {}

    def encode(self, model_name, response, headers, req_attributes):
        return response, {"content-type": "application/json"}


class FixedModels(ModelRepositoryExtension):
    """Model repository that refuses to load or unload models over HTTP."""

    async def load(self, model_name):
        raise HTTPException(403, f"Models cannot be loaded over HTTP. Received: {model_name}")

    unload = load


def main():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--base_path", required=True, help="Folder with folders of versions.")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument(
        "--patience", type=float, default=60.0, help="Seconds in which a request must arrive."
    )
    options = parser.parse_args()
    name = pathlib.Path(options.base_path).name
    models = ModelRepository()
    model = Served(name, options.base_path)
    models.update(model)
    app.add_middleware(LimitBody, patience=options.patience)
    server = RESTServer("kserve.model_server:app", Bytes(models), FixedModels(models), options.port)
    server.config.http = protocol(options.patience)
    # Without a socket of ours, KServe would listen on all addresses.
    listener = socket.create_server((HOST, options.port))
    port = listener.getsockname()[1]
    print(f"Serving {model.version} at http://{HOST}:{port}/v1/models/{name}:predict", flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
