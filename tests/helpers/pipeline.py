"""The way from a context engine to a generation engine that prefetches: each thing happens when the test says so."""

from __future__ import annotations

from fakes.handover import ticket
from helpers.engine import HandDriven

from trtdisagg.cache.announcements import Announcement, AnnouncementKey

READER = "generation-0"


class Pipeline:
    """
    :param context: tells this reader alone.
    """

    def __init__(self, context: HandDriven, generation: HandDriven) -> None:
        self.context = context
        self.generation = generation
        context.handover.readers.add(READER)
        self._num_heard: dict[AnnouncementKey, int] = {}
        """Tokens that the reader was told of."""
        self._read: set[AnnouncementKey] = set()
        self.num_valid = 0
        """Pieces that came."""

    def tell(self) -> None:
        """What was told and retracted so far arrives."""
        follower = self.generation.handover.follower
        if follower is None:
            return
        told = {("i", number): said for number, said in self.context.handover.told.items()}
        for key in [k for k in self._num_heard if k not in told]:
            del self._num_heard[key]
            follower.retracted(key)
        for key, said in told.items():
            if len(said.tokens) > self._num_heard.get(key, 0):
                self._num_heard[key] = len(said.tokens)
                place = ticket(key[1], len(said.tokens), said.blocks, said.dp_rank)
                follower.announced(Announcement(place, said.tokens.copy(), said.cache_salt))

    @property
    def pieces(self) -> list[AnnouncementKey]:
        """Those that are on their way."""
        return sorted(self.generation.handover.prefetches)

    def read(self, key: AnnouncementKey) -> None:
        """Copy a piece as it is now."""
        self._read.add(key)
        self.generation.runner.copy_kv(self.generation.handover.prefetches[key], self.context.runner)

    def check(self, key: AnnouncementKey) -> None:
        """It is valid if it was read, and what was told still holds."""
        is_valid = key in self._read and key[1] in self.context.handover.told
        self._read.discard(key)
        self.num_valid += is_valid
        self.generation.handover.prefetches.pop(key).on_fetched(None if is_valid else "retracted")

    def go_on(self) -> None:
        """All that was told is fetched."""
        self.tell()
        self.generation.core.receive(timeout_s=0)
        while self.pieces:
            for key in self.pieces:
                self.read(key)
                self.check(key)
            self.generation.core.receive(timeout_s=0)
