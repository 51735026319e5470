"""Whether others may be using our memory now: told by rank 0, and by what this rank itself expects."""

from __future__ import annotations

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
        self._num_needs += 1
        self._tell()
        try:
            yield
        finally:
            self._num_needs -= 1
            self._tell()

    def _tell(self) -> None:
        for transport in self._transports:
            transport.set_serving(self._is_wanted or self._num_needs > 0)
