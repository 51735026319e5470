"""How much one client may ask: so many requests a minute, so many at once. Pure; times are given.

A bucket holds a minute's requests and fills again evenly: a client that has been quiet may ask them all at once.
"""

from __future__ import annotations

import math

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

    def wait_s(self, now: float) -> float:
        """Until there is one to be taken."""
        return max(0.0, 1 - self.level(now)) * MINUTE_S / self.per_minute

    def full_in_s(self, now: float) -> float:
        return (self.per_minute - self.level(now)) * MINUTE_S / self.per_minute


class Allowance:
    """What one client has taken of what it may."""

    def __init__(self, requests_per_minute: int | None, max_in_flight: int | None, now: float) -> None:
        self.bucket = None if requests_per_minute is None else Bucket(requests_per_minute, now)
        self.max_in_flight = max_in_flight
        self.num_in_flight = 0

    def change(self, requests_per_minute: int | None, max_in_flight: int | None, now: float) -> None:
        """Other limits, from now on; what is in flight stays so."""
        self.max_in_flight = max_in_flight
        if requests_per_minute != (self.bucket and self.bucket.per_minute):
            self.bucket = None if requests_per_minute is None else Bucket(requests_per_minute, now)

    def headers(self, now: float) -> dict[str, str]:
        """As OpenAI says what is left."""
        if self.bucket is None:
            return {}
        return {
            "x-ratelimit-limit-requests": str(self.bucket.per_minute),
            "x-ratelimit-remaining-requests": str(math.floor(self.bucket.level(now))),
            "x-ratelimit-reset-requests": say_duration(self.bucket.full_in_s(now)),
        }


def say_duration(seconds: float) -> str:
    """In OpenAI's form: `6m0s`, `1.5s`, `20ms`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 10) / 10, 60)
    return (f"{minutes:.0f}m" if minutes else "") + f"{rest:.3g}s"
