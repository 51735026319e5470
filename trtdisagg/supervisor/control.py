"""The agent's door for commands: HTTP over a unix socket that only its user may open.

GET /status -> ClusterStatus    GET /events -> one Entry a line, past then future    POST /down {DownRequest} -> 202
GET /traces?id=ID | ?last=N | ?slowest=N -> Traces
GET /status/stream -> one ClusterStatus a line    GET /events?follow=0 -> the past only
POST /scale /drain /remove /restart /switch /apply -> Done, or 400 Refused

A verb that was begun goes on when the command that asked for it is gone.
"""

from __future__ import annotations

import contextlib
import socket
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
from aiohttp import web

from trtdisagg.errors import ConfigError, TrtdisaggError
from trtdisagg.protocol.control import (
    ApplyRequest,
    ClusterStatus,
    Done,
    DownRequest,
    Refused,
    ScaleRequest,
    ServersRequest,
    SwitchRequest,
)
from trtdisagg.protocol.trace import Traces
from trtdisagg.supervisor.journal import Journal
from trtdisagg.supervisor.operations import Operations
from trtdisagg.supervisor.status_feed import StatusFeed

_SHUTDOWN_TIMEOUT_S = 1.0


class ControlServer:
    """Answers commands.

    :param status: makes the answer to `status`.
    :param feed: what `status/stream` sends.
    :param down: takes note that the cluster is to go down; does not wait for it.
    :param operations: carries out the other verbs.
    :param traces: what the proxies say of requests.
    """

    def __init__(
        self,
        *,
        status: Callable[[], ClusterStatus],
        feed: StatusFeed,
        down: Callable[[DownRequest], None],
        operations: Operations,
        journal: Journal,
        traces: Callable[[str], Awaitable[Traces]],
    ) -> None:
        self._status = status
        self._feed = feed
        self._down = down
        self._journal = journal
        self._traces = traces
        self._verbs: dict[str, tuple[type[msgspec.Struct], _Verb]] = {
            "scale": (ScaleRequest, operations.scale),
            "drain": (ServersRequest, operations.drain),
            "remove": (ServersRequest, operations.remove),
            "restart": (ServersRequest, operations.restart),
            "switch": (SwitchRequest, operations.switch),
            "apply": (ApplyRequest, operations.apply),
        }

    @contextlib.asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        """Listen on a socket until the block ends."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/status", self._get_status),
                web.get("/status/stream", self._get_status_stream),
                web.get("/events", self._get_events),
                web.get("/traces", self._get_traces),
                web.post("/down", self._post_down),
                web.post("/{verb}", self._post_verb),
            ]
        )
        async with anyio.create_task_group() as self._tasks:
            async with self._serving(app, path):
                yield
            self._tasks.cancel_scope.cancel()

    @contextlib.asynccontextmanager
    async def _serving(self, app: web.Application, path: Path) -> AsyncIterator[None]:
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

    async def _get_traces(self, request: web.Request) -> web.Response:
        traces = await self._traces(request.query_string)
        return web.Response(body=msgspec.json.encode(traces), content_type="application/json")

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

    async def _post_verb(self, request: web.Request) -> web.Response:
        if (verb := request.match_info["verb"]) not in self._verbs:
            return web.Response(status=404, text=f"there is no verb {verb}")
        kind, carry_out = self._verbs[verb]
        try:
            asked = msgspec.json.decode(await request.read(), type=kind)
        except msgspec.DecodeError as e:
            return _refused(ConfigError(str(e)))
        outcome = _Outcome()
        # In a task of its own: the command may be interrupted, what it asked for is not.
        self._tasks.start_soon(outcome.get, carry_out, asked)
        await outcome.known.wait()
        if isinstance(outcome.value, TrtdisaggError):
            return _refused(outcome.value)
        return web.Response(body=msgspec.json.encode(outcome.value), content_type="application/json")


_Verb = Callable[[Any], Awaitable[Done]]


class _Outcome:
    """What became of a verb."""

    def __init__(self) -> None:
        self.known = anyio.Event()
        self.value: Done | TrtdisaggError = Done()

    async def get(self, carry_out: _Verb, asked: msgspec.Struct) -> None:
        try:
            self.value = await carry_out(asked)
        except TrtdisaggError as e:
            self.value = e
        except Exception as e:  # noqa: BLE001 (a verb that fails is no reason for a cluster to fail)
            traceback.print_exc()
            self.value = TrtdisaggError(f"the agent could not do it, and its log says why: {e!r}")
        finally:
            self.known.set()


def _refused(error: TrtdisaggError) -> web.Response:
    body = msgspec.json.encode(Refused(message=error.message, exit_code=error.exit_code))
    return web.Response(status=400, body=body, content_type="application/json")


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
