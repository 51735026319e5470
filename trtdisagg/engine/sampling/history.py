"""Which tokens a sequence has, counted as it grows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


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
