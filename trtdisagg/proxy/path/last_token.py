"""The answer to a request that ended with its first token: the context server's, without what is not for clients.

A server that does not frame chunks gives one whole body; for a client that wants a stream it is framed here, so that
its text, finish reason and usage are not lost.
"""

from __future__ import annotations

from typing import Any

import msgspec

_Fields = dict[str, msgspec.Raw]
_decode_fields = msgspec.json.Decoder(_Fields).decode
_decode_choices = msgspec.json.Decoder(list[_Fields]).decode
_encode = msgspec.json.Encoder().encode

_NOT_FOR_CLIENTS = ("prompt_token_ids", "seam")


def whole(body: bytes, *, prompt_token_ids: bool = False) -> bytes:
    """The body for a client that wants no stream.

    :param prompt_token_ids: the client wants to know them.
    """
    fields, choices = _split(body)
    if prompt_token_ids:
        fields["prompt_token_ids"] = _decode_fields(body)["prompt_token_ids"]
    return _encode({**fields, "choices": choices})


def streamed(body: bytes, *, chat: bool, include_usage: bool) -> bytes:
    """The same as server-sent events, up to and with `[DONE]`."""
    fields, choices = _split(body)
    usage = fields.pop("usage", None)
    if chat:
        fields["object"] = msgspec.Raw(b'"chat.completion.chunk"')
        for choice in choices:
            choice["delta"] = choice.pop("message")
    events: list[dict[str, Any]] = [{**fields, "choices": choices}]
    if include_usage and usage is not None:
        events.append({**fields, "choices": [], "usage": usage})
    return b"".join(b"data: %b\n\n" % _encode(e) for e in events) + b"data: [DONE]\n\n"


def _split(body: bytes) -> tuple[_Fields, list[_Fields]]:
    fields = _decode_fields(body)
    for name in _NOT_FOR_CLIENTS:
        fields.pop(name, None)
    choices = _decode_choices(fields.pop("choices"))
    for choice in choices:
        choice.pop("disaggregated_params", None)
    return fields, choices
