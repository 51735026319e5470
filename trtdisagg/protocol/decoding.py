"""Reads the bodies of openai.py. What is wrong with one is said by the field's path, and nothing is accepted that would
be ignored.

A field that is listed in `NOT_SERVED` is known to users of OpenAI's or TensorRT-LLM's API and refused, with the reason,
when it is set to anything but its neutral value.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import re
from typing import Any, NamedTuple, TypeVar

import msgspec

from trtdisagg.errors import RequestError, UnsupportedError
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest
from trtdisagg.protocol.unknown_fields import name_unknown

TIMEOUT_HEADER = "X-Request-Timeout"
"""Seconds that a request may take, where its body has no `timeout`."""


class NotServed(NamedTuple):
    neutral: tuple[Any, ...]
    """Values that ask for nothing; the first is the default."""
    why: str


NOT_SERVED: dict[str, NotServed] = {
    "use_beam_search": NotServed((False,), "beams are limited to a width of 1; `best_of` chooses among samples"),
    "suffix": NotServed((None, ""), "text is only continued, not filled in"),
    "chat_template": NotServed((None,), "the model's own is used, because a template is a program"),
}

MAX_SHOWN_CHARS = 200
"""Of what a client made up."""

_Request = TypeVar("_Request", ChatRequest, CompletionRequest)
_Body = TypeVar("_Body", bound=msgspec.Struct)

_MISSING = re.compile(r"missing required field `(.+)`")
_UNKNOWN = re.compile(r"unknown field `(.*)`", re.DOTALL)
_PATH = re.compile(r" - at `\$\.?(.*)`$")


def decode_request(body: bytes, kind: type[_Request]) -> _Request:
    """Decode and check a request body.

    :raises RequestError: saying which field is wrong and why; `param` is its path.
    :raises UnsupportedError: for a known feature that is not served.
    """
    request = decode_body(body, kind)
    if not _asks_for_nothing_more(request):
        _refuse_not_served(request)
    if request.stream_options is not None and not request.stream:
        raise RequestError("`stream_options` is allowed only with `stream: true`", param="stream_options")
    return request


def decode_body(body: bytes, kind: type[_Body]) -> _Body:
    """Decode a body of any form.

    :raises RequestError: saying which field is wrong and why; `param` is its path.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as e:
        raise _wrong_field(str(e), body, kind) from None
    except msgspec.DecodeError as e:
        raise RequestError(f"The body is not valid JSON: {e}") from None
    except UnicodeDecodeError:
        raise RequestError("The body is not valid UTF-8") from None
    except RecursionError:
        raise RequestError("The body is nested too deeply") from None


def read_timeout(header: str | None) -> float | None:
    """Seconds, as `TIMEOUT_HEADER` says them.

    :raises RequestError: when it says anything else.
    """
    if header is None:
        return None
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(header)) < math.inf:
            return seconds
    raise RequestError(f"The header {TIMEOUT_HEADER} is {header!r}; it takes seconds", param=TIMEOUT_HEADER)


def _refuse_not_served(request: ChatRequest | CompletionRequest) -> None:
    for name, (neutral, why) in NOT_SERVED.items():
        if getattr(request, name, neutral[0]) not in neutral:
            raise UnsupportedError(f"`{name}` is not supported by this server: {why}; leave it out", param=name)


def _asks_for_nothing_more(request: ChatRequest | CompletionRequest) -> bool:
    """Whether all fields of `NOT_SERVED` have their defaults, as almost always: one comparison for all."""
    get, defaults = _not_served_fields(type(request))
    return bool(get(request) == defaults)


@functools.cache
def _not_served_fields(kind: type[ChatRequest | CompletionRequest]) -> tuple[operator.attrgetter[Any], tuple[Any, ...]]:
    names = [name for name in NOT_SERVED if name in kind.__struct_fields__]
    return operator.attrgetter(*names), tuple(NOT_SERVED[name].neutral[0] for name in names)


def _wrong_field(text: str, body: bytes, kind: type[msgspec.Struct]) -> RequestError:
    path = m[1] if (m := _PATH.search(text)) else ""
    what = _PATH.sub("", text)
    if m := _UNKNOWN.search(what):
        name = _join(path, m[1])
        named = name_unknown(body, kind) or [f"`{name}`"]
        return RequestError(f"Unknown field{'s' * (len(named) > 1)} {', '.join(named)}", param=name)
    if m := _MISSING.search(what):
        name = _join(path, m[1])
        return RequestError(f"Missing field `{name}`", param=name)
    what = what[:MAX_SHOWN_CHARS]
    return RequestError(f"Wrong value for `{path}`: {what}" if path else f"Wrong body: {what}", param=path or None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name[:MAX_SHOWN_CHARS]}" if path else name[:MAX_SHOWN_CHARS]
