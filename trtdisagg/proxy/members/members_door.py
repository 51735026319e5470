"""Where an agent tells this proxy who may be routed to: a unix socket that only its user can open.

PUT /members {Members} -> Told

The other processes of the proxy come here, too, with what `worker_room` answers them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
from aiohttp import web

from trtdisagg.errors import StartupError, TrtdisaggError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.control import Members, Told
from trtdisagg.proxy.door.refusals import as_page
from trtdisagg.proxy.http.http_server import serving
from trtdisagg.proxy.http.pages import Pages
from trtdisagg.proxy.http.whole_answer import AnyAnswer
from trtdisagg.proxy.members.uses import Uses
from trtdisagg.registry.members import Roster

SOURCE = "agent"
MAX_BODY_BYTES = 16 * 1024 * 1024


@contextlib.asynccontextmanager
async def open_members_door(path: str, pages: Pages) -> AsyncIterator[None]:
    """Listen while the block runs; the socket file goes with it.

    :param pages: what is answered there.
    :raises StartupError: when the socket cannot be made.
    """

    async def handle(request: web.BaseRequest) -> AnyAnswer:
        handler = pages.get((request.method, request.path))
        if handler is None:
            known = ", ".join(" ".join(route) for route in pages)
            return web.Response(status=404, text=f"only {known}\n")
        try:
            return await handler(request)
        except TrtdisaggError as e:
            return as_page(e)

    with _listening(path) as sock:
        async with serving(handle, [sock], MAX_BODY_BYTES):
            yield


class MembersPage:
    """
    :param uses: what the answer tells of.
    :param on_told: called with each set beside what the roster takes from it.
    """

    def __init__(self, roster: Roster, uses: Uses, on_told: Callable[[Members], None] = lambda _: None) -> None:
        self._roster = roster
        self._uses = uses
        self._on_told = on_told

    async def put(self, request: web.BaseRequest) -> web.Response:
        try:
            told = msgspec.json.decode(await request.read(), type=Members)
        except msgspec.DecodeError as e:
            return web.Response(status=400, text=f"{e}\n")
        if told.wire_version != WIRE_VERSION:
            return web.Response(status=400, text=f"wire version {told.wire_version} is not {WIRE_VERSION}\n")
        until = asyncio.get_running_loop().time() + told.ttl_ms / 1000
        self._on_told(told)
        self._roster.replace(SOURCE, told.members, needs=told.needs, coming=told.coming, until=until)
        answer = Told(in_use=self._uses.in_use(), others=self._roster.apart_from(SOURCE))
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")


@contextlib.contextmanager
def _listening(path: str) -> Iterator[socket.socket]:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX) as sock:
        before = os.umask(0o177)
        try:
            sock.bind(path)
        except OSError as e:
            raise StartupError(f"cannot make the members socket {path}: {e.strerror or e}") from e
        finally:
            os.umask(before)
        made = os.stat(path).st_ino
        try:
            yield sock
        finally:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == made:  # otherwise it is our successor's
                    os.unlink(path)
