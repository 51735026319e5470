"""Turns the tokens of one answer into text as they come, complete characters only."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from trtdisagg.text.token_bytes import TokenBytes

_MAX_CONTEXT = 8
"""Tokens of the prompt to look at: an unfinished character has at most three bytes."""


class Vocabulary(Protocol):
    """What it takes of a tokenizer."""

    token_bytes: TokenBytes
    special_token_ids: frozenset[int]


class Detokenizer:
    """The pieces of one answer, put together, are what decoding all its tokens at once gives.

    :param prompt_token_ids: what the answer follows: decides about a first space, and may end within a character.
    :param shown_token_ids: special tokens that are not skipped, as the marks of calls of tools.
    """

    def __init__(
        self,
        tokenizer: Vocabulary,
        prompt_token_ids: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
        shown_token_ids: Collection[int] = (),
    ) -> None:
        self._bytes = tokenizer.token_bytes
        self._skipped = tokenizer.special_token_ids.difference(shown_token_ids) if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        context = self._join(prompt_token_ids[-_MAX_CONTEXT:])
        self._utf8.decode(context)
        self._at_start = self._bytes.strips_first_space and not (context or self._join(prompt_token_ids))

    def push(self, token_ids: Iterable[int]) -> str:
        """Take the next tokens; returns the characters that they complete."""
        new = self._join(token_ids)
        if self._at_start and new:
            new = new.removeprefix(b" ")
            self._at_start = False
        return self._utf8.decode(new)

    @property
    def is_within_character(self) -> bool:
        """The last tokens are the beginning of a character that is not complete."""
        return bool(self._utf8.getstate()[0])

    def flush(self) -> str:
        """No more tokens come: returns what is left of an unfinished character, as U+FFFD."""
        return self._utf8.decode(b"", final=True)

    def _join(self, token_ids: Iterable[int]) -> bytes:
        return b"".join([self._bytes[t] for t in token_ids if t not in self._skipped])
