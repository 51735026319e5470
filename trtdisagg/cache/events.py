"""The last events about blocks, kept until somebody takes them.

One thread adds, any thread takes: each is one operation of a deque, which is atomic.
"""

from __future__ import annotations

from collections import Counter, deque

from trtdisagg.protocol.kv_events import Created, KvEvent, Removed, Stored, StoredBlock


class BlockEvents:
    """A ring of events, of one pool or of several whose blocks are one server's: then a block can be found from the
    first pool that has it until the last one has not.

    :param capacity: when so many wait, the oldest is lost; 0: none are made.
    """

    def __init__(self, capacity: int) -> None:
        self._ring: deque[KvEvent] = deque(maxlen=capacity)
        self._next_id = 0
        self._num_pools: Counter[bytes] = Counter()
        """By hash: how many have that block."""
        self.is_on = capacity > 0

    def created(self, num_blocks: int, num_host_blocks: int = 0) -> None:
        """There is nothing in any pool."""
        self._num_pools.clear()
        self._add(Created([num_blocks, num_host_blocks]))

    def stored(self, parent_hash: bytes, block_hash: bytes, tokens: list[int]) -> None:
        if self.is_on and self._count(block_hash, 1) == 1:
            block = StoredBlock(block_hash=block_hash.hex(), tokens=tokens)
            self._add(Stored(parent_hash=parent_hash.hex(), blocks=[block]))

    def removed(self, block_hash: bytes) -> None:
        if self.is_on and self._count(block_hash, -1) == 0:
            del self._num_pools[block_hash]
            self._add(Removed([block_hash.hex()]))

    def _count(self, block_hash: bytes, change: int) -> int:
        self._num_pools[block_hash] += change
        return self._num_pools[block_hash]

    def take(self) -> list[KvEvent]:
        """Everything since the last time, the oldest first."""
        taken = []
        while self._ring:
            try:
                taken.append(self._ring.popleft())
            except IndexError:  # somebody else took it
                break
        return taken

    def _add(self, data: Created | Stored | Removed) -> None:
        if self.is_on:
            self._ring.append(KvEvent(event_id=self._next_id, data=data))
            self._next_id += 1
