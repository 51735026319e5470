"""The generation side: claims on blocks that context servers hold, and the peers they are claimed from.

    meet      connects, before there is any ticket
    claim     connects, unless we are; renews the lease at once, then every third of it
    fetch     a part for each of our ranks -> their movers, at once -> Finish -> Finished(valid)
    release   gives the blocks back without having read them
    prefetch  a part for each of our ranks, of blocks that are not held but announced -> Check -> Checked(valid)

It knows no engine; whoever has a claim that failed computes the prefix itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import NamedTuple

from trtdisagg.cache.announcements import Announcement, Hearing
from trtdisagg.cache.connecting import CONNECT_TIMEOUT_S, Connector
from trtdisagg.cache.mover import Mover
from trtdisagg.cache.peers import Peer
from trtdisagg.cache.shares import holders
from trtdisagg.cache.transfers import Transfer, Transfers
from trtdisagg.cache.waiting import wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout, Ticket
from trtdisagg.protocol.peers import Hello, Part
from trtdisagg.protocol.spec import PeerAddress

log = logging.getLogger(__name__)


class Claim:
    """One request's blocks on a context server, kept alive until they are fetched or given back."""

    def __init__(self, claims: Claims, peer: Peer, ticket: Ticket) -> None:
        self.ticket = ticket
        self._claims = claims
        self._peer = peer
        self._is_open = True

    async def fetch(self, blocks: Sequence[int], dp_rank: int = 0) -> Transfer:
        """Copy the ticket's tokens into our blocks, and give the peer's back. Once per claim.

        When it returns, the blocks are valid. When it returns, raises or is cancelled, nothing is written into them any
        more.

        :param blocks: in token order; -1: that one is here already.
        :param dp_rank: whose blocks they are, where our ranks divide requests.
        :raises HandoverError: when the KV did not come in time, or was no longer held when it had come.
        """
        assert self._is_open
        try:
            with self._claims.transfers.counted() as transfer:
                await self._fetch(blocks, dp_rank, transfer)
        finally:
            await self.release()
        return transfer

    async def release(self) -> None:
        """Give the peer's blocks back unread. Without effect on a claim that has ended."""
        if self._is_open:
            self._is_open = False
            self._peer.release(self.ticket.request_id)

    async def _fetch(self, blocks: Sequence[int], dp_rank: int, transfer: Transfer) -> None:
        check_ticket(self.ticket, self._peer.layout)
        parts = self._claims.parts(self.ticket, blocks, dp_rank)
        try:
            for moved in await self._peer.move(parts):
                transfer.add(moved)
        except HandoverError as e:
            raise self._peer.give_up(e.message) from e
        timeout_s = self._claims.transfer_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                is_valid = await self._peer.finish(self.ticket.request_id)
        except TimeoutError:
            raise self._peer.give_up(f"no transfer within {timeout_s:g} s") from None
        if not is_valid:
            raise HandoverError(f"{self._peer.name} no longer held the KV when it had been read")


class Visit(NamedTuple):
    """A peer's place among `Claims`, from the first ticket that names it until it is closed."""

    opened: asyncio.Future[Peer]
    task: asyncio.Task[None]


class Claims:
    """All claims of a server, and the peers they are on.

    :param me: our Hello; its proof is filled in later.
    :param movers: of our ranks.
    :param tasks: owns a task per peer; all have ended some time after `stop`.
    """

    def __init__(
        self,
        me: Hello,
        movers: Sequence[Mover],
        tasks: asyncio.TaskGroup,
        *,
        secret: bytes,
        keepalive_s: float,
        transfer_timeout_s: float,
    ) -> None:
        self.layout = me.me.layout
        self.transfers = Transfers()
        self.transfer_timeout_s = transfer_timeout_s
        self._tasks = tasks
        self.hearing = Hearing()
        self._connector = Connector(me, movers, self.hearing, secret=secret, keepalive_s=keepalive_s)
        self._visits: dict[str, Visit] = {}
        """By incarnation."""
        self._gone: set[str] = set()
        """Incarnations that have ended: a ticket of one may come late."""
        self._is_stopped = False

    @property
    def num_claims(self) -> int:
        return sum(peer.num_claims for peer in self._peers())

    @property
    def num_moving(self) -> int:
        """Requests whose KV travels now."""
        return sum(peer.num_moving for peer in self._peers())

    async def meet(self, address: PeerAddress) -> Peer:
        """The peer with this address: connected already, or now.

        :raises HandoverError: when it cannot be reached, is not the incarnation meant, or its KV does not fit ours.
        """
        while not self._is_stopped:
            if address.incarnation in self._gone:
                raise HandoverError(f"{address.server} ({address.incarnation}) has ended")
            visit = self._visits.get(address.incarnation) or self._visit(address)
            peer = await asyncio.shield(visit.opened)
            if peer.lost is None:
                return peer
            # The next connection must not meet what the last one has not yet given back.
            _, pending = await asyncio.wait([visit.task], timeout=CONNECT_TIMEOUT_S)
            if pending:
                raise HandoverError(f"{address.server}: a lost connection is not closed yet")
        raise HandoverError("the server ends")

    async def claim(self, ticket: Ticket) -> Claim:
        """Claim a ticket's blocks.

        :raises HandoverError: as `meet`, or when they are claimed already.
        """
        try:
            peer = await self.meet(_address(ticket))
            peer.claim(ticket.request_id)
        except HandoverError:
            self.transfers.failed()
            raise
        return Claim(self, peer, ticket)

    async def release(self, ticket: Ticket) -> None:
        """Give a ticket's blocks back that nobody here claims.

        :raises HandoverError: as `meet`; then their lease ends by itself.
        """
        peer = await self.meet(_address(ticket))
        peer.release_unclaimed(ticket.request_id)

    async def prefetch(self, announcement: Announcement, blocks: Sequence[int], dp_rank: int) -> None:
        """Copy what was announced into our blocks; when it returns, they are valid. The rest is as of `Claim.fetch`.

        :raises HandoverError: when the KV did not come in time, or was retracted meanwhile.
        """
        ticket = announcement.ticket
        peer = next((p for p in self._peers() if p.incarnation == ticket.incarnation and p.lost is None), None)
        if peer is None:
            raise HandoverError(f"{ticket.server} is connected no more")
        with self.transfers.counted() as transfer:
            check_ticket(ticket, peer.layout)
            for moved in await peer.move(self.parts(ticket, blocks, dp_rank)):
                transfer.add(moved)
        try:
            async with asyncio.timeout(self.transfer_timeout_s):
                is_valid = await peer.still_holds(ticket.request_id)
        except TimeoutError:
            raise peer.give_up(f"no answer within {self.transfer_timeout_s:g} s") from None
        if not is_valid:
            raise HandoverError(f"{peer.name} has taken back what it announced")

    def parts(self, ticket: Ticket, blocks: Sequence[int], dp_rank: int) -> dict[int, Part]:
        """What each of our ranks that take part fetches."""
        part = Part(
            incarnation=ticket.incarnation,
            their_dp_rank=ticket.dp_rank,
            their_blocks=ticket.blocks,
            my_blocks=list(blocks),
            num_tokens=ticket.num_tokens,
            timeout_ms=int(self.transfer_timeout_s * 1000),
        )
        return dict.fromkeys(holders(self.layout, dp_rank), part)

    def gone(self, incarnation: str) -> None:
        """A server has ended: what is claimed of it fails now."""
        self._gone.add(incarnation)
        if visit := self._visits.get(incarnation):
            if not visit.opened.done():
                visit.opened.set_exception(HandoverError(f"{incarnation} has ended"))
                visit.task.cancel()
            elif not visit.opened.exception():
                visit.opened.result().give_up("it has ended")

    def stop(self) -> None:
        """Ask the peers' tasks to end; there are no claims any more."""
        self._is_stopped = True
        for visit in self._visits.values():
            visit.task.cancel()

    def _peers(self) -> list[Peer]:
        opened = (visit.opened for visit in self._visits.values())
        return [peer.result() for peer in opened if peer.done() and not peer.exception()]

    def _visit(self, address: PeerAddress) -> Visit:
        opened: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        opened.add_done_callback(asyncio.Future.exception)  # seen, also when all who waited are gone
        visit = Visit(opened, self._tasks.create_task(self._attend(address, opened)))
        visit.task.add_done_callback(lambda _: self._forget(address, opened))  # also of one that never began
        self._visits[address.incarnation] = visit
        return visit

    async def _attend(self, address: PeerAddress, opened: asyncio.Future[Peer]) -> None:
        """The life of one peer."""
        try:
            peer = await self._connector.connect(address)
        except HandoverError as e:
            opened.set_exception(e)
            return
        try:
            if not opened.done():  # it may have ended meanwhile
                opened.set_result(peer)
                await peer.run()
                log.info("no more KV from %s", peer.lost)
        finally:
            await wait_out(asyncio.ensure_future(peer.close()))

    def _forget(self, address: PeerAddress, opened: asyncio.Future[Peer]) -> None:
        del self._visits[address.incarnation]
        if not opened.done():
            opened.set_exception(HandoverError("the server ends"))


def check_ticket(ticket: Ticket, theirs: KvLayout) -> None:
    """
    :raises HandoverError: when its maker's pools have no such blocks, or they do not hold so many tokens.
    """
    if not all(0 <= block < theirs.num_blocks for block in ticket.blocks):
        raise HandoverError("the ticket names blocks outside the pool")
    if ticket.num_tokens > len(ticket.blocks) * theirs.tokens_per_block:
        raise HandoverError(f"{ticket.num_tokens} tokens do not fit into the {len(ticket.blocks)} blocks of the ticket")


def _address(ticket: Ticket) -> PeerAddress:
    return PeerAddress(server=ticket.server, incarnation=ticket.incarnation, host=ticket.host, port=ticket.port)
