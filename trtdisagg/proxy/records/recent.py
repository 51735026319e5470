"""The last requests of this process, for `trtdisagg trace`."""

from __future__ import annotations

from collections import deque

from trtdisagg.proxy.records.record import Record

MAX_RECORDS = 4096
"""A record has about 1 KiB."""


class Recent:
    """A ring: the newest take the place of the oldest."""

    def __init__(self, max_records: int = MAX_RECORDS) -> None:
        self._records: deque[Record] = deque(maxlen=max_records)
        self.add = self._records.append

    def find(self, request_id: str) -> list[Record]:
        """Those of this id, the newest first: a client may use one again."""
        return [record for record in reversed(self._records) if record.request_id == request_id]

    def last(self, number: int) -> list[Record]:
        """The newest first."""
        records = self._records
        return [records[-1 - i] for i in range(min(number, len(records)))]

    def slowest(self, number: int) -> list[Record]:
        """Those that took longest, from their coming to their end."""
        return sorted(self._records, key=lambda record: record.arrived - record.ended)[:number]
