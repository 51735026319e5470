"""The connection between the head and a node agent: messages on a TCP stream, and a session's messages over it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import anyio
import anyio.abc
import msgspec

from trtdisagg.net import join_address
from trtdisagg.protocol.frames import UNREADABLE, FrameReader, frame
from trtdisagg.protocol.nodes import MAX_MESSAGE_BYTES, Envelope
from trtdisagg.supervisor.nodes.session import GapError, Session

NUM_MISSED = 3
"""So many signs of life in a row, and a connection counts as gone: the other end's host may have vanished."""
_CONNECT_TIMEOUT_S = 2.0
_ENDS = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, TimeoutError)

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode
_envelope = msgspec.msgpack.Decoder(Envelope)


class StreamError(Exception):
    """The connection is over, or the other end does not speak our protocol; the message says which."""


class Stream:
    """Messages on a TCP connection, which is closed on exit."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._reader = FrameReader(MAX_MESSAGE_BYTES)
        self._frames: deque[bytes] = deque()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await anyio.aclose_forcefully(self._stream)

    @property
    def local_host(self) -> str:
        """This end's address."""
        return str(self._stream.extra(anyio.abc.SocketAttribute.local_address)[0])  # noqa: S610 (not Django's)

    async def send(self, message: msgspec.Struct, *, timeout_s: float) -> None:
        """
        :raises StreamError: when it cannot be sent.
        """
        await self.write(frame(_encode(message)), timeout_s=timeout_s)

    async def write(self, frames: bytes, *, timeout_s: float) -> None:
        """
        :raises StreamError: when they are not taken in time.
        """
        try:
            with anyio.fail_after(timeout_s):
                await self._stream.send(frames)
        except _ENDS as e:
            raise StreamError(_words(e, f"it took nothing for {timeout_s:g} s")) from e

    async def receive(self, decoder: msgspec.msgpack.Decoder[T], *, timeout_s: float) -> T:
        """
        :raises StreamError: when nothing comes in time, or what cannot be read.
        """
        try:
            if not self._frames:
                with anyio.fail_after(timeout_s):
                    await self._fill()
            return decoder.decode(self._frames.popleft())
        except UNREADABLE as e:
            raise StreamError(f"what came is not of our protocol: {e}") from e
        except _ENDS as e:
            raise StreamError(_words(e, f"nothing came for {timeout_s:g} s")) from e

    async def _fill(self) -> None:
        """Wait for at least one message."""
        while not self._frames:
            self._frames.extend(self._reader.feed(await self._stream.receive()))


async def connect(host: str, port: int) -> Stream:
    """
    :raises StreamError: when there is nobody.
    """
    try:
        with anyio.fail_after(_CONNECT_TIMEOUT_S):
            return Stream(await anyio.connect_tcp(host, port))
    except (OSError, TimeoutError) as e:
        raise StreamError(f"{join_address(host, port)} cannot be reached: {_words(e, 'no answer')}") from e


def _words(error: Exception, when_late: str) -> str:
    if isinstance(error, TimeoutError):
        return when_late
    # What the system says of a connection that was reset is in the cause.
    return str(error.__cause__ or error) or "the connection was closed"


async def passing(every_s: float) -> AsyncIterator[float]:
    """Seconds that have passed, every so often.

    Time that this process did not live through (the job was suspended, say) counts against nobody.
    """
    while True:
        began_at = time.monotonic()
        await anyio.sleep(every_s)
        yield min(time.monotonic() - began_at, 2 * every_s)


class Wake:
    """Something that one task waits for, and others cause."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Return when it was caused since the last time, or when the time is over."""
        with anyio.move_on_after(timeout_s):
            await self._event.wait()
        self._event = anyio.Event()


async def exchange(
    stream: Stream,
    session: Session,
    wake: Wake,
    *,
    other_received: int,
    beat_s: float,
    decoder: msgspec.msgpack.Decoder[Any],
    handle: Callable[[Any], None],
    on_word: Callable[[], None],
) -> str:
    """Carry a session's messages until the connection is over.

    :param wake: caused whenever the session has something to send.
    :param other_received: messages of ours that the other end has said to have; what it lacks is due again.
    :param beat_s: at least so often each end says something.
    :param decoder: of the other end's messages.
    :param handle: called with each of them, once.
    :param on_word: called whenever the other end has said anything.
    :returns: why it is over.
    """
    silent_s = NUM_MISSED * beat_s
    why: list[str] = []
    # Not before: the connection before this one may have had a last look at what was due.
    session.reopened(other_received)

    async def read() -> None:
        while True:
            envelope = await stream.receive(_envelope, timeout_s=silent_s)
            on_word()
            if _is_new(session, envelope):
                handle(_decoded(decoder, envelope.message))
            if session.owes_word:
                wake.set()

    async def write() -> None:
        while True:
            await stream.write(_frames(session), timeout_s=silent_s)
            if not session.has_due:
                await wake.wait(beat_s)

    async def until_over(task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except StreamError as e:
            why.append(str(e))
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until_over, read)
        tasks.start_soon(until_over, write)
    return why[0] if why else ""


def _is_new(session: Session, envelope: Envelope) -> bool:
    try:
        return session.take(envelope.number, envelope.received)
    except GapError as e:
        raise StreamError(f"a message is missing: {e}") from e


def _decoded(decoder: msgspec.msgpack.Decoder[T], message: msgspec.Raw) -> T:
    try:
        return decoder.decode(message)
    except UNREADABLE as e:
        raise StreamError(f"what came is not of our protocol: {e}") from e


def _frames(session: Session) -> bytes:
    """What is due next; an empty envelope when nothing is."""
    received = session.tell_received()
    due = [Envelope(number, received, msgspec.Raw(message)) for number, message in session.due()]
    return b"".join(frame(_encode(envelope)) for envelope in due or [Envelope(0, received)])
