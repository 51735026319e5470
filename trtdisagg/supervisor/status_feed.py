"""The status as it changes, for any number of watchers: made once for all, and not at all while nobody watches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

import anyio
import msgspec

from trtdisagg.protocol.control import ClusterStatus

PAUSE_S = 0.5
"""Between two lines: more often, nobody looks."""


class StatusFeed:
    """
    :param status: makes the status of now.
    """

    def __init__(self, status: Callable[[], ClusterStatus]) -> None:
        self._status = status
        self._version = 0
        self._made = -1
        self._line = b""
        self._changed = anyio.Event()
        self._closed = anyio.Event()

    def touch(self) -> None:
        """Something has changed."""
        self._version += 1
        self._changed.set()

    def close(self) -> None:
        """Nothing changes any more: watchers are let go with the last word."""
        self._closed.set()
        self.touch()

    async def follow(self) -> AsyncGenerator[bytes, None]:
        """A status as JSON with the end of its line: that of now, and then one whenever something has changed."""
        while True:
            version, is_last = self._version, self._closed.is_set()
            yield self._made_line()
            if is_last:
                return
            with anyio.move_on_after(PAUSE_S):
                await self._closed.wait()
            while self._version == version:
                if self._changed.is_set():
                    self._changed = anyio.Event()
                await self._changed.wait()

    def _made_line(self) -> bytes:
        if self._made != self._version:
            self._line = msgspec.json.encode(self._status()) + b"\n"
            self._made = self._version
        return self._line
