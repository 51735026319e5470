"""How KV moves between this server and others: what we hold for them (`offers`), what we claim of theirs (`claims`).

    engine thread    hold -> Ticket                                             on_released, once
                       |                                                             ^
    event loop       offers: leases <- streams from generation servers  (Finish, Release, end of lease, peer lost)
                     visits: meet -> streams to context servers   claims: claim, fetch, release over them
                       |
    movers           of each of our ranks, here or in another process: links to the ranks of peers, copies

It runs in rank 0. A server with role `both` does both, with itself too. Tickets come from outside unsealed and checked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Self

import msgspec

from trtdisagg.cache.announcements import Announcement, Hearing, Telling
from trtdisagg.cache.claims import Claim, Claims
from trtdisagg.cache.connecting import Connector
from trtdisagg.cache.holds import Offer
from trtdisagg.cache.mover import Mover
from trtdisagg.cache.offers import Offers
from trtdisagg.cache.peers import forgotten
from trtdisagg.cache.streams import KEEPALIVE_S
from trtdisagg.cache.transfers import TransferStats
from trtdisagg.cache.visits import Visits
from trtdisagg.cache.waiting import all_of
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout, Ticket
from trtdisagg.protocol.peers import Hello, Met, PeerRanks, Welcome
from trtdisagg.protocol.reports import Linked
from trtdisagg.protocol.spec import PeerAddress

log = logging.getLogger(__name__)


class Transceiver:
    """Both sides of the handover; `async with` opens it, in one event loop.

    :param server: our name, in tickets and logs.
    :param incarnation: another one for each start of the server.
    :param layout: of our ranks' pools.
    :param movers: one for each rank, in order, open until we are closed.
    :param secret: the cluster's; empty where servers listen on loopback only.
    :param host: where we listen, and where peers reach us.
    :param port: 0: any free one; `port` has it once we are open.
    :param lease_ms: how long blocks are held for which nobody comes.
    :param transfer_timeout_ms: deadline of one transfer, from its start.
    :param keepalive_s: between two signs of life on a connection.
    """

    def __init__(
        self,
        *,
        server: str,
        incarnation: str,
        layout: KvLayout,
        movers: Sequence[Mover],
        secret: bytes = b"",
        host: str = "127.0.0.1",
        port: int = 0,
        lease_ms: int,
        transfer_timeout_ms: int,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        assert len(movers) == layout.parallel.num_ranks
        self.host = host
        self.port = port
        self._server = server
        self._incarnation = incarnation
        self._layout = layout
        self._movers = movers
        self._secret = secret
        self._lease_ms = lease_ms
        self._transfer_timeout_s = transfer_timeout_ms / 1000
        self._keepalive_s = keepalive_s
        self._hearing = Hearing()
        self._is_open = False

    async def __aenter__(self) -> Self:
        me = PeerRanks(
            server=self._server,
            incarnation=self._incarnation,
            layout=self._layout,
            ranks=await all_of([mover.describe() for mover in self._movers]),
        )
        self._tasks = asyncio.TaskGroup()
        self._offers = self._make_offers(me)
        self._visits = self._make_visits(me)
        self._claims = Claims(self._layout, self._visits, transfer_timeout_s=self._transfer_timeout_s)
        await self._offers.open(self.host, self.port)
        self.port = self._offers.port
        await self._tasks.__aenter__()
        self._offers.start()
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._is_open = False
        self._offers.stop()
        self._visits.stop()
        # Not told of an error in our body, which it would wrap: its tasks are asked to end already.
        await self._tasks.__aexit__(None, None, None)

    # --- peers ------------------------------------------------------------------------------------------------------

    async def meet(self, address: PeerAddress) -> Linked:
        """Connect to a context server, each of our ranks to those of its that it will read from, before there is any
        ticket of it. What goes wrong is in the answer."""
        linked = Linked(server=address.server, incarnation=address.incarnation)
        try:
            peer = await self._visits.meet(address)
        except HandoverError as e:
            log.warning("no KV can come from %s: %s", address.server, e.message)
            return msgspec.structs.replace(linked, error=e.message)
        return _summed_up(linked, peer.met)

    def gone(self, incarnation: str) -> None:
        """A server has ended: at once all claims on it fail, and what it had claimed of ours, or was to claim, is
        released."""
        self._offers.gone(incarnation)
        self._visits.gone(incarnation)
        self._start(forgotten(self._movers, incarnation))

    # --- the context side -------------------------------------------------------------------------------------------

    def hold(self, offer: Offer) -> Ticket:
        """Hold blocks for a generation server. From any thread.

        :raises HandoverError: when we are closed; `on_released` is not called then.
        """
        return self._offers.hold(offer)

    def withdraw(self, ticket: Ticket) -> None:
        """Release what a ticket of ours names before its lease ends, if it is still held. From any thread."""
        self._offers.withdraw(ticket)

    @property
    def telling(self) -> Telling:
        """What is announced before it can be held; from any thread."""
        return self._offers.telling

    # --- the generation side ----------------------------------------------------------------------------------------

    async def claim(self, ticket: Ticket) -> Claim:
        """Claim what a ticket names, and keep its lease alive until the claim is fetched or released.

        :raises HandoverError: when the ticket's server cannot be reached, is not the one that made it, or has KV that
            does not fit ours.
        """
        return await self._claims.claim(ticket)

    @property
    def hearing(self) -> Hearing:
        """What others announce to us."""
        return self._hearing

    async def prefetch(self, announcement: Announcement, blocks: Sequence[int], dp_rank: int) -> None:
        """Copy what a context server has announced; when it returns, the blocks are valid. When it returns, raises or
        is cancelled, nothing is written into them any more.

        :raises HandoverError: when the KV did not come, or was taken back meanwhile.
        """
        await self._claims.prefetch(announcement, blocks, dp_rank)

    # --- either side ------------------------------------------------------------------------------------------------

    def release(self, ticket: Ticket) -> None:
        """Give back what a ticket of ours or of a peer names, because nobody will come for it. Returns at once; a
        server that cannot be told waits for the end of the lease. Without effect on what this server has claimed."""
        if ticket.incarnation == self._incarnation:
            self.withdraw(ticket)
        else:
            self._start(self._release(ticket))

    def stats(self) -> TransferStats:
        holds, transfers = self._offers.holds, self._claims.transfers
        return TransferStats(
            num_held_blocks=holds.num_blocks,
            num_claims=self._claims.num_claims,
            num_transfers_running=self._claims.num_moving,
            num_transfers_total=transfers.num_transfers_total,
            num_transfer_failures_total=transfers.num_transfer_failures_total,
            num_transfer_bytes_total=transfers.num_transfer_bytes_total,
            num_transfer_descriptors_total=transfers.num_transfer_descriptors_total,
            transfer_seconds_total=transfers.transfer_seconds_total,
            transfer_seconds_counts=transfers.transfer_seconds.counts,
            num_expired_leases_total=holds.num_expired_total,
            num_unread_holds_total=holds.num_unread_total,
        )

    async def _release(self, ticket: Ticket) -> None:
        try:
            await self._claims.release(ticket)
        except HandoverError as e:
            log.warning("%s cannot be told that nobody comes for its KV: %s", ticket.server, e.message)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        if self._is_open:
            self._tasks.create_task(work)
        else:
            work.close()

    def _make_offers(self, me: PeerRanks) -> Offers:
        welcome = Welcome(me=me, lease_ms=self._lease_ms)
        return Offers(welcome, self._movers, self._tasks, secret=self._secret, keepalive_s=self._keepalive_s)

    def _make_visits(self, me: PeerRanks) -> Visits:
        hello = Hello(me=me, proof=b"")
        secret, keepalive_s = self._secret, self._keepalive_s
        return Visits(
            Connector(hello, self._movers, self._hearing, secret=secret, keepalive_s=keepalive_s), self._tasks
        )


def _summed_up(linked: Linked, met: Sequence[Met]) -> Linked:
    """As fast as the slowest of our ranks."""
    slowest = min(met, key=lambda m: m.gb_s)
    return msgspec.structs.replace(
        linked,
        transport=slowest.transport,
        direction=slowest.direction,
        gb_s=slowest.gb_s,
        latency_us=max(m.latency_us for m in met),
    )
