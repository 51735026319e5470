"""Messages on a stream of bytes: each behind its length, 4 bytes, big endian.

    | length | message | length | message | ...

What the messages are is known by whoever sends them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

_LENGTH = struct.Struct(">I")
LENGTH_BYTES = _LENGTH.size


class FrameTooLargeError(ValueError):
    """A message is longer than any should be: this is another kind of stream."""


UNREADABLE = (FrameTooLargeError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What frames and the msgpack in them raise where the other end is not of our kind."""


def frame(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message


def read_length(head: bytes, max_bytes: int) -> int:
    """
    :param head: LENGTH_BYTES bytes.
    :raises FrameTooLargeError: when the message behind them is too long.
    """
    (length,) = _LENGTH.unpack(head)
    if length > max_bytes:
        raise FrameTooLargeError(f"a message of {length} bytes; at most {max_bytes} are taken")
    return int(length)


class FrameReader:
    """Puts messages together from pieces of any size."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take the next piece; gives the messages that it completes, to be taken all before the next one.

        :raises FrameTooLargeError: when a message is too long.
        """
        buffer = self._buffer
        buffer += piece
        start = 0
        while len(buffer) - start >= LENGTH_BYTES:
            end = start + LENGTH_BYTES + read_length(bytes(buffer[start : start + LENGTH_BYTES]), self._max_bytes)
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                message = bytes(view[start + LENGTH_BYTES : end])
            yield message
            start = end
        del buffer[:start]
