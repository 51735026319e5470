"""The bytes of an answer of which all is known: head and body in one piece, for one write."""

from __future__ import annotations

import email.utils
import functools
import time
from collections.abc import Iterable

from aiohttp import HttpVersion, HttpVersion11, web

WITHOUT_BODY = (204, 304)


class WholeAnswer:
    """What was asked for, in JSON. It has what is looked at of aiohttp's answers, and takes a tenth of the time."""

    __slots__ = ("body", "headers")

    status = 200
    prepared = False
    keep_alive = None
    """It is the request that says how the connection goes on."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.headers = {"Content-Type": "application/json"}


AnyAnswer = web.StreamResponse | WholeAnswer


def encode_answer(response: web.Response | WholeAnswer, request: web.BaseRequest, *, keep_alive: bool) -> bytes:
    """
    :param response: with bytes for a body, or none.
    """
    headers, status, body = response.headers, response.status, response.body or b""
    assert isinstance(body, bytes)
    if status in WITHOUT_BODY:
        length, body = "", b""
    else:
        length = f"Content-Length: {len(body)}\r\n"
        headers.setdefault("Content-Type", "application/octet-stream")
    head = encode_head(status, headers.items(), length, request.version, keep_alive=keep_alive)
    return head if request.method == "HEAD" else head + body


def encode_head(
    status: int, headers: Iterable[tuple[str, str]], framing: str, version: HttpVersion, *, keep_alive: bool
) -> bytes:
    """
    :param framing: the line that says where the body ends.
    :raises ValueError: a header would be two.
    """
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    said = "".join(lines)
    if not said.count("\r") == said.count("\n") == len(lines):
        raise ValueError("a header has an end of line in it")
    connection = "" if keep_alive == (version >= HttpVersion11) else _CONNECTION[keep_alive]
    head = f"{_first_line(status, version)}{said}{framing}{_date(int(time.time()))}{connection}\r\n"
    return head.encode(errors="surrogateescape")  # what a client sent and gets back need not be UTF-8


_CONNECTION = {True: "Connection: keep-alive\r\n", False: "Connection: close\r\n"}


@functools.cache
def _first_line(status: int, version: HttpVersion) -> str:
    return f"HTTP/{version.major}.{version.minor} {status} {web.Response(status=status).reason}\r\n"


@functools.lru_cache(maxsize=1)
def _date(unix_s: int) -> str:
    return f"Date: {email.utils.formatdate(unix_s, usegmt=True)}\r\n"
