"""The fake engine's language: every token is a pure function of the prompt and its position.

So a token that is wrong, lost, doubled or of another request shows in the text. Tests compute what must come.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any


def tokenize(text: str) -> list[int]:
    return list(text.encode())


def chat_ids(messages: list[dict[str, Any]]) -> list[int]:
    return tokenize("\n".join(f"{m['role']}: {m['content']}" for m in messages))


def token_text(prompt: tuple[int, ...], position: int) -> str:
    return f"{_key(prompt)}.{position} "


def num_chars(num_tokens: int) -> int:
    """Of the first tokens of any answer: a key of eight, a dot, the digits of the position, a space."""
    num_digits = num_tokens + sum(max(0, num_tokens - 10**exponent) for exponent in range(1, 10))
    return 10 * num_tokens + num_digits


def token_id(prompt: tuple[int, ...], position: int) -> int:
    return int(_key(prompt), 16) % 10_000 + position


def answer(prompt: str | list[int], num_tokens: int) -> str:
    """The whole text that a completion of `prompt` must have."""
    ids = tuple(tokenize(prompt) if isinstance(prompt, str) else prompt)
    return "".join(token_text(ids, i) for i in range(num_tokens))


def chat_answer(messages: list[dict[str, Any]], num_tokens: int) -> str:
    """The whole text that the answer to `messages` must have."""
    return answer(chat_ids(messages), num_tokens)


@functools.lru_cache(maxsize=4096)
def _key(prompt: tuple[int, ...]) -> str:
    return hashlib.blake2b(repr(prompt).encode(), digest_size=4).hexdigest()
