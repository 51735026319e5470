"""Messages of gang/messages.py over one blocking socket, for threads that wait for nothing else."""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import Any, Generic, TypeVar

import msgspec

from trtdisagg.engine.gang.messages import FromFollower, FromLeader
from trtdisagg.protocol.frames import UNREADABLE, FrameReader, frame

MAX_FRAME_BYTES = 1 << 28
"""A step that names a million blocks fits 50 times; what is longer is no message of ours."""

Incoming = TypeVar("Incoming")


class StreamEndedError(Exception):
    """The other side is gone, is silent for too long, or does not speak our protocol."""


class StreamLostError(StreamEndedError):
    """The other side's host does not answer."""


_LOST = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}


def encode(message: FromLeader | FromFollower) -> bytes:
    """The frame of a message, to be sent to one rank or to several."""
    body = msgspec.msgpack.encode(message)
    assert len(body) <= MAX_FRAME_BYTES
    return frame(body)


class Frames(Generic[Incoming]):
    """One end of a connection; one thread may send while another receives.

    :param kinds: the union of what the other side sends.
    :param max_bytes: of a message of it.
    """

    def __init__(self, sock: socket.socket, kinds: Any, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self.sock = sock
        self._reader = FrameReader(max_bytes)
        self._decoder: msgspec.msgpack.Decoder[Incoming] = msgspec.msgpack.Decoder(kinds)
        self._bodies: deque[bytes] = deque()
        """That have come, and nobody has taken."""

    def send(self, framed: bytes) -> None:
        """
        :param framed: of `encode`.
        :raises StreamEndedError: when it cannot be sent within the socket's timeout.
        """
        try:
            self.sock.sendall(framed)
        except OSError as e:
            raise self._ended(e, "was taken") from e

    def receive(self) -> Incoming:
        """Wait for the next message.

        :raises StreamEndedError: when none comes within the socket's timeout or ever, or it cannot be read.
        """
        while not self._bodies:
            self._read()
        return self._take()

    def _read(self) -> None:
        try:
            data = self.sock.recv(1 << 16)
        except OSError as e:
            raise self._ended(e, "came") from e
        if not data:
            raise StreamEndedError("the connection has ended")
        try:
            self._bodies.extend(self._reader.feed(data))
        except UNREADABLE as e:
            raise StreamEndedError(f"what came is not of our protocol: {e}") from e

    def _take(self) -> Incoming:
        try:
            return self._decoder.decode(self._bodies.popleft())
        except UNREADABLE as e:
            raise StreamEndedError(f"what came is not of our protocol: {e}") from e

    def received(self) -> list[Incoming]:
        """All that has come, without waiting; to be called when there is something to read.

        :raises StreamEndedError: when nothing more comes, or it cannot be read.
        """
        self._read()
        return [self._take() for _ in range(len(self._bodies))]

    def close(self) -> None:
        self.sock.close()

    def _ended(self, error: OSError, what: str) -> StreamEndedError:
        if isinstance(error, TimeoutError) and error.errno is None:  # the socket's own, not the kernel's
            return StreamEndedError(f"nothing {what} for {self.sock.gettimeout():g} s")
        kind = StreamLostError if error.errno in _LOST else StreamEndedError
        return kind(f"the connection is lost: {error.strerror or error}")
