"""aiohttp's bare server: one handler for every request, no application, no router, no access log.

The handler of a client that leaves is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from trtdisagg.errors import RequestError, TrtdisaggError
from trtdisagg.protocol.answers import encode_error

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

BACKLOG = 1024
KEEP_ALIVE_S = 75.0
"""For a connection to bring a whole head: the first, or the next. Longer than reverse proxies keep one they use."""
SHUTDOWN_TIMEOUT_S = 0.5
"""For handlers that still run when the server ends: then they are cancelled."""


@contextlib.asynccontextmanager
async def serving(
    handler: Handler, sockets: Sequence[socket.socket], max_body_bytes: int, *, keep_alive_s: float = KEEP_ALIVE_S
) -> AsyncIterator[None]:
    """Serve on sockets that listen already, while the block runs.

    :param max_body_bytes: reading a longer request body raises aiohttp's HTTPRequestEntityTooLarge.
    """
    loop = asyncio.get_running_loop()

    def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=max_body_bytes)

    server = _Server(
        handler,
        request_factory=make_request,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=keep_alive_s,
    )
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    try:
        for sock in sockets:
            await web.SockSite(runner, sock, backlog=BACKLOG).start()
        yield
    finally:
        await runner.cleanup()


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What aiohttp itself refuses is answered in OpenAI's form. Not logged: any client could fill the log."""
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        reason = (message or str(exc) or "no reason is known").strip().splitlines()[0]
        error = RequestError(f"The request is not valid HTTP: {reason}") if status < 500 else TrtdisaggError(reason)
        answer = web.Response(status=status, body=encode_error(error), content_type="application/json")
        answer.force_close()
        return answer
