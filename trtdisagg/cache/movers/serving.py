"""Whether others may be using our memory now: told by rank 0, and by what this rank itself expects."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from trtdisagg.cache.transports import Transport


class Serving:
    """Keeps transports serving as long as anybody needs it. All calls in one event loop."""

    def __init__(self, transports: Sequence[Transport]) -> None:
        self._transports = transports
        self._is_wanted = False
        self._num_needs = 0

    def want(self, *, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._tell()

    @contextmanager
    def needed(self) -> Iterator[None]:
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def needed_until(self, end: asyncio.Future[None]) -> None:
        self._count(1)
        end.add_done_callback(lambda _: self._count(-1))

    def _count(self, change: int) -> None:
        self._num_needs += change
        self._tell()

    def _tell(self) -> None:
        for transport in self._transports:
            transport.set_serving(self._is_wanted or self._num_needs > 0)
