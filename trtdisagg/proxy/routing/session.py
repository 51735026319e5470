"""What makes requests one conversation: the client's word, or that they begin alike.

A client that says nothing (no X-Session-ID) sends the whole conversation each time: system prompt, first question, and
what came after. What is before the first answer stays, so it names the conversation, together with `user`. A single
prompt (/v1/completions) is of no conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from trtdisagg.errors import RequestError

SESSION_HEADER = "X-Session-ID"
MAX_SESSION_CHARS = 256


class _Message(msgspec.Struct):
    role: str


_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_message = msgspec.json.Decoder(_Message).decode


def read_session(header: str | None) -> str | None:
    """
    :raises RequestError: when it is too long to be a name.
    """
    if header is not None and len(header) > MAX_SESSION_CHARS:
        raise RequestError(
            f"The header {SESSION_HEADER} has {len(header)} characters; it may have {MAX_SESSION_CHARS}",
            param=SESSION_HEADER,
        )
    return header or None


def conversation(fields: Mapping[str, msgspec.Raw]) -> str | None:
    """Name the conversation that a checked chat request belongs to.

    :param fields: of its body, not decoded.
    """
    if (messages := fields.get("messages")) is None:
        return None
    name = blake2b(bytes(fields.get("user", b"")), digest_size=16)
    for message in _split(messages):
        name.update(message)
        if _decode_message(message).role == "user":
            break
    return name.hexdigest()
