"""Limits for clients: the size of a body, the time to send it, and the number of open bodies."""

import asyncio
import functools

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Bytes in the body of a prediction request, and of any other request.
MAX_BYTES, MAX_OTHER_BYTES = 16 * 2**20, 2**16
# Bodies that the server receives, queues or answers at the same time.
MAX_BODIES = 32


class LimitBody:
    """Refuses bodies that are too large (413), too slow (408) or too many (503).

    Args:
        app: ASGI application.
        patience: float, the seconds in which the whole body must arrive.
    """

    def __init__(self, app, patience):
        self.app, self.patience, self.bodies = app, patience, 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        if self.bodies >= MAX_BODIES:
            busy = JSONResponse(
                {"error": "The server is busy: try again"}, 503, {"Retry-After": "1"}
            )
            return await busy(scope, receive, send)
        self.bodies += 1
        try:
            await self.app(scope, self._limited(scope, receive), send)
        finally:
            self.bodies -= 1

    def _limited(self, scope, receive):
        limit = MAX_BYTES if scope["path"].endswith(":predict") else MAX_OTHER_BYTES
        deadline = asyncio.get_running_loop().time() + self.patience
        total, is_whole = 0, False

        async def patient():
            left = deadline - asyncio.get_running_loop().time()
            try:
                return await asyncio.wait_for(receive(), max(left, 0.0))
            except asyncio.TimeoutError:
                raise HTTPException(
                    408, "The body did not arrive in time", {"Connection": "close"}
                ) from None

        async def limited():
            nonlocal total, is_whole
            message = await (receive() if is_whole else patient())
            total += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if total <= limit:
                return message
            # Read the rest: a client does not read the answer while it still sends.
            while message.get("more_body", False):
                message = await patient()
            raise HTTPException(413, f"Expected a body of at most {limit} bytes")

        return limited


class _Patient(HttpToolsProtocol):
    """Closes a connection if the headers of a request do not arrive in time."""

    def __init__(self, *arguments, patience, **others):
        super().__init__(*arguments, **others)
        self._patience, self._timer = patience, None

    def connection_made(self, transport):
        super().connection_made(transport)
        self._wait()

    def data_received(self, data):
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        super().data_received(data)

    def on_headers_complete(self):
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, error):
        self._stop()
        super().connection_lost(error)

    def _wait(self):
        if self._timer is None:
            self._timer = self.loop.call_later(self._patience, self.transport.abort)

    def _stop(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def protocol(patience):
    """Returns a factory of connection protocols for uvicorn."""
    return functools.partial(_Patient, patience=patience)
