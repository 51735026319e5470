"""Messages on a stream of bytes: each behind its length, 4 bytes, big endian.

    | length | message | length | message | ...

What the messages are is known by whoever sends them.
"""

from __future__ import annotations

import struct

import msgspec

_LENGTH = struct.Struct(">I")
LENGTH_BYTES = _LENGTH.size


class FrameTooLargeError(ValueError):
    """A message is longer than any should be: this is another kind of stream."""


UNREADABLE = (FrameTooLargeError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What frames and the msgpack in them raise where the other end is not of our kind."""


def frame(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message


def read_length(stream: bytes | bytearray, max_bytes: int, start: int = 0) -> int:
    """
    :param stream: at least LENGTH_BYTES from `start` on, where a frame begins.
    :raises FrameTooLargeError: when its message is too long.
    """
    length: int = _LENGTH.unpack_from(stream, start)[0]
    if length > max_bytes:
        raise FrameTooLargeError(f"a message of {length} bytes; at most {max_bytes} are taken")
    return length


class FrameReader:
    """Puts messages together from pieces of any size."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next piece.

        :returns: the messages that it completes.
        :raises FrameTooLargeError: when a message is too long.
        """
        buffer = self._buffer
        buffer += piece
        messages: list[bytes] = []
        start = 0
        while (body := start + LENGTH_BYTES) <= len(buffer):
            end = body + read_length(buffer, self._max_bytes, start)
            if end > len(buffer):
                break
            messages.append(bytes(memoryview(buffer)[body:end]))  # copied once
            start = end
        del buffer[:start]
        return messages
