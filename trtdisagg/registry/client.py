"""The agent's side of the registry: tells a proxy who may be routed to, over the proxy's unix socket.

    PUT /members {Members} -> Told     the whole set, on each change and every second
    GET /traces -> Traces              when a command asks

The answer says what is still in use; while that is a server that has left the set, it is asked for more often. A proxy
that is not there yet, or starts again, is told as soon as it listens. Whom to tell of is the agent's to know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import anyio
import msgspec

from trtdisagg.protocol.control import Member, Members, Need, Told
from trtdisagg.protocol.trace import Traces

INTERVAL_S = 1.0
LEAVING_INTERVAL_S = 0.1
"""While a server that has left is in use."""
RETRY_S = 0.2
TIMEOUT_S = 2.0
_TRACES_TIMEOUT_S = 5.0
"""The proxy asks servers before it answers."""
MAX_ANSWER_BYTES = 1024 * 1024

Answer = TypeVar("Answer")


class MembersClient:
    """Keeps one proxy informed.

    :param socket: path of the proxy's members socket.
    :param on_told: called with each set that the proxy has taken, and what it told in return.
    """

    def __init__(
        self, socket: str | os.PathLike[str], on_told: Callable[[Members, Told], None] = lambda _members, _told: None
    ) -> None:
        self._socket = os.fspath(socket)
        self._on_told = on_told
        self._members = Members(members=[])
        self._changed = anyio.Event()

    def update(
        self,
        members: Iterable[Member],
        needs: Mapping[str, Iterable[Need]] | None = None,
        coming: Mapping[str, Iterable[Need]] | None = None,
    ) -> None:
        """Take a new set, which `run` sends at once.

        :param needs: the roles each model of the cluster needs, whether there is such a server now or not.
        :param coming: the roles of which a server is about to be back.
        """
        self.take(Members(members=list(members), needs=_listed(needs), coming=_listed(coming)))

    def take(self, members: Members) -> None:
        """The same, with all that is told beside it."""
        self._members = members
        self._changed.set()

    async def run(self) -> None:
        """Tell the proxy until cancelled."""
        while True:
            self._changed = anyio.Event()
            pause_s = await self._try_to_tell()
            with anyio.move_on_after(pause_s):
                await self._changed.wait()

    async def _try_to_tell(self) -> float:
        """
        :returns: how long to pause then.
        """
        members = self._members
        try:
            told = await put_members(self._socket, members)
        except OSError:
            return RETRY_S
        self._on_told(members, told)
        return LEAVING_INTERVAL_S if _leaving(members, told) else INTERVAL_S


def _leaving(members: Members, told: Told) -> bool:
    """Whether a server that has left is in use."""
    staying = {member.identity for member in (*members.members, *told.others)}
    return not told.in_use.keys() <= staying


def _listed(roles: Mapping[str, Iterable[Need]] | None) -> dict[str, list[Need]]:
    return {model: list(of) for model, of in (roles or {}).items()}


async def put_members(socket: str, members: Members) -> Told:
    """Tell a proxy once.

    :raises OSError: when there is no answer in time (TimeoutError), or another one than is expected.
    """
    return await put_body(socket, msgspec.json.encode(members))


async def put_body(socket: str, body: bytes) -> Told:
    """The same, encoded already."""
    return await _ask(socket, "PUT /members", body, Told)


async def get_traces(socket: str | os.PathLike[str], query: str) -> Traces:
    """Ask a proxy for requests that it has answered.

    :param query: see `protocol/trace.py`.
    :raises OSError: as above.
    """
    return await _ask(os.fspath(socket), f"GET /traces?{query}", b"", Traces, _TRACES_TIMEOUT_S)


async def _ask(socket: str, what: str, body: bytes, kind: type[Answer], timeout_s: float = TIMEOUT_S) -> Answer:
    head = f"{what} HTTP/1.1\r\nHost: proxy\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with anyio.fail_after(timeout_s):
        async with await anyio.connect_unix(socket) as stream:
            try:
                await stream.send(head.encode() + body)
                answer = await _read_all(stream)
            except anyio.BrokenResourceError as e:
                raise OSError("the proxy closed the connection") from e
    top, _, text = answer.partition(b"\r\n\r\n")
    status = top.partition(b"\r\n")[0]
    if status.split(b" ")[1:2] != [b"200"]:
        said = f"{status.decode(errors='replace')} {text.decode(errors='replace')}"
        raise OSError(f"the proxy refused {what}: {said}")
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as e:
        raise OSError(f"the proxy's answer cannot be read: {e}") from None


async def _read_all(stream: anyio.abc.ByteReceiveStream) -> bytes:
    answer = b""
    try:
        while len(answer) < MAX_ANSWER_BYTES:
            answer += await stream.receive()
    except anyio.EndOfStream:
        pass
    return answer
