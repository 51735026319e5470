"""The other processes of this proxy: asked over their members sockets, where only this user comes in.

Who they are is told by the agent. One that does not answer in time is counted and left out; nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

MAX_ANSWER_BYTES = 64 << 20
ASK_TIMEOUT_S = 1.0

logger = logging.getLogger(__name__)


class SilentError(Exception):
    """A process did not answer, or not as expected."""


class Fellows:
    """
    :param me: our own members socket; None: there are no others.
    :ivar num_silent: answers that did not come.
    """

    def __init__(self, me: str | None) -> None:
        self._me = me
        self._all: Sequence[str] = ()
        self.num_silent = 0
        self._was_told = asyncio.Event()

    def take(self, sockets: Sequence[str]) -> None:
        """:param sockets: of all processes, the first of them first."""
        self._all = sockets
        self._was_told.set()

    @property
    def first(self) -> str | None:
        """The process that has what is there once; None: nobody has told yet."""
        return self._all[0] if self._all else None

    async def until_told(self) -> None:
        await self._was_told.wait()

    @property
    def others(self) -> list[str]:
        return [socket for socket in self._all if socket != self._me]

    async def ask_all(self, method: str, path: str, *, timeout_s: float = ASK_TIMEOUT_S) -> dict[str, bytes | None]:
        """The answers of all others by their sockets; None of one that gives none in time."""
        others = self.others
        answers = await asyncio.gather(*(self._try(socket, method, path, timeout_s) for socket in others))
        return dict(zip(others, answers, strict=True))

    async def _try(self, socket: str, method: str, path: str, timeout_s: float) -> bytes | None:
        try:
            return await ask(socket, method, path, timeout_s=timeout_s)
        except SilentError as e:
            self.num_silent += 1
            logger.warning("another process of the proxy does not say %s: %s", path, e)
            return None


async def ask(socket: str, method: str, path: str, *, timeout_s: float = ASK_TIMEOUT_S) -> bytes:
    """The body of one process's answer.

    :raises SilentError: there is none in time, or it is no 200.
    """
    status, body = await exchange(socket, method, path, timeout_s=timeout_s)
    if status != 200:
        raise SilentError(f"it said {status}: {body[:100]!r}")
    return body


async def exchange(
    socket: str, method: str, path: str, body: bytes = b"", *, timeout_s: float = ASK_TIMEOUT_S
) -> tuple[int, bytes]:
    """Status and body of one process's answer.

    :raises SilentError: there is none in time.
    """
    head = f"{method} {path} HTTP/1.1\r\nHost: proxy\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(head.encode() + body)
            answer = await _read(reader)
    except (OSError, TimeoutError) as e:
        raise SilentError(str(e) or f"no answer within {timeout_s:g} s") from e
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()
    top, separator, content = answer.partition(b"\r\n\r\n")
    status = top[:20].split(b" ")[1:2]
    if not separator or not status or not status[0].isdigit():
        raise SilentError(f"it said {answer[:100]!r}")
    return int(status[0]), content


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Everything to its end."""
    pieces, size = [], 0
    while piece := await reader.read(1 << 20):
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise OSError(f"it said more than {MAX_ANSWER_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)
