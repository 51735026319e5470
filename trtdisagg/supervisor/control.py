"""The agent's door for commands: HTTP over a unix socket that only its user may open.

GET /status -> ClusterStatus    GET /events -> one Entry a line, past then future    POST /down {DownRequest} -> 202
GET /status/stream -> one ClusterStatus a line    GET /events?follow=0 -> the past only
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from trtdisagg.protocol.control import ClusterStatus, DownRequest
from trtdisagg.supervisor.journal import Journal
from trtdisagg.supervisor.status_feed import StatusFeed

_SHUTDOWN_TIMEOUT_S = 1.0


class ControlServer:
    """Answers commands.

    :param status: makes the answer to `status`.
    :param feed: what `status/stream` sends.
    :param down: takes note that the cluster is to go down; does not wait for it.
    """

    def __init__(
        self,
        *,
        status: Callable[[], ClusterStatus],
        feed: StatusFeed,
        down: Callable[[DownRequest], None],
        journal: Journal,
    ) -> None:
        self._status = status
        self._feed = feed
        self._down = down
        self._journal = journal

    @contextlib.asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        """Listen on a socket until the block ends."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/status", self._get_status),
                web.get("/status/stream", self._get_status_stream),
                web.get("/events", self._get_events),
                web.post("/down", self._post_down),
            ]
        )
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_TIMEOUT_S)
        await runner.setup()
        try:
            await web.SockSite(runner, _bound(path)).start()
            yield
        finally:
            self._journal.close()
            self._feed.close()
            await runner.cleanup()

    async def _get_status(self, _request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._status()), content_type="application/json")

    async def _get_status_stream(self, request: web.Request) -> web.StreamResponse:
        return await _send_lines(request, self._feed.follow())

    async def _get_events(self, request: web.Request) -> web.StreamResponse:
        return await _send_lines(request, self._entries(follow=request.query.get("follow") != "0"))

    async def _entries(self, *, follow: bool) -> AsyncGenerator[bytes, None]:
        if not follow:
            for entry in self._journal.kept():
                yield msgspec.json.encode(entry) + b"\n"
            return
        async with contextlib.aclosing(self._journal.follow()) as entries:
            async for entry in entries:
                yield msgspec.json.encode(entry) + b"\n"

    async def _post_down(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=DownRequest)
        except msgspec.DecodeError as e:
            return web.Response(status=400, text=str(e))
        self._down(asked)
        return web.Response(status=202)


async def _send_lines(request: web.Request, lines: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """Send lines as they come, until there are no more or nobody reads them."""
    answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await answer.prepare(request)
    with contextlib.suppress(ConnectionError):
        async with contextlib.aclosing(lines):
            async for line in lines:
                await answer.write(line)
        await answer.write_eof()
    return answer


def _bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o600)
    except OSError:
        sock.close()
        raise
    return sock
