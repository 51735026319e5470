"""Where records begin and end: `begin` once for each request, `add` once at its end, whatever that was.

Readers (metrics, access log, traces, /perf_metrics) are functions of records; nothing else counts requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from trtdisagg.proxy.records.record import Record

Reader = Callable[[Record], None]


class Records:
    """All requests of this process.

    :param readers: called with each record that has ended; they run on the request path, so they only take note.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = tuple(readers)
        self.num_begun = 0
        self.running: set[Record] = set()
        """Those that have not ended."""

    @property
    def num_in_flight(self) -> int:
        return len(self.running)

    def begin(self, request_id: str, route: str) -> Record:
        """A request has come."""
        self.num_begun += 1
        record = Record(request_id, route, time.monotonic())
        self.running.add(record)
        return record

    def add(self, record: Record) -> None:
        """It is over: answered, refused, or its client has left."""
        self.running.remove(record)
        record.ended = time.monotonic()
        for reader in self._readers:
            reader(record)
