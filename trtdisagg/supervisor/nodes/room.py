"""What is left on one node while servers are assigned. Pure.

    GPUs = those of ranks that have one of their own + those that sections with servers here name + those that are left

A GPU that a section names may have ranks of several of its servers, but never two of one server.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from trtdisagg.supervisor.division import num_ranks
from trtdisagg.supervisor.slots import Slot

ANY_NUMBER = 1 << 30


class Capacity(msgspec.Struct, kw_only=True, frozen=True):
    """What a node has for ranks."""

    name: str
    num_gpus: int = 0
    max_ranks: int = ANY_NUMBER
    """On GPUs and on the CPU together."""

    def is_called(self, host: str) -> bool:
        """Whether a host in `urls` means this node, with its domain or without."""
        return host == self.name or (("." in host) != ("." in self.name) and _short(host) == _short(self.name))

    def most_of(self, slot: Slot, *, on_cpu: bool) -> int:
        """Ranks of one server that find a place here when nobody else does."""
        return min(self.max_ranks, ANY_NUMBER if on_cpu else self.num_gpus, len(named_gpus(slot)) or ANY_NUMBER)


class Room:
    """
    :param on_cpu: all servers are on the CPU, whatever their sections say.
    """

    def __init__(self, node: Capacity, *, on_cpu: bool) -> None:
        self.node = node
        self.num_ranks = 0
        self._all_on_cpu = on_cpu
        self._num_own = 0
        """GPUs of ranks that have one of their own."""
        self._named: Counter[str] = Counter()
        """Ranks on each GPU that is kept for those who name it."""

    @property
    def num_left(self) -> int:
        """GPUs that nobody has or names."""
        return max(0, self.node.num_gpus - self._num_own - len(self._named))

    def fits(self, slot: Slot) -> int:
        """Ranks of this server, of which none is here yet, that find a place."""
        left = self.node.max_ranks - self.num_ranks
        if self.is_on_cpu(slot):
            return left
        names = named_gpus(slot)
        if not names:
            return min(left, self.num_left)
        num_new = sum(name not in self._named for name in names)
        return min(left, len(names) - num_new + min(num_new, self.num_left))

    def take(self, slot: Slot, count: int) -> None:
        """Ranks of a server come, which fit."""
        self.num_ranks += count
        if self.is_on_cpu(slot):
            return
        names = named_gpus(slot)
        self._num_own += 0 if names else count
        self._named.update(dict.fromkeys(names, 0))
        for name in self._least_shared(names, count):
            self._named[name] += 1

    def crowding(self, slot: Slot) -> int:
        """What makes another node better for a server that fits here: ranks that it would share a GPU with, or for one
        on the CPU, ranks that are here."""
        if self.is_on_cpu(slot):
            return self.num_ranks
        names = named_gpus(slot)
        return sum(self._named[name] for name in self._least_shared(names, num_ranks(slot.section)))

    def is_on_cpu(self, slot: Slot) -> bool:
        return self._all_on_cpu or slot.section.gpus == []

    def _least_shared(self, names: list[str], count: int) -> list[str]:
        return sorted(names, key=lambda name: self._named[name])[:count]


def named_gpus(slot: Slot) -> list[str]:
    """The GPUs that a server's section names; empty: each rank has one of its own, or the server is on the CPU."""
    return list(dict.fromkeys(map(str, slot.section.gpus or [])))


def _short(host: str) -> str:
    return host.partition(".")[0]
