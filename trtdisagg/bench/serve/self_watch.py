"""The client's eye on itself: whether its figures are the server's, or those of a client that could not keep up.

A callback that should come every 10 ms sees how late it is, and so how late whatever arrives is looked at.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec

INTERVAL_S = 0.010
MAX_BUSY = 0.9
MIN_BUSY = 0.5
"""Below it, it is not the client's own work that makes it late."""
MAX_LATE_MS = 20.0
"""Of the 99th percentile: of callbacks, and of conversations that should have begun."""


class SelfWatch:
    """Looks on as long as the block runs.

    :ivar late_s: of each look, by how much it came too late.
    :ivar begin_late_s: the same of each conversation, but for what it waited for another to end.
    """

    def __init__(self) -> None:
        self.late_s: list[float] = []
        self.begin_late_s: list[float] = []

    def __enter__(self) -> SelfWatch:
        self._loop = asyncio.get_running_loop()
        self._begun_at, self._cpu_s = time.monotonic(), time.thread_time()
        self._expect()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.busy = (time.thread_time() - self._cpu_s) / max(time.monotonic() - self._begun_at, 1e-9)

    def _expect(self) -> None:
        self._due_at = time.monotonic() + INTERVAL_S
        self._timer = self._loop.call_later(INTERVAL_S, self._look)

    def _look(self) -> None:
        self.late_s.append(max(0.0, time.monotonic() - self._due_at))
        self._expect()

    def health(self) -> Health:
        return Health(busy=self.busy, late_ms=_p99_ms(self.late_s), begin_late_ms=_p99_ms(self.begin_late_s))


class Health(msgspec.Struct, frozen=True):
    """How the client was.

    :param busy: share of the time that its core was.
    :param late_ms: 99th percentile of what it looked at too late.
    :param begin_late_ms: the same of what it began too late.
    """

    busy: float = 0.0
    late_ms: float = 0.0
    begin_late_ms: float = 0.0

    def complaints(self) -> list[str]:
        """Why its figures are not the server's; none: they are."""
        found = []
        if self.busy > MAX_BUSY:
            found.append(f"its core was busy {self.busy:.0%} of the time")
        if self.late_ms > MAX_LATE_MS:
            found.append(f"it looked at what came up to {self.late_ms:.0f} ms late (p99)")
        if self.begin_late_ms > MAX_LATE_MS:
            found.append(f"requests went out up to {self.begin_late_ms:.0f} ms late (p99)")
        if found and self.busy < MIN_BUSY:
            found.append(f"with its core busy {self.busy:.0%} of the time only: other processes have the machine's")
        return found


def _p99_ms(values_s: Sequence[float]) -> float:
    return sorted(values_s)[int(0.99 * (len(values_s) - 1))] * 1000 if values_s else 0.0
