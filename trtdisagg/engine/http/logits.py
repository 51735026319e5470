"""Logits as JSON: many numbers, so they are written row by row, beside the event loop, and there is a bound to them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from torch import Tensor

from trtdisagg.errors import RequestError

MAX_NUM_LOGITS = 8 * 1024 * 1024
"""In one answer; a number takes up to 20 bytes."""


def check_room(num_tokens: int, vocab_size: int) -> None:
    """
    :raises RequestError: when an answer with the logits of so many tokens would be too large.
    """
    if num_tokens * vocab_size > MAX_NUM_LOGITS:
        raise RequestError(
            f"Logits of {num_tokens} tokens are more than an answer may hold: with {vocab_size} a token there is room "
            f"for {MAX_NUM_LOGITS // vocab_size} tokens; ask for less"
        )


def rows(logits: Sequence[Tensor], num_tokens: int) -> list[msgspec.Raw]:
    """
    :param logits: float32 [tokens, vocab] each, one behind the other.
    :param num_tokens: so many are wanted.
    """
    wanted = [row for part in logits for row in part][:num_tokens]
    return [msgspec.Raw(msgspec.json.encode(row.tolist())) for row in wanted]
