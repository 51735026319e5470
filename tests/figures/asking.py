"""Asks servers as a client does, and looks at the clock."""

from __future__ import annotations

import json
import random
import time
from http.client import HTTPConnection
from typing import Any

TIMEOUT_S = 120.0
_WORDS = """
    time year people way day man thing woman life child world school state family student group country problem hand
    part place case week company system program question work night point home water room mother area money story
""".split()  # noqa: SIM905 - easier to read


def make_prompt(num_tokens: int) -> str:
    """So many words, each one token, which nobody has said before."""
    return " ".join(random.choices(_WORDS, k=num_tokens))


def stream(url: str, **fields: Any) -> list[float]:
    """When each event of a streamed answer came, by the monotonic clock: one a token."""
    body = {"temperature": 0, "ignore_eos": True, "stream": True, **fields}
    connection = HTTPConnection(url.removeprefix("http://"), timeout=TIMEOUT_S)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        times = []
        while line := answer.readline():  # to the end: who leaves before it is not counted as answered
            if line.startswith(b"data: {"):
                times.append(time.monotonic())
        return times
    finally:
        connection.close()
