"""The blocks of one server, as keys of their hashes: those it said it has, and those it is about to have. Pure.

    chain of a prompt   k0  k1  k2  k3  k4       found: 3, because blocks of no use are not counted:
    known               k0  k1          k4       whoever lacks k3 has to compute k4 again
    expected                    k2

A key names the whole beginning of a text, but eviction takes blocks from the middle, too: so a chain is walked from its
start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

MAX_EXPECTED = 1 << 18
"""Keys; the oldest of more are dropped."""

Root = tuple[str, int]
"""Root model and tokens per block: whose chains the keys are of."""


class Blocks:
    """
    :param root: what the server's hashes depend on beside tokens and salt.
    """

    def __init__(self, root: Root) -> None:
        self.root = root
        self._known: set[int] = set()
        self._expected: dict[int, float] = {}
        """Key -> until when."""
        self._expiring: deque[tuple[float, Sequence[int]]] = deque()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, keys: Iterable[int]) -> None:
        self._known.update(keys)

    def remove(self, keys: Iterable[int]) -> None:
        self._known.difference_update(keys)

    def num_found(self, chain: Sequence[int], now: float) -> int:
        """How many blocks of a prompt are here, or will be, from its first on."""
        known, expected = self._known, self._expected
        for i, key in enumerate(chain):
            if key not in known and expected.get(key, 0.0) <= now:
                return i
        return len(chain)

    def expect(self, chain: Sequence[int], now: float, until: float) -> None:
        """A prompt was sent here: others that begin alike should come, too, before its blocks are told of."""
        self._drop_expired(now)
        known, expected = self._known, self._expected
        long_enough = now + 0.9 * (until - now)  # otherwise a prompt that comes often would be kept as often
        keys = [key for key in chain if key not in known and expected.get(key, 0.0) < long_enough]
        if keys:
            self._expected.update(dict.fromkeys(keys, until))
            self._expiring.append((until, keys))

    def _drop_expired(self, now: float) -> None:
        while self._expiring and (self._expiring[0][0] <= now or len(self._expected) > MAX_EXPECTED):
            until, keys = self._expiring.popleft()
            for key in keys:
                if self._expected.get(key) == until:
                    del self._expected[key]
