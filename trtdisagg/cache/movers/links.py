"""The way between one rank of ours and one rank of a peer: direct reads from their pool into ours.

It knows one pair of ranks and runs of bytes; which runs make up a request is the mover's business (`rank`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple, Self

from trtdisagg.cache.layout import Runs
from trtdisagg.cache.transports import Link, Transport, name_of
from trtdisagg.cache.waiting import in_thread, wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.peers import RankMemory


class Workers(NamedTuple):
    """Where blocking work is done: as many copies at once as there are slots, and calls that are no copies beside."""

    threads: Executor
    slots: asyncio.Semaphore


class Span(NamedTuple):
    """When something happened, in monotonic seconds."""

    started: float
    ended: float


class RankLink:
    """A connected rank of a peer. Whoever makes it calls `close`."""

    def __init__(self, link: Link, transport: str, workers: Workers, latency_us: float, others: Sequence[str]) -> None:
        self.transport = transport
        self.latency_us = latency_us
        """Of connecting."""
        self.others = others
        """Why it is not another transport that was preferred."""
        self._link = link
        self._workers = workers
        self._reads: set[asyncio.Future[None]] = set()
        self._is_aborted = False

    @classmethod
    async def open(cls, transports: Sequence[Transport], memory: RankMemory, workers: Workers) -> Self:
        """Connect by the first of our transports that the peer has too and that connects.

        :raises HandoverError: when none does, with the reasons.
        """
        reasons: list[str] = []
        for transport in transports:
            name = name_of(transport.memory_type)
            theirs = next((m for m in memory.memory if isinstance(m, transport.memory_type)), None)
            if theirs is None:
                reasons.append(f"not {name}: the peer does not have it")
                continue
            began = time.monotonic()
            try:
                link = await in_thread(workers.threads, transport.connect, theirs, undo=lambda link: link.close())
            except HandoverError as e:
                reasons.append(f"not {name}: {e.message}")
                continue
            return cls(link, name, workers, (time.monotonic() - began) * 1e6, reasons)
        raise HandoverError(f"no transport connects: {'; '.join(reasons)}")

    async def read(self, runs: Runs, timeout_s: float) -> Span:
        """Copy from the peer's pool to ours. When it returns or raises, nothing is written any more.

        :param timeout_s: from when a slot is free for it.
        :raises HandoverError: when it could not be done in time or at all.
        """
        async with self._workers.slots:
            if self._is_aborted:
                raise HandoverError("the link was aborted")
            started = time.monotonic()
            reading = asyncio.get_running_loop().run_in_executor(self._workers.threads, self._link.read, runs)
            self._reads.add(reading)
            abortion = asyncio.get_running_loop().call_later(timeout_s, self._link.abort)
            try:
                await wait_out(reading)
            finally:
                abortion.cancel()
                self._reads.discard(reading)
                error = reading.exception()
            if error is not None and time.monotonic() - started >= timeout_s:
                raise HandoverError(f"no transfer within {timeout_s:g} s") from error
            if error is not None:
                raise error
            return Span(started, time.monotonic())

    def abort(self) -> None:
        """Make reads that run end soon, and begin no more. Returns at once."""
        self._is_aborted = True
        self._link.abort()

    async def close(self) -> None:
        """Wait until nothing is read any more, and give everything back."""
        if self._reads:
            await asyncio.wait(self._reads)
        await in_thread(self._workers.threads, self._link.close)
