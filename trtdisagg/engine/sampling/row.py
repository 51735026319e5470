"""What is asked of the sampler for one row of logits, and what comes back."""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trtdisagg.engine.interfaces import Bits
from trtdisagg.engine.request import SamplingParams, TokenLogprob
from trtdisagg.engine.sampling.history import History

_TINY = float(np.finfo(np.float32).tiny)


class Row(NamedTuple):
    """How the token for one row of logits is chosen. Ids outside the vocabulary name no token and are passed over."""

    sampling: SamplingParams
    position: int
    """Index of the token to come, in prompt and output together."""
    choice: int = 0
    """Which of several answers to one prompt this is."""
    banned_ids: Collection[int] = ()
    tokens: Sequence[int] = ()
    """Prompt and output; looked at where penalties or bad words ask for it, and not copied."""
    num_prompt: int = 0
    """So many of `tokens` are the prompt."""
    mask: Bits | None = None
    """Allowed tokens: bit i of word w is token 32 w + i. What lies behind its end is not allowed. None: all are."""
    history: History | None = None
    """The sequence's own, to save counting all of `tokens` anew; the result is the same without."""

    @property
    def inverse_temperature(self) -> float:
        """What logits are multiplied by, in float32; 0: greedy, as where they would be divided by 0."""
        temperature = self.sampling.temperature
        return max(1 / temperature, _TINY) if temperature >= _TINY else 0.0

    @property
    def min_scaled(self) -> float:
        """The least that `min_p` leaves of scaled logits, the greatest of which is 0; in float32."""
        min_p = self.sampling.min_p
        return min(math.log(min_p), 0.0) if min_p > 0 else -math.inf

    @property
    def penalizes(self) -> bool:
        """Whether it matters what the sequence's tokens are."""
        s = self.sampling
        return s.repetition_penalty != 1 or s.presence_penalty != 0 or s.frequency_penalty != 0

    def seen(self) -> tuple[array[int], array[int]]:
        """The ids in `tokens`, each once, and how often each is in the output."""
        return (self.history or History()).follow(self.tokens, self.num_prompt)

    def banned(self) -> Iterator[int]:
        """Tokens that may not come, beside those that the mask forbids; some perhaps twice."""
        yield from self.banned_ids
        yield from (word[-1] for word in self.sampling.bad_words if word and self._ends_with(word[:-1]))

    def _ends_with(self, end: list[int]) -> bool:
        return not end or list(self.tokens[-len(end) :]) == end


class Sampled(NamedTuple):
    token: int | None
    """None: the logits are not numbers, or every token is banned."""
    logprob: TokenLogprob | None
    """Where asked for, and there is a token."""
