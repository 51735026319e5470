"""What the agent says of other servers: who is to be met for KV, and who is gone.

Meet ... Gone ...   | open                       | close          commands may come before there is an engine
     remembered     | met at once, reported      | given up
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from trtdisagg.protocol.reports import Linked
from trtdisagg.protocol.spec import PeerAddress

log = logging.getLogger(__name__)


class KvExchange(Protocol):
    """What is asked of a transceiver here."""

    host: str
    port: int

    async def meet(self, address: PeerAddress) -> Linked: ...
    def gone(self, incarnation: str) -> None: ...


class Meetings:
    """
    :param report: told how each meeting ended.
    """

    def __init__(self, report: Callable[[Linked], None]) -> None:
        self._report = report
        self._early: dict[str, PeerAddress] = {}
        """Who is to be met once there is a transceiver, by incarnation."""
        self._exchange: KvExchange | None = None
        self._tasks: asyncio.TaskGroup | None = None
        """While it is open."""
        self._meeting: set[asyncio.Task[None]] = set()

    def meet(self, peer: PeerAddress) -> None:
        """Meet this server, as soon as we can."""
        if self._tasks is None:
            self._early[peer.incarnation] = peer
            return
        task = self._tasks.create_task(self._meet(peer))
        self._meeting.add(task)
        task.add_done_callback(self._meeting.discard)

    def gone(self, incarnation: str) -> None:
        """This incarnation has ended."""
        self._early.pop(incarnation, None)
        if self._exchange is not None:
            self._exchange.gone(incarnation)

    @asynccontextmanager
    async def open(self, exchange: KvExchange | None) -> AsyncIterator[None]:
        """
        :param exchange: None: we hand nothing over, and cannot be met.
        """
        async with asyncio.TaskGroup() as tasks:
            self._exchange, self._tasks = exchange, tasks
            early, self._early = self._early, {}
            for peer in early.values():
                self.meet(peer)
            try:
                yield
            finally:
                self._exchange = self._tasks = None
                for task in self._meeting:
                    task.cancel()

    async def _meet(self, peer: PeerAddress) -> None:
        if self._exchange is None:
            error = "this server hands nothing over; set cache_transceiver_config.backend"
            self._report(Linked(server=peer.server, incarnation=peer.incarnation, error=error))
            return
        linked = await self._exchange.meet(peer)
        if linked.error is None:
            log.info(
                "met %s (%s): %s, %s, %.1f GB/s, %.0f us",
                *(linked.server, linked.incarnation, linked.transport, linked.direction),
                *(linked.gb_s, linked.latency_us),
            )
        self._report(linked)
