"""Who waits for blocks, in the order of their ranks: by priority, and within one by arrival."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import chain

from trtdisagg.engine.sequence import Sequence


class Queue:
    """Who was preempted is in it again at the place of their arrival, which is before everybody who came later."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []
        """Highest rank first, so that the head of the queue is the cheap end of the list."""
        self._delayed: list[Sequence] = []
        """Not in the queue yet."""

    def __len__(self) -> int:
        return len(self._sequences) + len(self._delayed)

    def __iter__(self) -> Iterator[Sequence]:
        """In no order that anybody may count on."""
        return chain(self._sequences, self._delayed)

    @property
    def head(self) -> Sequence | None:
        return self._sequences[-1] if self._sequences else None

    def add(self, sequence: Sequence) -> None:
        insort(self._sequences, sequence, key=_place)

    def delay(self, sequence: Sequence) -> None:
        """Have it enter the queue at `resume`."""
        self._delayed.append(sequence)

    def resume(self) -> None:
        for sequence in self._delayed:
            self.add(sequence)
        self._delayed.clear()

    def pop(self) -> Sequence:
        return self._sequences.pop()

    def remove(self, sequence: Sequence) -> None:
        if sequence in self._delayed:
            self._delayed.remove(sequence)
            return
        place = bisect_left(self._sequences, _place(sequence), key=_place)
        assert self._sequences[place] is sequence, f"request {sequence.id} does not wait"
        del self._sequences[place]


def _place(sequence: Sequence) -> tuple[int, ...]:
    return tuple(-part for part in sequence.rank)
