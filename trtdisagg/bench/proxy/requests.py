"""What the load client asks: chat completions, as bytes of HTTP."""

from __future__ import annotations

from functools import cache

import msgspec

PATH = "/v1/chat/completions"
MODEL = "scripted"
_LINE = 'He said: "not before the second of May, when the others are there", and went on reading.\n'


@cache
def asking(*, content_bytes: int = 100, num_tokens: int = 16, interval_ms: float | None = None) -> bytes:
    """A request.

    :param content_bytes: of its one message, as JSON.
    :param interval_ms: between two tokens of a stream; None: a whole answer.
    """
    line = msgspec.json.encode(_LINE)[1:-1].decode()
    content = _LINE * (content_bytes // len(line)) + "." * (content_bytes % len(line))
    # The seed tells the scripted server how to stream; it is one of the few fields that every proxy passes on.
    pace = {} if interval_ms is None else {"seed": num_tokens * 10**9 + round(interval_ms * 1000)}
    body = {
        "model": MODEL,
        "stream": interval_ms is not None,
        "max_tokens": num_tokens,
        **pace,
        "temperature": 0.5,
        "messages": [{"role": "user", "content": content}],
    }
    return http_request("POST", PATH, msgspec.json.encode(body))


def http_request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(body), body)
