"""What a sparkline shows: a counter's growth per second in each of the last intervals of HISTORY_S. Pure.

A history is its child's through all incarnations: that nothing came while it was dead is what people should see.
"""

from __future__ import annotations

import msgspec

from trtdisagg.protocol.control import HISTORY_S
from trtdisagg.protocol.stats import Stats

NUM_INTERVALS = 60
_EARLY_S = 0.25
"""Half the time between two beats: an interval ends with the beat that is nearest to its end."""


class History(msgspec.Struct, frozen=True):
    """
    :ivar values: per second, of the intervals that are over, the newest last.
    :ivar total: the counter at `since`, when the interval began that runs now.
    """

    values: tuple[float, ...] = ()
    total: int = 0
    since: float | None = None

    def add(self, at: float, total: int) -> History:
        """The history after a beat. Costs nothing but a comparison until an interval is over."""
        if self.since is None:
            return History((), total, at)
        if at < self.since + HISTORY_S - _EARLY_S:
            return self
        gained = total - self.total if total >= self.total else total  # a new incarnation counts from zero
        value = round(gained / (at - self.since), 1)
        return History(_kept(self.values, (value,) * _num_intervals(at - self.since)), total, at)

    def until(self, now: float) -> list[float]:
        """The values up to now: nothing heard is nothing done."""
        if self.since is None or now < self.since + 2 * HISTORY_S:
            return list(self.values)
        return list(_kept(self.values, (0.0,) * _num_intervals(now - self.since - HISTORY_S)))


def counted(role: str, stats: Stats) -> int:
    """The counter whose growth tells what a child of this role is there for."""
    match role:
        case "context":
            return stats.num_prompt_tokens_total
        case "proxy":
            return stats.num_requests_total
    return stats.num_generation_tokens_total


def _num_intervals(seconds: float) -> int:
    return max(1, min(NUM_INTERVALS, round(seconds / HISTORY_S)))


def _kept(values: tuple[float, ...], new: tuple[float, ...]) -> tuple[float, ...]:
    return (*values, *new)[-NUM_INTERVALS:]
