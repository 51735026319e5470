"""What was moved: one transfer, and the counters of all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from trtdisagg.errors import HandoverError
from trtdisagg.protocol.latencies import TRANSFER_BOUNDS_S, LatencyCounts
from trtdisagg.protocol.peers import Moved


class Transfer(msgspec.Struct):
    """One request's KV on its way to us, from when it was asked for."""

    started_s: float
    """Monotonic."""
    ended_s: float = 0.0
    """Monotonic; 0: not yet."""
    num_bytes: int = 0
    """To all our ranks."""
    num_descriptors: int = 0

    def add(self, moved: Moved) -> None:
        """One of our ranks has its share."""
        self.num_bytes += moved.num_bytes
        self.num_descriptors += moved.num_descriptors


class Transfers:
    """Counters; the names are those of `protocol.stats.Stats`."""

    def __init__(self) -> None:
        self.num_transfers_total = 0
        self.num_transfer_failures_total = 0
        self.num_transfer_bytes_total = 0
        self.num_transfer_descriptors_total = 0
        self.transfer_seconds_total = 0.0
        self.transfer_seconds = LatencyCounts(TRANSFER_BOUNDS_S)

    @contextmanager
    def counted(self) -> Iterator[Transfer]:
        """A transfer that begins now, and ends with the context; one that is cancelled is not counted."""
        transfer = Transfer(time.monotonic())
        try:
            yield transfer
        except HandoverError:
            self.failed()
            raise
        transfer.ended_s = time.monotonic()
        self._count(transfer)

    def failed(self) -> None:
        self.num_transfer_failures_total += 1

    def _count(self, transfer: Transfer) -> None:
        seconds = transfer.ended_s - transfer.started_s
        self.num_transfers_total += 1
        self.num_transfer_bytes_total += transfer.num_bytes
        self.num_transfer_descriptors_total += transfer.num_descriptors
        self.transfer_seconds_total += seconds
        self.transfer_seconds.observe(seconds)


class TransferStats(msgspec.Struct, kw_only=True, frozen=True):
    """Gauges, and counters named as in `protocol.stats.Stats`."""

    num_held_blocks: int
    num_claims: int
    num_transfers_running: int
    num_transfers_total: int
    num_transfer_failures_total: int
    num_transfer_bytes_total: int
    num_transfer_descriptors_total: int
    transfer_seconds_total: float
    transfer_seconds_counts: list[int]
    num_expired_leases_total: int
    num_unread_holds_total: int
