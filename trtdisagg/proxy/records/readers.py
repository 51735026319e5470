"""Who reads the records of requests beside metrics and /perf_metrics: opened and run together, as the spec asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Self

import msgspec

from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.proxy.records.access_log import AccessLog
from trtdisagg.proxy.records.recent import Recent
from trtdisagg.proxy.records.records import Reader
from trtdisagg.proxy.records.traces import Traces


class Readers(msgspec.Struct, frozen=True, kw_only=True):
    recent: Recent
    access_log: AccessLog | None
    """None: none is written."""
    traces: Traces | None
    """None: nobody traces."""

    @classmethod
    def make(cls, spec: ProxySpec) -> Self:
        return cls(
            recent=Recent(),
            access_log=None if spec.access_log is None else AccessLog(spec.access_log, spec.worker),
            traces=None if spec.otlp_traces_endpoint is None else Traces(spec.otlp_traces_endpoint),
        )

    def all(self) -> list[Reader]:
        return [self.recent.add, *(reader.add for reader in (self.access_log, self.traces) if reader is not None)]

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Write and send while the block runs, and at its end what is left.

        :raises StartupError: when that cannot begin.
        """
        there = [reader for reader in (self.access_log, self.traces) if reader is not None]
        with contextlib.ExitStack() as stack:
            for reader in there:
                stack.enter_context(reader.opened())
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(reader.run()) for reader in there]
                yield
                for task in running:
                    task.cancel()
