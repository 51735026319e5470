"""The generation side: claims on blocks that context servers hold.

    claim     connects, unless we are (`visits`); renews the lease at once, then every third of it
    fetch     a part for each of our ranks -> their movers, at once -> Finish -> Finished(valid)
    release   gives the blocks back without having read them
    prefetch  a part for each of our ranks, of blocks that are not held but announced -> Check -> Checked(valid)

It knows no engine; whoever has a claim that failed computes the prefix itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from trtdisagg.cache.announcements import Announcement
from trtdisagg.cache.peers import Peer
from trtdisagg.cache.shares import holders
from trtdisagg.cache.transfers import Transfer, Transfers
from trtdisagg.cache.visits import Visits
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout, Ticket
from trtdisagg.protocol.peers import Part
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
                peer = self._peer
                is_valid = await self._claims.copy(peer, self.ticket, blocks, dp_rank, transfer, confirm=peer.finish)
                if not is_valid:
                    raise HandoverError(f"{peer.name} no longer held the KV when it had been read")
        finally:
            self.release()
        return transfer

    def release(self) -> None:
        """Give the peer's blocks back unread. Without effect on a claim that has ended."""
        if self._is_open:
            self._is_open = False
            self._peer.release(self.ticket.request_id)


class Claims:
    """All claims of a server.

    :param layout: ours.
    :param visits: to the peers that they are on.
    """

    def __init__(self, layout: KvLayout, visits: Visits, *, transfer_timeout_s: float) -> None:
        self._layout = layout
        self.transfers = Transfers()
        self._transfer_timeout_s = transfer_timeout_s
        self._visits = visits

    @property
    def num_claims(self) -> int:
        return sum(peer.num_claims for peer in self._visits.peers)

    @property
    def num_moving(self) -> int:
        """Requests whose KV travels now."""
        return sum(peer.num_moving for peer in self._visits.peers)

    async def claim(self, ticket: Ticket) -> Claim:
        """Claim a ticket's blocks.

        :raises HandoverError: when their server cannot be met, or they are claimed already.
        """
        try:
            peer = await self._visits.meet(_address(ticket))
            peer.claim(ticket.request_id)
        except HandoverError:
            self.transfers.failed()
            raise
        return Claim(self, peer, ticket)

    async def release(self, ticket: Ticket) -> None:
        """Give a ticket's blocks back that nobody here claims.

        :raises HandoverError: when their server cannot be met; then their lease ends by itself.
        """
        peer = await self._visits.meet(_address(ticket))
        peer.release_unclaimed(ticket.request_id)

    async def prefetch(self, announcement: Announcement, blocks: Sequence[int], dp_rank: int) -> None:
        """Copy what was announced into our blocks; when it returns, they are valid. The rest is as of `Claim.fetch`.

        :raises HandoverError: when the KV did not come in time, or was retracted meanwhile.
        """
        ticket = announcement.ticket
        peer = next((p for p in self._visits.peers if p.incarnation == ticket.incarnation and p.lost is None), None)
        if peer is None:
            raise HandoverError(f"{ticket.server} is connected no more")
        with self.transfers.counted() as transfer:
            is_valid = await self.copy(peer, ticket, blocks, dp_rank, transfer, confirm=peer.still_holds)
        if not is_valid:
            raise HandoverError(f"{peer.name} has taken back what it announced")

    async def copy(
        self,
        peer: Peer,
        ticket: Ticket,
        blocks: Sequence[int],
        dp_rank: int,
        transfer: Transfer,
        *,
        confirm: Callable[[int], Awaitable[bool]],
    ) -> bool:
        """Have our ranks fetch their parts of what a ticket names.

        :param confirm: asks the peer, after all reads, whether what was read was there until now.
        :return: its answer.
        :raises HandoverError: when one of them could not, or the peer does not answer. Then it is given up: its links
            were aborted, or it hangs.
        """
        check_ticket(ticket, peer.layout)
        try:
            parts_moved = await peer.move(self._parts(ticket, blocks, dp_rank))
        except HandoverError as e:
            raise peer.give_up(e.message) from e
        for moved in parts_moved:
            transfer.add(moved)
        try:
            async with asyncio.timeout(self._transfer_timeout_s):
                return await confirm(ticket.request_id)
        except TimeoutError:
            raise peer.give_up(f"no transfer within {self._transfer_timeout_s:g} s") from None

    def _parts(self, ticket: Ticket, blocks: Sequence[int], dp_rank: int) -> dict[int, Part]:
        """What each of our ranks that take part fetches."""
        part = Part(
            incarnation=ticket.incarnation,
            their_dp_rank=ticket.dp_rank,
            their_blocks=ticket.blocks,
            my_blocks=list(blocks),
            num_tokens=ticket.num_tokens,
            timeout_ms=int(self._transfer_timeout_s * 1000),
        )
        return dict.fromkeys(holders(self._layout, dp_rank), part)


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
