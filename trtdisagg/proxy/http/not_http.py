"""What is said, in OpenAI's form, to those whom the server itself refuses: what they send is no HTTP or too long, or
they are too many. Never logged: any client could fill the log."""

from __future__ import annotations

from aiohttp import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from trtdisagg.errors import RequestError, TrtdisaggError, UnavailableError
from trtdisagg.protocol.answers import encode_error
from trtdisagg.proxy.http.whole_answer import encode_head
from trtdisagg.proxy.ids import make_id

MAX_LINE_BYTES = 8 * 1024
MAX_HEADER_BYTES = 16 * 1024
"""Name and value of one."""
MAX_HEADERS = 100
MAX_REASON_CHARS = 200


class LineTooLongError(RequestError):
    """The request's first line is over the limit."""

    http_status = 414
    code = "uri_too_long"


class HeadersTooLargeError(RequestError):
    """A header is over the limit, or there are too many."""

    http_status = 431
    code = "headers_too_large"


def too_many() -> bytes:
    """The whole answer to one connection too many."""
    return _answer(UnavailableError("Too many connections are open; come again later"), {"Retry-After": "1"})


def not_http(error: HttpProcessingError) -> bytes:
    """The whole answer to what cannot be read."""
    return _answer(_named(error), {})


def a_bug() -> bytes:
    """The whole answer where a handler failed."""
    return _answer(TrtdisaggError("Internal error; the proxy's log has more"), {})


def _answer(error: TrtdisaggError, headers: dict[str, str]) -> bytes:
    body = encode_error(error)
    headers = {"Content-Type": "application/json", "X-Request-Id": make_id(), **headers}
    length = f"Content-Length: {len(body)}\r\n"
    return encode_head(error.http_status, headers.items(), length, HttpVersion11, keep_alive=False) + body


def _named(error: HttpProcessingError) -> RequestError:
    if isinstance(error, LineTooLong):
        if error.args[1] == MAX_LINE_BYTES:
            return LineTooLongError(f"The first line is longer than {MAX_LINE_BYTES} bytes")
        return HeadersTooLargeError(f"A header is longer than {MAX_HEADER_BYTES} bytes")
    reason = (error.message or "no reason is known").strip().splitlines()[0]
    if reason == "Too many headers received":
        return HeadersTooLargeError(f"There are more than {MAX_HEADERS} headers")
    return RequestError(f"The request is not valid HTTP: {reason[:MAX_REASON_CHARS]}")
