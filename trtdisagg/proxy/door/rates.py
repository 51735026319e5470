"""How much one client may ask: so many requests a minute, so many at once, of all processes together. Times are given.

A bucket holds a minute's requests and fills again evenly: a client that has been quiet may ask them all at once.
"""

from __future__ import annotations

import math
from typing import Protocol

MINUTE_S = 60.0


class Bucket:
    """
    :param per_minute: so much flows in, and so much it holds.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def level(self, now: float) -> float:
        return min(self.per_minute, self._level + max(0.0, now - self._at) * self.per_minute / MINUTE_S)

    def take(self, now: float) -> bool:
        """Take one out; False: there is less than one in it."""
        level = self.level(now)
        if level < 1:
            return False
        self._level, self._at = level - 1, now
        return True

    def charge(self, number: int, now: float) -> None:
        """So many were taken elsewhere, whether they were in it or not."""
        self._level, self._at = self.level(now) - number, now

    def wait_s(self, now: float) -> float:
        """Until there is one to be taken."""
        return max(0.0, 1 - self.level(now)) * MINUTE_S / self.per_minute

    def full_in_s(self, now: float) -> float:
        return (self.per_minute - self.level(now)) * MINUTE_S / self.per_minute


class Elsewhere(Protocol):
    """What other processes count."""

    def tell(self, num_in_flight: int, num_asked: int) -> None: ...

    def others(self) -> tuple[int, int]: ...


class Allowance:
    """What one client has taken of what it may."""

    def __init__(self, requests_per_minute: int | None, max_in_flight: int | None, now: float) -> None:
        self.bucket = None if requests_per_minute is None else Bucket(requests_per_minute, now)
        self.max_in_flight = max_in_flight
        self._num_in_flight = 0
        self._num_asked = 0
        self._elsewhere: Elsewhere | None = None
        self._num_asked_elsewhere = 0
        """When it was last looked."""

    def change(self, requests_per_minute: int | None, max_in_flight: int | None, now: float) -> None:
        """Other limits, from now on; what is in flight stays so."""
        self.max_in_flight = max_in_flight
        if requests_per_minute != (self.bucket and self.bucket.per_minute):
            self.bucket = None if requests_per_minute is None else Bucket(requests_per_minute, now)

    def share(self, elsewhere: Elsewhere | None) -> None:
        """Count together with others from now on. What was asked before is told nobody: they know it already."""
        self._elsewhere, self._num_asked = elsewhere, 0
        if elsewhere is not None:
            elsewhere.tell(self._num_in_flight, 0)
            self._num_asked_elsewhere = elsewhere.others()[1]

    def look(self, now: float) -> int:
        """Take in what was asked elsewhere.

        :returns: requests in flight, of all.
        """
        if self._elsewhere is None:
            return self._num_in_flight
        num_in_flight, num_asked = self._elsewhere.others()
        # Fewer than before: a process has ended, or counts anew.
        if self.bucket is not None and (more := num_asked - self._num_asked_elsewhere) > 0:
            self.bucket.charge(more, now)
        self._num_asked_elsewhere = num_asked
        return self._num_in_flight + num_in_flight

    def begin(self) -> None:
        self._num_in_flight += 1
        self._num_asked += 1
        self._tell()

    def end(self) -> None:
        self._num_in_flight -= 1
        self._tell()

    def _tell(self) -> None:
        if self._elsewhere is not None:
            self._elsewhere.tell(self._num_in_flight, self._num_asked)

    def headers(self, now: float) -> dict[str, str]:
        """As OpenAI says what is left."""
        if self.bucket is None:
            return {}
        return {
            "x-ratelimit-limit-requests": str(self.bucket.per_minute),
            "x-ratelimit-remaining-requests": str(max(0, math.floor(self.bucket.level(now)))),
            "x-ratelimit-reset-requests": say_duration(self.bucket.full_in_s(now)),
        }


def say_duration(seconds: float) -> str:
    """In OpenAI's form: `6m0s`, `1.5s`, `20ms`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 10) / 10, 60)
    return (f"{minutes:.0f}m" if minutes else "") + f"{rest:.3g}s"
