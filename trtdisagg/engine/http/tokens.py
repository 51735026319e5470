"""The tokens of an answer beside its text: each waits here until the text that it ends with has been said.

text       T h e   c a t  .     said up to here: a stop string may begin with "t"
                     ^
tokens     The| cat|.|          "The" is out; " cat" and "." wait
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from trtdisagg.engine.request import TokenLogprob
from trtdisagg.text.detokenizer import Detokenizer
from trtdisagg.text.token_bytes import TokenBytes
from trtdisagg.text.tokenizer import Tokenizer


class Alternative(NamedTuple):
    """A token that could have been, and how probable it was."""

    token_id: int
    spelt: bytes
    logprob: float


class Said(NamedTuple):
    """One token of a text."""

    token_id: int
    spelt: bytes
    """Maybe a part of a character."""
    offset: int
    """Characters of the text that are complete before it."""
    logprob: float | None = None
    """None: it was not asked for, or it is the first of a prompt."""
    top: list[Alternative] = []
    """The most probable, best first."""
    is_text: bool = True
    """False: it ended the answer and is not said, or lies in what a stop string cut off."""


class Waiting:
    """The tokens of one answer, in order, from their arrival until their text is said."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._bytes = token_bytes
        self._waiting: deque[tuple[Said, float]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, token_id: int, logprob: TokenLogprob | None, *, offset: int, end: float) -> None:
        """
        :param end: said with so many characters of the text.
        """
        self._waiting.append((spell(token_id, logprob, offset, self._bytes), end))

    def hide(self, token_id: int) -> None:
        """Add the token that ends the answer without being said."""
        self._waiting.append((Said(token_id, self._bytes[token_id], 0, is_text=False), float("inf")))

    def drop(self, num_chars: int) -> None:
        """Forget those that the client has had."""
        self.said(num_chars)

    def said(self, num_chars: int) -> list[Said]:
        """Take those whose text lies within the first `num_chars` characters."""
        waiting, taken = self._waiting, []
        while waiting and waiting[0][1] <= num_chars:
            taken.append(waiting.popleft()[0])
        return taken

    def rest(self, num_chars: int | None) -> list[Said]:
        """Take all.

        :param num_chars: where a stop string has cut the text; None: it has not been cut.
        """
        taken = [said for said, _ in self._waiting]
        self._waiting.clear()
        if num_chars is None:
            return taken
        return [said if said.offset < num_chars else said._replace(is_text=False) for said in taken]


def spell(token_id: int, logprob: TokenLogprob | None, offset: int, token_bytes: TokenBytes) -> Said:
    spelt = token_bytes[token_id]
    if logprob is None:
        return Said(token_id, spelt, offset)
    top = [Alternative(t, token_bytes[t], p) for t, p in logprob.top]
    return Said(token_id, spelt, offset, logprob.logprob, top)


def spell_prompt(token_ids: Sequence[int], logprobs: Sequence[TokenLogprob], tokenizer: Tokenizer) -> list[Said]:
    """The tokens of a prompt, as they stand in its text.

    :param logprobs: of all but the first.
    """
    detokenizer, said, offset = Detokenizer(tokenizer), [], 0
    for token_id, logprob in zip(token_ids, [None, *logprobs], strict=True):
        said.append(spell(token_id, logprob, offset, tokenizer.token_bytes))
        offset += len(detokenizer.push([token_id]))
    return said
