"""What each token stands for, in bytes: so that text can be put together token by token, at a constant cost.

A tokenizer's decoder works on a whole list of tokens. The decoders that language models have are concatenative but for
the space that SentencePiece puts before the first word, so a table of bytes says the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from tokenizers import Tokenizer

from trtdisagg.errors import ConfigError

_MAX_ID = 2**32 - 1
"""The library takes none beyond; ids come from clients and are checked by whoever knows the model's vocabulary."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Token id -> bytes, looked up once and kept.

    :raises ConfigError: when the tokenizer has a decoder of another kind.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._id_to_token = tokenizer.id_to_token
        self._known: dict[int, bytes] = {}
        decoder = msgspec.json.decode(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {"type": "none"}
        self.strips_first_space, self._to_bytes = _kind(decoder)

    def __getitem__(self, token_id: int) -> bytes:
        found = self._known.get(token_id)
        if found is None:
            token = self._id_to_token(token_id) if 0 <= token_id <= _MAX_ID else None
            found = self._known[token_id] = b"" if token is None else self._to_bytes(token)
        return found


def _kind(decoder: dict[str, Any]) -> tuple[bool, Callable[[str], bytes]]:
    """Whether the first space of a text is dropped, and what makes bytes of a token."""
    parts = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    types = [p["type"] for p in parts]
    if types == ["ByteLevel"]:
        return False, _byte_level
    if types == ["Metaspace"]:
        return parts[0].get("prepend_scheme", "always") != "never", _plain
    if types[:3] == ["Replace", "ByteFallback", "Fuse"] and types[3:] in ([], ["Strip"]):
        return types[3:] == ["Strip"], _byte_fallback
    raise ConfigError(f"The tokenizer has a decoder of kind {'+'.join(types)}, which is not supported")


def _plain(token: str) -> bytes:
    return token.replace("▁", " ").encode()


def _byte_fallback(token: str) -> bytes:
    match = _BYTE_TOKEN.fullmatch(token)
    return bytes.fromhex(match[1]) if match else _plain(token)


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF_CHAR[c] for c in token)
    except KeyError:  # an added token, which is text as it stands
        return token.encode()


def _byte_of_char() -> dict[str, int]:
    """GPT-2's alphabet: a printable byte of Latin-1 is its own character, the others follow from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTE_OF_CHAR = _byte_of_char()
