"""Who waits for blocks, in the order of their ranks: by priority, and within one by arrival."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from trtdisagg.engine.sequence import Sequence


class Queue:
    """Who was preempted is in it again at the place of their arrival, which is before everybody who came later."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []
        """Highest rank first, so that the head of the queue is the cheap end of the list."""

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        """In no order that anybody may count on."""
        return iter(self._sequences)

    @property
    def head(self) -> Sequence:
        return self._sequences[-1]

    def add(self, sequence: Sequence) -> None:
        insort(self._sequences, sequence, key=_place)

    def pop(self) -> Sequence:
        return self._sequences.pop()

    def remove(self, sequence: Sequence) -> None:
        place = bisect_left(self._sequences, _place(sequence), key=_place)
        assert self._sequences[place] is sequence, f"request {sequence.id} does not wait"
        del self._sequences[place]


def _place(sequence: Sequence) -> tuple[int, ...]:
    return tuple(-part for part in sequence.rank)
