"""The tokens of an answer beside its text: each waits here until all of its text may be said, and is said with it.

text       T h e   c a t  .     may be said up to here: a stop string may begin with "t"
                     ^
tokens     The| cat|.|          "The" is out; " cat" and "." wait, and so does " ca"
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


class _Waiting(NamedTuple):
    said: Said
    end: int | None


class Waiting:
    """The tokens of one answer, in order, from their arrival until their text is said."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._bytes = token_bytes
        self._waiting: deque[_Waiting] = deque()
        self.num_chars = 0
        """That the tokens which do not wait any more say."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, token_id: int, logprob: TokenLogprob | None, *, offset: int, end: int | None) -> None:
        """
        :param end: characters of the text that there are with it; None: it ends within one, and is said with the next.
        """
        self._waiting.append(_Waiting(spell(token_id, logprob, offset, self._bytes), end))

    def hide(self, token_id: int) -> None:
        """Add the token that ends the answer without being said."""
        self._waiting.append(_Waiting(Said(token_id, self._bytes[token_id], 0, is_text=False), None))

    def drop(self, num_chars: int) -> None:
        """Forget those that the client has had."""
        self.said(num_chars)

    def said(self, num_chars: int) -> list[Said]:
        """Take those whose text lies within the first `num_chars` characters."""
        num_taken = 0
        for i, (_, end) in enumerate(self._waiting):
            if end is not None and end > num_chars:
                break
            if end is not None:
                num_taken, self.num_chars = i + 1, end
        return [self._waiting.popleft().said for _ in range(num_taken)]

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
