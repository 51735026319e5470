"""HTTP/1.1 answers, parsed as their bytes come: head, then body, framing taken off.

Knows no sockets and keeps no body: what `feed` returns is the caller's. Strict where leniency would let an answer end
in the wrong place, and bounded wherever a server decides how much is kept.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

MAX_HEAD_BYTES = 32 * 1024
MAX_LINE_BYTES = 1024
MAX_TRAILER_BYTES = 8 * 1024

_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9]\d\d)(?: .*)?")
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PLAIN_SIZE = re.compile(rb"0*[1-9A-Fa-f][0-9A-Fa-f]*\r\n")
_MAX_SIZE_BYTES = 8
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?", re.DOTALL)


class BadAnswerError(Exception):
    """The bytes are not an HTTP answer, or one over our limits."""


class Head(NamedTuple):
    status: int
    headers: dict[str, str]
    """Names in lower case; values of a repeated name are joined by commas."""


_State = Callable[["ResponseParser", bytes], bytes]


class ResponseParser:
    """Parses one answer.

    head  ->  sized    Content-Length
          ->  chunked  Transfer-Encoding: chunked, then trailers
          ->  the rest of the connection
          ->  done     also at once, where there is no body
    """

    def __init__(self) -> None:
        self.head: Head | None = None
        self.complete = False
        self.keep_alive = False
        """The connection may carry another request once this answer is complete."""
        self._state: _State = ResponseParser._in_head
        """A function, not a bound method: that would be a cycle, and work for the garbage collector."""
        self._kept = b""
        """The beginning of a line or head whose end has not come."""
        self._left = 0
        """Bytes still to come of the body, or of the chunk."""
        self._behind_chunk = False
        self._num_trailer_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the connection and return what they hold of the body.

        :raises BadAnswerError: the connection is of no use any more.
        """
        if self._kept:
            data = self._kept + data
            self._kept = b""
        return self._state(self, data)

    def is_whole_chunks(self, data: bytes, end: bytes) -> bool:
        """Whether the next bytes of the connection are whole chunks with nothing to them but their size: they may go on
        as they are, and are not to be fed then.

        :param end: how each must end, its CRLF included.
        """
        if self._state is not _between_chunks:
            return False
        num_bytes = len(data)
        at = _framed_bytes(data[:_MAX_SIZE_BYTES])
        while at < num_bytes:
            if not data.startswith(end, at - len(end)):
                return False
            at += _framed_bytes(data[at : at + _MAX_SIZE_BYTES])
        return at == num_bytes and data.endswith(end)

    def feed_eof(self) -> None:
        """The server has closed the connection.

        :raises BadAnswerError: in the middle of an answer.
        """
        if self._state is ResponseParser._in_rest:
            self.complete = True
        if not self.complete:
            raise BadAnswerError("the connection was closed before the end of the answer")

    def _in_head(self, data: bytes) -> bytes:
        while self.head is None:
            end = data.find(b"\r\n\r\n")
            if max(end, len(data) if end < 0 else 0) > MAX_HEAD_BYTES:
                raise BadAnswerError(f"the head is longer than {MAX_HEAD_BYTES} bytes")
            if end < 0:
                self._kept = data
                return b""
            self._take_head(data[:end].decode("latin-1"))
            data = data[end + 4 :]
        return self._state(self, data) if data else b""

    def _take_head(self, text: str) -> None:
        first, *lines = text.split("\r\n")
        is_11, status = _status_line(first)
        if status == 101:
            raise BadAnswerError("the server switched protocols")
        if status < 200:
            return
        headers = _parse_fields(lines)
        tokens = headers.get("connection", "").lower()
        self.keep_alive = "close" not in tokens and (is_11 or "keep-alive" in tokens)
        self.head = Head(status, headers)
        self._choose_framing(status, headers)

    def _choose_framing(self, status: int, headers: dict[str, str]) -> None:
        encoding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if status in (204, 304):
            self._finish()
        elif encoding is not None:
            if encoding.lower() != "chunked":
                raise BadAnswerError(f"transfer encoding {encoding[:40]!r} is not understood")
            # With both, somebody in between may count otherwise than we do.
            self.keep_alive = self.keep_alive and length is None
            self._state = _between_chunks
        elif length is not None:
            if not (length.isascii() and length.isdigit()):
                raise BadAnswerError(f"content length {length[:40]!r} is not a number")
            self._left = int(length)
            self._state = ResponseParser._in_sized
            if self._left == 0:
                self._finish()
        else:
            self.keep_alive = False
            self._state = ResponseParser._in_rest

    def _in_sized(self, data: bytes) -> bytes:
        body = data[: self._left]
        self._left -= len(body)
        if self._left == 0:
            self._finish(data[len(body) :])
        return body

    def _in_rest(self, data: bytes) -> bytes:
        return data

    def _between_chunks(self, data: bytes) -> bytes:
        if _framed_bytes(data[:_MAX_SIZE_BYTES]) == len(data) and data.endswith(b"\r\n"):
            # Almost always: one whole chunk, as its server has sent it.
            return data[data.find(b"\n") + 1 : -2]
        return self._in_chunks(data)

    def _in_chunks(self, data: bytes) -> bytes:
        self._state = ResponseParser._in_chunks
        pieces = []
        at = 0
        while True:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._behind_chunk = True
            end = data.find(b"\r\n", at)
            if end < 0:
                self._keep_line(data[at:])
                if not self._kept and not self._behind_chunk:
                    self._state = _between_chunks
                break
            line = data[at:end]
            at = end + 2
            if self._behind_chunk:
                if line:
                    raise BadAnswerError("a chunk is longer than it said")
                self._behind_chunk = False
            elif not self._begin_chunk(line):
                self._in_trailers(data[at:])
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _begin_chunk(self, line: bytes) -> bool:
        self._left = _chunk_size(line)
        return self._left > 0

    def _in_trailers(self, data: bytes) -> bytes:
        self._state = ResponseParser._in_trailers
        while (end := data.find(b"\r\n")) >= 0:
            self._num_trailer_bytes += end + 2
            if self._num_trailer_bytes > MAX_TRAILER_BYTES:
                raise BadAnswerError(f"the trailers are longer than {MAX_TRAILER_BYTES} bytes")
            data, line = data[end + 2 :], data[:end]
            if not line:
                self._finish(data)
                return b""
        self._keep_line(data)
        return b""

    def _keep_line(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            raise BadAnswerError(f"a line is longer than {MAX_LINE_BYTES} bytes")
        self._kept = line

    def _finish(self, excess: bytes = b"") -> None:
        self.complete = True
        self._state = ResponseParser._in_excess
        self._in_excess(excess)

    def _in_excess(self, data: bytes) -> bytes:
        # Bytes nobody asked for: what the next answer on this connection would be is anyone's guess.
        if data:
            self.keep_alive = False
        return b""


_between_chunks = ResponseParser._between_chunks


def _parse_fields(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, value = _field(line)
        if name in headers and not (name == "content-length" and value == headers[name]):
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


# A server says the same lines again and again, so what they mean is kept.


@functools.lru_cache(maxsize=256)
def _status_line(line: str) -> tuple[bool, int]:
    """Whether it is HTTP/1.1, and the status."""
    if not (match := _STATUS_LINE.fullmatch(line)):
        raise BadAnswerError(f"not an HTTP/1 status line: {line[:80]!r}")
    return match[1] == "1", int(match[2])


@functools.lru_cache(maxsize=256)
def _field(line: str) -> tuple[str, str]:
    """Name in lower case, and value."""
    name, colon, value = line.partition(":")
    if not colon or not _FIELD_NAME.fullmatch(name):
        raise BadAnswerError(f"not a header line: {line[:80]!r}")
    return name.lower(), value.strip(" \t")


@functools.lru_cache(maxsize=1024)
def _chunk_size(line: bytes) -> int:
    if not (match := _CHUNK_SIZE.fullmatch(line)):
        raise BadAnswerError(f"not a chunk size: {line[:40]!r}")
    return int(match[1], 16)


@functools.lru_cache(maxsize=1024)
def _framed_bytes(begin: bytes) -> int:
    """Of a chunk, from its first byte to its last; more than there can be, where there is more to it than a size, or it
    is the last."""
    if not (match := _PLAIN_SIZE.match(begin)):
        return sys.maxsize
    return match.end() + int(match[0], 16) + len(b"\r\n")
