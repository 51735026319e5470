"""The store inside the proxy: keys with an end. Pure: time is told from outside, nothing waits.

Only `sweep` takes out what has ended: whoever calls it knows whether the end was real, or this process did not run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

MAX_KEYS = 10_000
MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 16 * 1024


class _Entry(msgspec.Struct):
    value: str
    ttl_s: float | None
    until: float


class Leases:
    """Keys, values and until when they hold."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    @property
    def next_end(self) -> float:
        """When the first key ends; infinity: none does."""
        return min((entry.until for entry in self._entries.values()), default=math.inf)

    def set(self, key: str, value: str, *, ttl_s: float | None, now: float, overwrite: bool = True) -> bool:
        """
        :param ttl_s: None: it stays until it is deleted.
        :returns: False: the key is there, and was not to be overwritten.
        :raises ValueError: it is too large, or there are too many.
        """
        if len(key.encode()) > MAX_KEY_BYTES or len(value.encode()) > MAX_VALUE_BYTES:
            raise ValueError(f"at most {MAX_KEY_BYTES} bytes of key and {MAX_VALUE_BYTES} of value")
        if key in self._entries and not overwrite:
            return False
        if key not in self._entries and len(self._entries) >= MAX_KEYS:
            raise ValueError(f"there are {MAX_KEYS} keys already")
        self._entries[key] = _Entry(value, ttl_s, _end(ttl_s, now))
        return True

    def expire(self, key: str, *, ttl_s: float | None, now: float) -> bool:
        """Let a key hold for so long from now.

        :returns: False: there is no such key.
        """
        if (entry := self._entries.get(key)) is None:
            return False
        entry.ttl_s, entry.until = ttl_s, _end(ttl_s, now)
        return True

    def delete(self, key: str) -> bool:
        """
        :returns: False: there is no such key.
        """
        return self._entries.pop(key, None) is not None

    def get(self, key: str) -> str | None:
        entry = self._entries.get(key)
        return entry.value if entry else None

    def under(self, prefix: str) -> Mapping[str, str]:
        """All keys that begin so."""
        return {key: entry.value for key, entry in self._entries.items() if key.startswith(prefix)}

    def all(self) -> dict[str, tuple[str, float | None]]:
        """Values, and how long each holds without a renewal."""
        return {key: (entry.value, entry.ttl_s) for key, entry in self._entries.items()}

    def sweep(self, now: float) -> bool:
        """Forget what has ended.

        :returns: whether there was something.
        """
        ended = [key for key, entry in self._entries.items() if entry.until <= now]
        for key in ended:
            del self._entries[key]
        return bool(ended)

    def begin_anew(self, now: float) -> None:
        """Let everything hold its whole time from now: this process did not run, and could not be told of renewals."""
        for entry in self._entries.values():
            entry.until = _end(entry.ttl_s, now)


def _end(ttl_s: float | None, now: float) -> float:
    return math.inf if ttl_s is None else now + ttl_s
