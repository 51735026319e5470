"""The cluster's state for browsers: one stream from the agent, shared by all who watch, and none while nobody does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import aiohttp
import msgspec
from msgspec.structs import replace

from trtdisagg.protocol.control import ClusterStatus

_CONNECT_TIMEOUT_S = 5.0
_SILENCE_S = 30.0
"""An agent sends at every beat of a server: silent for so long, it hangs."""
_RETRY_S = 1.0
_MAX_LINE_BYTES = 8 * 1024 * 1024

NO_AGENT = "This proxy was started by hand: there is no supervisor that could tell how the cluster is."
_AWAY = "The supervisor does not answer."


class DashboardFeed:
    """What browsers are sent, as JSON: a ClusterStatus, or `{"error": why there is none}`.

    :param control_socket: the agent's; None: there is no agent.
    """

    def __init__(self, control_socket: str | None) -> None:
        self._control_socket = control_socket
        self._latest = b"" if control_socket else _error(NO_AGENT)
        self._news = asyncio.Event()
        self._num_watching = 0
        self._reading: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the block runs, there is somebody to read the agent's stream."""
        async with asyncio.TaskGroup() as self._tasks:
            yield
            self._stop_reading()

    async def watch(self) -> AsyncGenerator[bytes, None]:
        """The state of now, then each that follows; one who is slow misses some."""
        self._num_watching += 1
        try:
            if self._reading is None and self._control_socket:
                self._reading = self._tasks.create_task(self._read(self._control_socket))
            sent = b""
            while True:
                if self._latest != sent:
                    sent = self._latest
                    yield sent
                else:
                    await self._news.wait()
        finally:
            self._num_watching -= 1
            if not self._num_watching:
                self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
            self._latest = b""  # the next who comes is not shown what was true then

    def _publish(self, content: bytes) -> None:
        self._latest = content
        self._news.set()
        self._news = asyncio.Event()

    async def _read(self, control_socket: str) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, msgspec.MsgspecError):
                async for line in _lines(control_socket):
                    self._publish(_for_browsers(line))
            self._publish(_error(_AWAY))
            await asyncio.sleep(_RETRY_S)


async def _lines(control_socket: str) -> AsyncIterator[bytes]:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_S)
    session = aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(control_socket), timeout=timeout, read_bufsize=_MAX_LINE_BYTES
    )
    async with session, session.get("http://agent/status/stream", raise_for_status=True) as answer:
        async for line in answer.content:
            yield line


def _for_browsers(line: bytes) -> bytes:
    """Without what is only of use on this machine: paths, and the agent's process."""
    status = msgspec.json.decode(line, type=ClusterStatus)
    servers = [replace(server, log_file=None) for server in status.servers]
    return msgspec.json.encode(replace(status, file=None, fingerprint="", agent_pid=0, servers=servers))


def _error(message: str) -> bytes:
    return msgspec.json.encode({"error": message})
