"""Messages over one blocking socket, for threads that wait for nothing else.

4 bytes, big endian: length of the body | body: one message of gang/messages.py as msgpack
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any, Generic, TypeVar

import msgspec

from trtdisagg.engine.gang.messages import FromFollower, FromLeader

MAX_FRAME_BYTES = 1 << 28
"""A step that names a million blocks fits 50 times; what is longer is no message of ours."""

_LENGTH = struct.Struct(">I")
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
    return _LENGTH.pack(len(body)) + body


class Unframed(Generic[Incoming]):
    """Puts messages together from whatever pieces of a stream come."""

    def __init__(self, kinds: Any, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._decoder: msgspec.msgpack.Decoder[Incoming] = msgspec.msgpack.Decoder(kinds)
        self._unread = bytearray()

    def feed(self, data: bytes) -> None:
        self._unread += data

    def take(self) -> Incoming | None:
        """The next message that is complete.

        :raises StreamEndedError: when it is none of ours.
        """
        if len(self._unread) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._unread)
        if length > self._max_bytes:
            raise StreamEndedError(f"a frame of {length} bytes came")
        end = _LENGTH.size + length
        if len(self._unread) < end:
            return None
        body = bytes(self._unread[_LENGTH.size : end])
        del self._unread[:end]
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            raise StreamEndedError(f"what came is not of our protocol: {e}") from e


class Frames(Generic[Incoming]):
    """One end of a connection; one thread may send while another receives.

    :param kinds: the union of what the other side sends.
    :param max_bytes: of a message of it.
    """

    def __init__(self, sock: socket.socket, kinds: Any, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self.sock = sock
        self._unframed: Unframed[Incoming] = Unframed(kinds, max_bytes)

    def send(self, frame: bytes) -> None:
        """
        :param frame: of `encode`.
        :raises StreamEndedError: when it cannot be sent within the socket's timeout.
        """
        try:
            self.sock.sendall(frame)
        except OSError as e:
            raise self._ended(e, "was taken") from e

    def receive(self) -> Incoming:
        """Wait for the next message.

        :raises StreamEndedError: when none comes within the socket's timeout or ever, or it cannot be read.
        """
        while (message := self._unframed.take()) is None:
            self._unframed.feed(self._read())
        return message

    def _read(self) -> bytes:
        try:
            data = self.sock.recv(1 << 16)
        except OSError as e:
            raise self._ended(e, "came") from e
        if not data:
            raise StreamEndedError("the connection has ended")
        return data

    def received(self) -> list[Incoming]:
        """All that has come, without waiting; to be called when there is something to read.

        :raises StreamEndedError: when nothing more comes, or it cannot be read.
        """
        self._unframed.feed(self._read())
        return list(iter(self._unframed.take, None))

    def close(self) -> None:
        self.sock.close()

    def _ended(self, error: OSError, what: str) -> StreamEndedError:
        if isinstance(error, TimeoutError) and error.errno is None:  # the socket's own, not the kernel's
            return StreamEndedError(f"nothing {what} for {self.sock.gettimeout():g} s")
        kind = StreamLostError if error.errno in _LOST else StreamEndedError
        return kind(f"the connection is lost: {error.strerror or error}")
