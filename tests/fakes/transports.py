"""A transport between pools of one process that reads and writes, and whose writes the test may hold up."""

from __future__ import annotations

import threading

from trtdisagg.cache.copying import copy_runs
from trtdisagg.cache.layout import Runs
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports.base import check_bounds
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.memory import Memory, UcxMemory


class WritingTransport:
    """Copies by address."""

    memory_type = UcxMemory
    can_write = True

    def __init__(self, pool: KvPool, may_write: threading.Event | None = None) -> None:
        self.pool = pool
        self.may_write = may_write
        self.has_begun = threading.Event()
        self.is_serving = False
        self.num_writes = self.num_reads = 0

    def describe(self) -> Memory:
        pool = self.pool
        return UcxMemory(
            plugin="UCX", agent="", metadata=b"", base=pool.address, region=pool.region, device_id=0, kind="DRAM"
        )

    def connect(self, memory: Memory) -> WritingLink:
        assert isinstance(memory, UcxMemory)
        return WritingLink(self, memory)

    def set_serving(self, is_serving: bool) -> None:
        self.is_serving = is_serving

    def close(self) -> None:
        pass


class WritingLink:
    def __init__(self, transport: WritingTransport, memory: UcxMemory) -> None:
        self._transport = transport
        self._ours = transport.pool.address, transport.pool.region.num_bytes
        self._theirs = memory.base, memory.region.num_bytes
        self._is_aborted = threading.Event()

    def read(self, runs: Runs) -> None:
        check_bounds(runs, local_bytes=self._ours[1], remote_bytes=self._theirs[1])
        copy_runs(self._ours, self._theirs, runs)
        self._transport.num_reads += 1

    def write(self, runs: Runs) -> None:
        check_bounds(runs, local_bytes=self._ours[1], remote_bytes=self._theirs[1])
        self._transport.has_begun.set()
        if (may_write := self._transport.may_write) is not None:
            while not may_write.wait(0.01):
                if self._is_aborted.is_set():
                    raise HandoverError("the write was aborted")
        copy_runs(self._theirs, self._ours, runs[:, [1, 0, 2]])
        self._transport.num_writes += 1

    def abort(self) -> None:
        self._is_aborted.set()

    def close(self) -> None:
        pass
