"""The generation side: claims on blocks that context servers hold, and the peers they are claimed from.

    claim     connects, unless we are; renews the lease at once, then every third of it
    fetch     runs -> copy in a worker thread -> Finish -> Finished(valid)
    release   gives the blocks back without having read them

It knows no engine; whoever has a claim that failed computes the prefix itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from trtdisagg.cache.connecting import CONNECT_TIMEOUT_S, Connector
from trtdisagg.cache.layout import transfer_runs
from trtdisagg.cache.peers import Peer
from trtdisagg.cache.transports import Transport
from trtdisagg.cache.waiting import wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import Ticket
from trtdisagg.protocol.peers import Hello

log = logging.getLogger(__name__)

NUM_COPY_THREADS = 2
"""Copies at once: one does not fill a memory bus, and more only share it."""


class Counters(msgspec.Struct):
    """What only grows; the names are those of `protocol.spec.Stats`."""

    num_transfers_total: int = 0
    num_transfer_failures_total: int = 0
    num_transfer_bytes_total: int = 0
    transfer_seconds_total: float = 0.0


class Claim:
    """One request's blocks on a context server, kept alive until they are fetched or given back."""

    def __init__(self, claims: Claims, peer: Peer, ticket: Ticket) -> None:
        self.ticket = ticket
        self._claims = claims
        self._peer = peer
        self._copy: asyncio.Future[None] | None = None
        self._is_open = True

    async def fetch(self, blocks: Sequence[int], dp_rank: int = 0) -> None:
        """Copy the ticket's tokens into our blocks, and give the peer's back. Once per claim.

        When it returns, the blocks are valid. When it raises, a copy may go on writing into them until `settled`;
        cancelled, it waits for that itself.

        :param dp_rank: whose blocks they are here.
        :raises HandoverError: when the KV did not come in time, or was no longer held when it had come.
        """
        assert self._is_open
        assert dp_rank == 0, "a server of one rank has one pool"
        counters, started = self._claims.counters, time.monotonic()
        try:
            num_bytes = await self._fetch(blocks)
        except HandoverError:
            counters.num_transfer_failures_total += 1
            raise
        finally:
            await self.release()
        counters.num_transfers_total += 1
        counters.num_transfer_bytes_total += num_bytes
        counters.transfer_seconds_total += time.monotonic() - started

    async def settled(self) -> None:
        """Wait until nothing is written into the blocks any more."""
        if self._copy is not None:
            await asyncio.wait([self._copy])

    async def release(self) -> None:
        """Give the peer's blocks back unread. Without effect on a claim that has ended."""
        if self._is_open:
            self._is_open = False
            self._peer.release(self.ticket.request_id)

    async def _fetch(self, blocks: Sequence[int]) -> int:
        timeout_s = self._claims.transfer_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                num_bytes = await self._read(blocks)
                is_valid = await self._peer.finish(self.ticket.request_id)
        except TimeoutError:
            raise self._peer.give_up(f"no transfer within {timeout_s:g} s") from None
        except asyncio.CancelledError:
            if self._copy is not None:
                await wait_out(self._copy)
            raise
        if not is_valid:
            raise HandoverError(f"{self._peer.name} no longer held the KV when it had been read")
        return num_bytes

    async def _read(self, blocks: Sequence[int]) -> int:
        runs = transfer_runs(self._claims.shape, blocks, self._peer.shape, self.ticket.blocks, self.ticket.num_tokens)
        self._copy = self._peer.copy(runs)
        try:
            await asyncio.shield(self._copy)
        except HandoverError as e:
            raise self._peer.give_up(e.message) from e
        return int(runs[:, 2].sum())


class Visit(NamedTuple):
    """A peer's place among `Claims`, from the first ticket that names it until it is closed."""

    opened: asyncio.Future[Peer]
    task: asyncio.Task[None]


class Claims:
    """All claims of a server, and the peers they are on.

    :param me: our Hello; its proof is filled in later.
    :param transports: in order of preference.
    :param tasks: owns a task per peer; all have ended between `stop` and `close`.
    """

    def __init__(
        self,
        me: Hello,
        transports: Sequence[Transport],
        tasks: asyncio.TaskGroup,
        *,
        secret: bytes,
        keepalive_s: float,
        transfer_timeout_s: float,
    ) -> None:
        self.shape = me.shape
        self.counters = Counters()
        self.transfer_timeout_s = transfer_timeout_s
        self._tasks = tasks
        self._threads = ThreadPoolExecutor(NUM_COPY_THREADS, "kv-copy")
        self._connector = Connector(me, transports, self._threads, secret=secret, keepalive_s=keepalive_s)
        self._visits: dict[str, Visit] = {}
        """By incarnation."""
        self._is_stopped = False

    @property
    def num_claims(self) -> int:
        opened = (visit.opened for visit in self._visits.values())
        return sum(peer.result().num_claims for peer in opened if peer.done() and not peer.exception())

    async def claim(self, ticket: Ticket) -> Claim:
        """Claim a ticket's blocks.

        :raises HandoverError: when their server cannot be reached, or is not the one that made the ticket, or its KV
            is not like ours.
        """
        try:
            peer = await self._peer(ticket)
            peer.claim(ticket.request_id)
        except HandoverError:
            self.counters.num_transfer_failures_total += 1
            raise
        return Claim(self, peer, ticket)

    def stop(self) -> None:
        """Ask the peers' tasks to end; there are no claims any more."""
        self._is_stopped = True
        for visit in self._visits.values():
            visit.task.cancel()

    def close(self) -> None:
        """Give the threads back."""
        assert not self._visits
        self._threads.shutdown()

    async def _peer(self, ticket: Ticket) -> Peer:
        """The peer that a ticket names: connected already, or now."""
        while not self._is_stopped:
            visit = self._visits.get(ticket.incarnation) or self._visit(ticket)
            peer = await asyncio.shield(visit.opened)
            if peer.lost is None:
                return peer
            # The next connection must not meet what the last one has not yet given back.
            _, pending = await asyncio.wait([visit.task], timeout=CONNECT_TIMEOUT_S)
            if pending:
                raise HandoverError(f"{ticket.server}: a lost connection is not closed yet")
        raise HandoverError("the server ends")

    def _visit(self, ticket: Ticket) -> Visit:
        opened: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        opened.add_done_callback(asyncio.Future.exception)  # seen, also when all who waited are gone
        visit = Visit(opened, self._tasks.create_task(self._attend(ticket, opened)))
        visit.task.add_done_callback(lambda _: self._forget(ticket, opened))  # also of one that never began
        self._visits[ticket.incarnation] = visit
        return visit

    async def _attend(self, ticket: Ticket, opened: asyncio.Future[Peer]) -> None:
        """The life of one peer."""
        try:
            peer = await self._connector.connect(ticket)
        except HandoverError as e:
            opened.set_exception(e)
            return
        opened.set_result(peer)
        try:
            await peer.run()
            log.info("no more KV from %s", peer.lost)
        finally:
            await wait_out(asyncio.ensure_future(peer.close()))

    def _forget(self, ticket: Ticket, opened: asyncio.Future[Peer]) -> None:
        del self._visits[ticket.incarnation]
        if not opened.done():
            opened.set_exception(HandoverError("the server ends"))
