"""Where records begin and end: `begin` once for each request, `add` once at its end, whatever that was.

Readers (metrics, access log, traces, /perf_metrics) are functions of records; nothing else counts requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from trtdisagg.proxy.record import Record

Reader = Callable[[Record], None]


class Records:
    """All requests of this process.

    :param readers: called with each record that has ended; they run on the request path, so they only take note.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = tuple(readers)
        self.num_begun = 0
        self.num_in_flight = 0

    def begin(self, request_id: str, route: str) -> Record:
        """A request has come."""
        self.num_begun += 1
        self.num_in_flight += 1
        return Record(request_id, route, time.monotonic())

    def add(self, record: Record) -> None:
        """It is over: answered, refused, or its client has left."""
        assert not record.ended, "a record is added once"
        record.ended = time.monotonic()
        self.num_in_flight -= 1
        for reader in self._readers:
            reader(record)
