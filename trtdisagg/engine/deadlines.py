"""Which requests have a deadline, and whose has passed. Knows no clock: the time is an argument."""

from __future__ import annotations

import heapq
import math


class Deadlines:
    """A heap whose entries stay when their request has ended, and then count no more."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._at_s: dict[int, float] = {}

    def add(self, request_id: int, at_s: float) -> None:
        self._at_s[request_id] = at_s
        heapq.heappush(self._heap, (at_s, request_id))

    def discard(self, request_id: int) -> None:
        self._at_s.pop(request_id, None)

    @property
    def next_s(self) -> float:
        """When there is something to take, at the earliest; infinite: never."""
        return self._heap[0][0] if self._heap else math.inf

    def take(self, now_s: float) -> list[int]:
        """The requests whose deadline has passed."""
        taken = []
        while self._heap and self._heap[0][0] <= now_s:
            at_s, request_id = heapq.heappop(self._heap)
            if self._at_s.get(request_id) == at_s:
                del self._at_s[request_id]
                taken.append(request_id)
        return taken
