"""What can be found in a server's blocks, and what becomes of it: as events for whoever takes them now and then, and as
changes for those who listen.

One thread says what happens, lets others listen and tells them. Any thread takes events: each is one operation of a
deque, which is atomic.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from trtdisagg.protocol.kv_events import Created, KvEvent, Removed, Stored, StoredBlock

BlockListener: TypeAlias = Callable[[bytes, bytes], None]
"""Takes hashes that can be found from now on, one behind the other, and those that cannot any more; at once."""


class BlockEvents:
    """Of one pool or of several whose blocks are one server's: then a block can be found from the first pool that has
    it until the last one has not.

    :param capacity: when so many events wait, the oldest is lost; 0: none are made.
    """

    def __init__(self, capacity: int) -> None:
        self._ring: deque[KvEvent] = deque(maxlen=capacity)
        self._next_id = 0
        self._makes_events = capacity > 0
        self._num_pools: dict[bytes, int] = {}
        """By hash: how many have that block, of which one has at least."""
        self._listeners: list[BlockListener] = []
        self._changed: dict[bytes, bool] = {}
        """What listeners are to be told: whether a hash can be found."""

    def created(self, num_blocks: int) -> None:
        """There is nothing in any pool."""
        if self._listeners:
            self._changed.update(dict.fromkeys(self._num_pools, False))
        self._num_pools.clear()
        self._add(Created([num_blocks, 0]))

    def stored(self, parent_hash: bytes, block_hash: bytes, tokens: list[int]) -> None:
        num_pools = self._num_pools[block_hash] = self._num_pools.get(block_hash, 0) + 1
        if num_pools > 1:
            return
        if self._listeners:
            self._changed[block_hash] = True
        if self._makes_events:
            block = StoredBlock(block_hash=block_hash.hex(), tokens=tokens)
            self._add(Stored(parent_hash=parent_hash.hex(), blocks=[block]))

    def removed(self, block_hash: bytes) -> None:
        num_pools = self._num_pools.pop(block_hash) - 1
        if num_pools:
            self._num_pools[block_hash] = num_pools
            return
        if self._listeners:
            self._changed[block_hash] = False
        if self._makes_events:
            self._add(Removed([block_hash.hex()]))

    def take(self) -> list[KvEvent]:
        """Every event since the last time, the oldest first."""
        taken = []
        while self._ring:
            try:
                taken.append(self._ring.popleft())
            except IndexError:  # somebody else took it
                break
        return taken

    # --- those who listen -------------------------------------------------------------------------------------------

    def listen(self, listener: BlockListener) -> None:
        """Tell it all that can be found, and from then on what changes."""
        self._listeners.append(listener)
        listener(b"".join(self._num_pools), b"")

    def forget(self, listener: BlockListener) -> None:
        """It listens no more, or never did."""
        if listener in self._listeners:
            self._listeners.remove(listener)
        if not self._listeners:
            self._changed.clear()

    def tell(self) -> None:
        """Tell those who listen what has changed since the last time: between steps, when all of it is true."""
        if not self._changed:
            return
        stored = b"".join([h for h, is_there in self._changed.items() if is_there])
        removed = b"".join([h for h, is_there in self._changed.items() if not is_there])
        self._changed.clear()
        for listener in self._listeners:
            listener(stored, removed)

    def check_integrity(self, hashes: Iterable[bytes]) -> None:
        """
        :param hashes: of all full blocks that can be found in any pool; of one that several have, several times.
        """
        assert self._num_pools == Counter(hashes), "what can be found is not what was told"

    def _add(self, data: Created | Stored | Removed) -> None:
        if self._makes_events:
            self._ring.append(KvEvent(event_id=self._next_id, data=data))
            self._next_id += 1
