"""How KV moves between this server and others: what we hold for them (`offers`), what we claim of theirs (`claims`).

    engine thread    hold -> Ticket                                             on_released, once
                       |                                                             ^
    event loop       offers: leases <- streams from generation servers  (Finish, Release, end of lease, peer lost)
                     claims: fetch, release -> streams to context servers, links to their pools
                       |
    worker threads   copies, by one of the transports

A server with role `both` does both, with itself too. Tickets come from outside unsealed and checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import msgspec

from trtdisagg.cache.claims import Claim, Claims
from trtdisagg.cache.offers import Offers
from trtdisagg.cache.streams import KEEPALIVE_S
from trtdisagg.cache.transports import Transport
from trtdisagg.protocol.handover import KvShape, Ticket
from trtdisagg.protocol.peers import Hello, Welcome


class TransferStats(msgspec.Struct, kw_only=True, frozen=True):
    """Gauges, and counters named as in `protocol.spec.Stats`."""

    num_held_blocks: int
    num_claims: int
    num_transfers_total: int
    num_transfer_failures_total: int
    num_transfer_bytes_total: int
    transfer_seconds_total: float


class Transceiver:
    """Both sides of the handover; `async with` opens it, in one event loop.

    :param server: our name, in tickets and logs.
    :param incarnation: another one for each start of the server.
    :param shape: of our pool.
    :param transports: in order of preference, open until we are closed.
    :param secret: the cluster's; empty where servers listen on loopback only.
    :param host: where we listen, and where peers reach us.
    :param port: 0: any free one; `port` has it once we are open.
    :param lease_ms: how long blocks are held for which nobody comes.
    :param transfer_timeout_ms: deadline of one fetch.
    :param keepalive_s: between two signs of life on a connection.
    """

    def __init__(
        self,
        *,
        server: str,
        incarnation: str,
        shape: KvShape,
        transports: Sequence[Transport],
        secret: bytes = b"",
        host: str = "127.0.0.1",
        port: int = 0,
        lease_ms: int,
        transfer_timeout_ms: int,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        self.host = host
        self.port = port
        self._server = server
        self._incarnation = incarnation
        self._shape = shape
        self._transports = transports
        self._secret = secret
        self._lease_ms = lease_ms
        self._transfer_timeout_s = transfer_timeout_ms / 1000
        self._keepalive_s = keepalive_s

    async def __aenter__(self) -> Self:
        self._tasks = asyncio.TaskGroup()
        self._offers = self._make_offers()
        self._claims = self._make_claims()
        await self._offers.open(self.host, self.port)
        self.port = self._offers.port
        await self._tasks.__aenter__()
        self._offers.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._offers.stop()
        self._claims.stop()
        try:
            # Not told of an error in our body, which it would wrap: its tasks are asked to end already.
            await self._tasks.__aexit__(None, None, None)
        finally:
            self._claims.close()

    def hold(
        self,
        request_id: int,
        blocks: Sequence[int],
        num_tokens: int,
        on_released: Callable[[], None],
        dp_rank: int = 0,
    ) -> Ticket:
        """Hold blocks for a generation server. From any thread.

        :param request_id: for logs; the ticket carries a number of its own.
        :param blocks: in token order.
        :param on_released: called exactly once, from any thread, when nobody may read the blocks any more: they were
            fetched, given back or withdrawn, the lease ended, the peer that had claimed them is lost, or we close.
        :param dp_rank: whose blocks they are.
        :raises HandoverError: when we are closed; `on_released` is not called then.
        """
        return self._offers.hold(request_id, blocks, num_tokens, on_released, dp_rank)

    def withdraw(self, ticket: Ticket) -> None:
        """Release what a ticket of ours names before its lease ends, if it is still held. From any thread."""
        self._offers.withdraw(ticket)

    async def claim(self, ticket: Ticket) -> Claim:
        """Claim what a ticket names, and keep its lease alive until the claim is fetched or released.

        :raises HandoverError: when the ticket's server cannot be reached, is not the one that made it, or has KV that
            does not fit ours.
        """
        return await self._claims.claim(ticket)

    def stats(self) -> TransferStats:
        return TransferStats(
            num_held_blocks=self._offers.holds.num_blocks,
            num_claims=self._claims.num_claims,
            **msgspec.structs.asdict(self._claims.counters),
        )

    def _make_offers(self) -> Offers:
        me = Welcome(
            server=self._server,
            incarnation=self._incarnation,
            shape=self._shape,
            memory=[transport.describe() for transport in self._transports],
            lease_ms=self._lease_ms,
        )
        return Offers(me, self._transports, self._tasks, secret=self._secret, keepalive_s=self._keepalive_s)

    def _make_claims(self) -> Claims:
        return Claims(
            Hello(server=self._server, incarnation=self._incarnation, shape=self._shape, proof=b""),
            self._transports,
            self._tasks,
            secret=self._secret,
            keepalive_s=self._keepalive_s,
            transfer_timeout_s=self._transfer_timeout_s,
        )
