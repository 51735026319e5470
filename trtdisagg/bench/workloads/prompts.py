"""Prompts of so many tokens, which have nothing in common but what they are meant to.

A prompt is drawn in pieces, words or token ids; one that is drawn `after` another begins with all of its pieces.
"""

from __future__ import annotations

from random import Random
from typing import Any, Protocol

import msgspec

from trtdisagg.bench.workloads.vocabulary import Vocabulary
from trtdisagg.errors import ConfigError

_FEWEST_WORDS = 2
"""With fewer, all prompts would be one."""
_MAX_ATTEMPTS = 8
_TOKEN_IDS = range(1_000, 30_000)
"""In every vocabulary of today; special tokens and single bytes are at its ends."""


class Draft(msgspec.Struct, frozen=True):
    """A prompt, or how one begins."""

    pieces: list[Any]
    num_tokens: int | None
    """None: only a server can say."""


NOTHING = Draft([], 0)


class Prompts(Protocol):
    """A kind of prompts."""

    def draw(self, random: Random, num_tokens: int, after: Draft = NOTHING) -> Draft:
        """So many tokens more than `after` has."""
        ...

    def prompt(self, draft: Draft) -> str | tuple[int, ...]: ...


class ExactText:
    """Words that are one token each; what the tokenizer counts of the whole text is what was asked for.

    :param is_message: of chats: the template's own tokens come on top.
    """

    def __init__(self, vocabulary: Vocabulary, *, is_message: bool = False) -> None:
        self._vocabulary = vocabulary
        self._is_message = is_message
        self._words = vocabulary.words()
        if len(self._words) < _FEWEST_WORDS:
            raise ConfigError(f"The tokenizer {vocabulary.name} has too few words of one token to make prompts of")

    def draw(self, random: Random, num_tokens: int, after: Draft = NOTHING) -> Draft:
        """
        :raises ConfigError: when the tokenizer makes more tokens of any text.
        """
        wanted = (after.num_tokens or 0) + num_tokens
        words = random.choices(self._words, k=num_tokens)
        for _ in range(_MAX_ATTEMPTS):
            excess = self._count([*after.pieces, *words]) - wanted
            if excess == 0:
                return Draft([*after.pieces, *words], wanted)
            if excess >= len(words):
                break
            words = words[:-excess] if excess > 0 else words + random.choices(self._words, k=-excess)
        raise ConfigError(f"The tokenizer {self._vocabulary.name} makes no text that has exactly {num_tokens} tokens")

    def prompt(self, draft: Draft) -> str:
        return " ".join(draft.pieces)

    def _count(self, words: list[str]) -> int:
        return self._vocabulary.count(" ".join(words), is_message=self._is_message)


class TokenIds:
    """For completions of a model whose tokenizer is not here."""

    def draw(self, random: Random, num_tokens: int, after: Draft = NOTHING) -> Draft:
        ids = random.choices(_TOKEN_IDS, k=num_tokens)
        return Draft([*after.pieces, *ids], (after.num_tokens or 0) + num_tokens)

    def prompt(self, draft: Draft) -> tuple[int, ...]:
        return tuple(draft.pieces)


class PlainWords:
    """About so many tokens: words that are common enough to be one in most vocabularies."""

    def __init__(self) -> None:
        self._words = _COMMON.split()

    def draw(self, random: Random, num_tokens: int, after: Draft = NOTHING) -> Draft:
        return Draft([*after.pieces, *random.choices(self._words, k=num_tokens)], None)

    def prompt(self, draft: Draft) -> str:
        return " ".join(draft.pieces)


_COMMON = """
about after again air all also and another answer any apple area ask back ball bank base bear beat because bed before
begin behind best big bird black blood blue board boat body book both box boy bring build bus but call came can car care
carry case cat cause center chance change check child city class clean clear close cloud coat cold color come common
control cool copy corner could count country course cover cross cry cup cut dark day deal death deep desk did dinner do
dog door down draw dream dress drink drive drop dry each early earth east easy eat edge
"""
