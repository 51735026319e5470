"""KV by way of staging buffers: pieces of a fetch, several on their way at once, each through a slot of ours.

    staged pull   the holder packs into a slot of its own | we read it | we unpack
    push          the holder packs and writes into our slot            | we unpack

It knows one pair of ranks; when it returns or raises, nothing is written into our blocks any more, and a slot that may
still be written is in quarantine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np

from trtdisagg.cache.copying import copy_within
from trtdisagg.cache.layout import Runs
from trtdisagg.cache.movers.choice import PIECES_UNDERWAY, Way
from trtdisagg.cache.movers.help import Help
from trtdisagg.cache.movers.means import Means
from trtdisagg.cache.movers.pieces import as_asked, out_of_slot, pieces
from trtdisagg.cache.movers.staging import Slots
from trtdisagg.cache.waiting import all_of, in_thread
from trtdisagg.errors import HandoverError

Read = Callable[[Runs], Awaitable[None]]
"""From their region into ours; waits until nothing is written any more, also when it is cancelled."""


class Staged:
    """The way through staging buffers between two ranks.

    :param slots: of ours, to receive with.
    :param help_: of the rank that holds.
    """

    def __init__(self, means: Means, slots: Slots, help_: Help, read: Read) -> None:
        self._means = means
        self._slots = slots
        self._help = help_
        self._read = read

    @property
    def piece_bytes(self) -> int:
        """How much goes at once; 0: nothing can now."""
        return min(self._slots.slot_bytes, self._help.slot_bytes) if self._slots.num_usable else 0

    async def move(self, runs: Runs, way: Way) -> None:
        """Fetch runs piece by piece.

        :raises HandoverError: when one of them could not be had.
        """
        if not (piece_bytes := self.piece_bytes):
            raise HandoverError("all slots of the staging buffer may still be written by others")
        waiting = pieces(runs, piece_bytes)
        one = self.push if way == "push" else self.pull

        async def work() -> None:
            for piece in waiting:  # each takes the next
                await one(piece)

        await all_of([work() for _ in range(PIECES_UNDERWAY)])

    async def pull(self, piece: Runs) -> None:
        async with self._slots.slot() as slot:
            number, packed = self._help.pack(as_asked(piece))
            try:
                await self._read(np.array([[slot, await packed, piece[:, 2].sum()]], np.int64))
            finally:
                freed = self._help.done(number)
            await self._unpack(piece, slot)
            await freed

    async def push(self, piece: Runs) -> None:
        slot = await self._slots.take()
        pushing = self._help.push(as_asked(piece), slot)
        self._means.serving.needed_until(pushing.written)  # a write that we do not wait for any more ends all the same
        try:
            await pushing.answer
            await self._unpack(piece, slot)
        finally:
            self._slots.give_when(slot, pushing.written)

    async def _unpack(self, piece: Runs, slot: int) -> None:
        try:
            await in_thread(self._means.threads, copy_within, self._means.pool.memory, out_of_slot(piece, slot))
        except IndexError as e:
            raise HandoverError(f"a piece does not fit: {e}") from e
