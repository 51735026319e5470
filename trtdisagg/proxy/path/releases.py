"""Tells context servers that nobody will come for what they hold: `POST /kv/release` with the ticket.

Nobody waits for the answer. What is not told in time, or not at all, goes with its lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import NamedTuple

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.http1 import BadAnswerError
from trtdisagg.proxy.http.pool import Pool, UnreachableError
from trtdisagg.proxy.http.upstream import BrokenError

TIMEOUT_S = 2.0
MAX_WAITING = 4096
"""The oldest of more are left to their leases."""
NUM_AT_ONCE = 16
_MAX_ANSWER_BYTES = 64 * 1024

logger = logging.getLogger(__name__)


class Unread(NamedTuple):
    """What a context server holds for one request."""

    server: Member
    ticket: bytes
    """As JSON."""


class Releases:
    """Those that are still to be told."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: deque[Unread] = deque(maxlen=MAX_WAITING)
        self._come = asyncio.Semaphore(0)
        """Counts those that wait, and perhaps some that were left out."""

    def add(self, unread: Unread) -> None:
        """Have it released soon."""
        self._waiting.append(unread)
        self._come.release()

    async def run(self) -> None:
        """Tell until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(NUM_AT_ONCE):
                tasks.create_task(self._tell_one_by_one())

    async def _tell_one_by_one(self) -> None:
        while True:
            await self._come.acquire()
            if self._waiting:
                await self._tell(self._waiting.popleft())

    async def _tell(self, unread: Unread) -> None:
        body = b'{"ticket":%b}' % unread.ticket
        try:
            async with asyncio.timeout(TIMEOUT_S):
                exchange = self._pool.exchange(unread.server.url, "POST", "/kv/release", body)
                head, text = await exchange.fetch(_MAX_ANSWER_BYTES)
        except (UnreachableError, BrokenError, BadAnswerError, TimeoutError) as e:
            logger.info("%s was not told that its KV is not needed: %s", unread.server.name, e or "no answer in time")
            return
        if head.status != 200:
            logger.info("%s: status %d: %s", unread.server.name, head.status, text[:200].decode(errors="replace"))
