"""Slots of a staging buffer: a half of them for what others pack for themselves here, a half for what we receive.

    | receive 0 | receive 1 | ... | send 0 | send 1 | ... |

Who receives waits with a slot of its own for one of the sender's; the sender's becomes free without anybody's help but
the reader's, who waits for nothing more. Two halves, and so no circle of ranks that send to each other can wait.

A slot that somebody may still write into is given back when it is known that he does not any more: until then it is in
quarantine, and the others go on with fewer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trtdisagg.cache.layout import block_bytes
from trtdisagg.protocol.handover import KvShape
from trtdisagg.protocol.memory import Region
from trtdisagg.protocol.spec import TransferSpec

SLOT_BYTES = 4 << 20
"""Large enough for a request for it to cost little beside the copy, small enough for several to be on their way."""
MIN_SLOTS = 2
"""Of a half: one travels while the next is packed."""
_LINE_BYTES = 64


class Slots:
    """One half of a staging buffer. All calls in one event loop.

    :param first: offset of the first slot in the region.
    """

    def __init__(self, first: int, num_slots: int, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self.num_slots = num_slots
        self.num_quarantined = 0
        self._free: asyncio.Queue[int] = asyncio.Queue()
        self._taken: set[int] = set()
        for i in range(num_slots):
            self._free.put_nowait(first + i * slot_bytes)

    @property
    def num_usable(self) -> int:
        return self.num_slots - self.num_quarantined

    async def take(self) -> int:
        """Wait for a slot, in the order of asking.

        :return: its offset in the region.
        """
        slot = await self._free.get()
        self._taken.add(slot)
        return slot

    def give(self, slot: int) -> None:
        """Give a taken slot back: nothing is written into it any more."""
        self._taken.remove(slot)
        self._free.put_nowait(slot)

    def give_when(self, slot: int, written: asyncio.Future[None]) -> None:
        """Give a taken slot back when it is known that it is written no more; until then it is in quarantine."""
        if written.done():
            self.give(slot)
            return
        self.num_quarantined += 1
        written.add_done_callback(lambda _: self._release(slot))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        slot = await self.take()
        try:
            yield slot
        finally:
            self.give(slot)

    def check_integrity(self) -> None:
        """Every slot is free, or taken by one."""
        assert self._free.qsize() + len(self._taken) == self.num_slots
        assert 0 <= self.num_quarantined <= len(self._taken)

    def _release(self, slot: int) -> None:
        self.num_quarantined -= 1
        self.give(slot)


def staging_bytes(spec: TransferSpec, shape: KvShape, num_blocks: int) -> int:
    """How large a rank's buffer is, both halves together: no larger than what the file says, nor than its blocks."""
    if spec.zero_copy or set(spec.transports) <= {"local", "mpi"}:  # neither has peers write
        return 0
    block = block_bytes(shape)
    asked = spec.buffer_bytes
    if spec.max_tokens_in_buffer is not None:
        asked = min(asked, spec.max_tokens_in_buffer * block // shape.tokens_per_block)
    return min(asked, num_blocks * block)


def halves(region: Region) -> tuple[Slots, Slots] | None:
    """Slots to receive with and slots to send from; None: the region has no room for them."""
    half = region.staging_bytes // 2
    slot_bytes = min(SLOT_BYTES, half // MIN_SLOTS) // _LINE_BYTES * _LINE_BYTES
    if slot_bytes == 0:
        return None
    first, num_slots = region.staging_offset, half // slot_bytes
    return Slots(first, num_slots, slot_bytes), Slots(first + num_slots * slot_bytes, num_slots, slot_bytes)
