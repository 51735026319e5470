"""A scheduler for each of the ranks that divide the requests, seen as one: with attention data parallelism several,
otherwise one.

    request --> place --> scheduler, blocks of dp rank 0 --+
                  |                                        +--> one plan --> all ranks compute one step
                  +-----> scheduler, blocks of dp rank 1 --+

Each has a batch and a pool of its own, so a request, once it has a place, stays there; its choices stay with it.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import NamedTuple

from trtdisagg.cache.blocks import BlockManager
from trtdisagg.cache.events import BlockEvents
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.plan import NOTHING, Plan, merged
from trtdisagg.engine.scheduler import Scheduler
from trtdisagg.engine.sequence import Sequence
from trtdisagg.engine.step import Chunk


class Room(NamedTuple):
    """What a dp rank offers a newcomer."""

    num_found: int
    """Tokens of it that are in some block there."""
    num_in_flight: int
    """Tokens of others there."""


def place(rooms: Items[Room]) -> int:
    """The dp rank that has the fewest tokens to look after when the newcomer's that it has not yet are added.

    So a prefix attracts those who begin with it until their rank has more to do than others by as much as it saves.
    """
    return min(range(len(rooms)), key=lambda i: (rooms[i].num_in_flight - rooms[i].num_found, i))


class Schedulers:
    """
    :param limits: of each dp rank.
    :param events: told what can be found, wherever it is.
    """

    def __init__(self, limits: Limits, events: BlockEvents) -> None:
        self._limits = limits
        self._events = events
        self.each = [
            Scheduler(limits, BlockManager(limits.num_blocks, limits.tokens_per_block, events))
            for _ in range(limits.dp_size)
        ]
        """By dp rank."""
        self._plans: list[Plan] = []
        """Parts of the last plan."""
        self._tell_created()

    def add(self, sequence: Sequence) -> None:
        """Give a newcomer, and its choices, a place."""
        dp_rank = self.place(sequence)
        for choice in (sequence, *sequence.siblings):
            choice.dp_rank = dp_rank
        self._of(sequence).add(sequence)

    def place(self, newcomer: Sequence) -> int:
        """The dp rank that is the best for it now."""
        if len(self.each) == 1:
            return 0
        return place([Room(s.tables.num_found(newcomer), s.num_tokens) for s in self.each])

    @property
    def is_fetching(self) -> bool:
        """Whether somebody may write into blocks."""
        return any(s.fetching or s.pieces for s in self.each)

    @property
    def has_work(self) -> bool:
        """Whether something could be computed now."""
        return not self._waits_for_transfers and any(s.has_work for s in self.each)

    @property
    def _waits_for_transfers(self) -> bool:
        """Nothing is computed while anything travels, where that is not to overlap."""
        return self.is_fetching and not self._limits.overlap_transfers

    # --- steps --------------------------------------------------------------------------------------------------------

    def schedule(self) -> Plan:
        """Admit who fits, and plan the next step."""
        self._plans = [s.schedule() for s in self.each]
        plan = merged(self._plans)
        return NOTHING._replace(admitted=plan.admitted) if self._waits_for_transfers else plan

    def computed(self) -> None:
        """What was planned last was computed."""
        for scheduler, plan in zip(self.each, self._plans, strict=True):
            scheduler.computed(plan)

    def ahead(self, drawing: list[Sequence]) -> list[tuple[int, Sequence, Chunk]]:
        """See `Scheduler.ahead`. With several ranks nothing is: the tokens are on the device of the first."""
        return self.each[0].ahead(drawing) if len(self.each) == 1 else []

    # --- one sequence -------------------------------------------------------------------------------------------------

    def fetched(self, sequence: Sequence, num_tokens: int) -> None:
        self._of(sequence).fetched(sequence, num_tokens)

    def prefetch(self, piece: Sequence) -> bool:
        scheduler = self._of(piece)
        return scheduler.pieces.begin(piece, scheduler.num_running)

    def prefetched(self, piece: Sequence, num_tokens: int) -> None:
        self._of(piece).pieces.end(piece, num_tokens)

    def hold(self, sequence: Sequence) -> None:
        self._of(sequence).hold(sequence)

    def end(self, sequence: Sequence) -> None:
        self._of(sequence).end(sequence)

    def _of(self, sequence: Sequence) -> Scheduler:
        return self.each[sequence.dp_rank]

    # --- all blocks ---------------------------------------------------------------------------------------------------

    def distrust(self) -> None:
        """Nothing that was computed so far is reused any more."""
        for scheduler in self.each:
            scheduler.tables.distrust()
        self._tell_created()

    def check_integrity(self, sequences: list[Sequence]) -> None:
        """Assert that each sequence is where its state says, and that no block is lost.

        :param sequences: all that there are.
        """
        for dp_rank, scheduler in enumerate(self.each):
            scheduler.check_integrity([s for s in sequences if s.dp_rank == dp_rank])
        self._events.check_integrity(h for scheduler in self.each for h in scheduler.blocks.index.full_hashes)

    def _tell_created(self) -> None:
        self._events.created(self._limits.num_blocks * len(self.each))
