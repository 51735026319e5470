"""What is asked of the sampler for one row of logits, and what comes back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trtdisagg.engine.interfaces import Bits
from trtdisagg.engine.request import SamplingParams, TokenLogprob

Ids = npt.NDArray[np.int32]


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


class Sampled(NamedTuple):
    token: int | None
    """None: the logits are not numbers, or every token is banned."""
    logprob: TokenLogprob | None
    """Where asked for, and there is a token."""


class History:
    """Which tokens a sequence has, and how often its output has each. Follows a sequence that grows."""

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._ids = np.zeros(64, np.int32)
        self._counts = np.zeros(64, np.int32)
        self._num_followed = 0

    def follow(self, tokens: Sequence[int], num_prompt: int) -> tuple[Ids, Ids]:
        """
        :param tokens: those of the last call and any number behind them.
        :return: views: the ids in `tokens`, each once; how often each is among those behind the prompt.
        """
        assert len(tokens) >= self._num_followed, "a sequence does not become shorter"
        for position, token in enumerate(tokens[self._num_followed :], self._num_followed):
            self._count(token, position >= num_prompt)
        self._num_followed = len(tokens)
        return self._ids[: len(self._slots)], self._counts[: len(self._slots)]

    def _count(self, token: int, is_output: bool) -> None:
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[slot] = token
        self._counts[slot] += is_output
