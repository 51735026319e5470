"""Which tokens a sequence has, counted as it grows."""

from __future__ import annotations

from array import array
from collections.abc import Sequence


class History:
    """Which tokens a sequence has, and how often its output has each. Follows a sequence that grows."""

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._ids = array("i")
        self._counts = array("i")
        self._num_followed = 0

    def follow(self, tokens: Sequence[int], num_prompt: int) -> tuple[array[int], array[int]]:
        """
        :param tokens: those of the last call and any number behind them.
        :return: the ids in `tokens`, each once; how often each is among those behind the prompt. Both grow later.
        """
        assert len(tokens) >= self._num_followed, "a sequence does not become shorter"
        for position, token in enumerate(tokens[self._num_followed :], self._num_followed):
            slot = self._slots.setdefault(token, len(self._slots))
            if slot == len(self._ids):
                self._ids.append(token)
                self._counts.append(0)
            self._counts[slot] += position >= num_prompt
        self._num_followed = len(tokens)
        return self._ids, self._counts
