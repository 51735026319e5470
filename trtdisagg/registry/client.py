"""The agent's side of the registry: tells a proxy who may be routed to, over the proxy's unix socket.

    PUT /members {Members} -> 204      the whole set, on each change and every second

A proxy that is not there yet, or starts again, is told as soon as it listens. Whom to tell of is the agent's to know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

import anyio
import msgspec

from trtdisagg.protocol.control import Member, Members, Need

INTERVAL_S = 1.0
RETRY_S = 0.2
TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 65536


class MembersClient:
    """Keeps one proxy informed.

    :param socket: path of the proxy's members socket.
    :param on_told: called with each set that the proxy has taken.
    """

    def __init__(self, socket: str | os.PathLike[str], on_told: Callable[[Members], None] = lambda _: None) -> None:
        self._socket = os.fspath(socket)
        self._on_told = on_told
        self._members = Members(members=[])
        self._changed = anyio.Event()
        self.last_error: str | None = None
        """Why the proxy could not be told the last time; None: it was."""

    def update(self, members: Iterable[Member], needs: Mapping[str, Iterable[Need]] | None = None) -> None:
        """Take a new set, which `run` sends at once.

        :param needs: the roles each model of the cluster needs, whether there is such a server now or not.
        """
        told = {model: list(roles) for model, roles in (needs or {}).items()}
        self._members = Members(members=list(members), needs=told)
        self._changed.set()

    async def run(self) -> None:
        """Tell the proxy until cancelled."""
        while True:
            self._changed = anyio.Event()
            pause_s = INTERVAL_S if await self._try_to_tell() else RETRY_S
            with anyio.move_on_after(pause_s):
                await self._changed.wait()

    async def _try_to_tell(self) -> bool:
        told = self._members
        try:
            await put_members(self._socket, told)
        except OSError as e:
            self.last_error = str(e) or type(e).__name__
            return False
        self.last_error = None
        self._on_told(told)
        return True


async def put_members(socket: str, members: Members) -> None:
    """Tell a proxy once.

    :raises OSError: when there is no answer in time (TimeoutError), or another one than 204.
    """
    await put_body(socket, msgspec.json.encode(members))


async def put_body(socket: str, body: bytes) -> None:
    """The same, encoded already."""
    head = f"PUT /members HTTP/1.1\r\nHost: proxy\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with anyio.fail_after(TIMEOUT_S):
        async with await anyio.connect_unix(socket) as stream:
            await stream.send(head.encode() + body)
            answer = await _read_all(stream)
    status, _, rest = answer.partition(b"\r\n")
    if status.split(b" ")[1:2] != [b"204"]:
        text = rest.partition(b"\r\n\r\n")[2].decode(errors="replace")
        raise OSError(f"the proxy refused its members: {status.decode(errors='replace')} {text}")


async def _read_all(stream: anyio.abc.ByteReceiveStream) -> bytes:
    answer = b""
    try:
        while len(answer) < MAX_ANSWER_BYTES:
            answer += await stream.receive()
    except anyio.EndOfStream:
        pass
    except anyio.BrokenResourceError as e:
        raise OSError("the proxy closed the connection") from e
    return answer
