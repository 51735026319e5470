"""What the engine asks of the handover for a sequence: claim and fetch KV of others, offer its own.

Without a handover it has nothing to ask: requests that need one are refused before they come here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Items
from functools import partial

import msgspec
from torch import Tensor

from trtdisagg.cache.announcements import Announcement
from trtdisagg.cache.holds import Offer
from trtdisagg.cache.transfers import Transfer
from trtdisagg.engine.interfaces import Handover
from trtdisagg.engine.messages import Announced, Fetched, Message, Prefetched, Released, Retracted
from trtdisagg.engine.request import Request
from trtdisagg.engine.sequence import Sequence, State
from trtdisagg.protocol.handover import Ticket
from trtdisagg.text.block_hash import block_hash

log = logging.getLogger(__name__)


class Exchange:
    """
    :param post: puts a message into the engine's inbox, from any thread.
    """

    def __init__(self, handover: Handover | None, post: Callable[[Message], None], tokens_per_block: int) -> None:
        self._maybe_handover = handover
        self._post = post
        self._tokens_per_block = tokens_per_block
        self._announced: set[Sequence] = set()
        """Those with an announcement."""
        self._fetches = False
        """Something was asked for, and more may be."""

    @property
    def _handover(self) -> Handover:
        assert self._maybe_handover is not None, "a request that needs a handover was let in without one"
        return self._maybe_handover

    def must_await(self, request: Request) -> bool:
        """Whether no step of it may be left behind uncomputed: should it end early, a fetch may write into its blocks
        at once, while a step without logits has yet to be computed by another stage or rank, or on a device.

        What only makes KV for others fetches none; there the stages compute several chunks at once.
        """
        return self._maybe_handover is not None and (self._fetches or request.type != "context_only")

    def claim(self, request: Request) -> Ticket | None:
        """Keep the KV that the request's ticket names alive.

        :return: the ticket, when what it names can be used.
        """
        if request.ticket is None:
            return None
        self._fetches = True
        self._handover.claim(request.id, request.ticket)
        if reason := _why_not(request.ticket, request.prompt_token_ids + request.output_token_ids):
            log.warning("request %d is computed here: %s", request.id, reason)
            self._handover.forget(request.id)
            return None
        return request.ticket

    def forget(self, sequence: Sequence) -> None:
        """It wants nothing of others any more, if it ever did."""
        if sequence.ticket is not None and sequence.state is not State.QUARANTINED:
            self._handover.forget(sequence.id)

    def fetch(self, sequence: Sequence) -> None:
        """Have the KV written into its blocks that its ticket names, and others have not computed here."""
        assert sequence.ticket is not None
        num_found, num_blocks = sequence.num_published, -(-sequence.ticket.num_tokens // self._tokens_per_block)
        blocks = [-1] * num_found + sequence.blocks[num_found:num_blocks]
        self._handover.fetch(sequence.id, blocks, partial(self._fetched, sequence.id), sequence.dp_rank)

    def _fetched(self, request_id: int, error: str | None, transfer: Transfer | None = None) -> None:
        self._post(Fetched(request_id, error, transfer))

    def hold(self, sequence: Sequence) -> Ticket:
        """Offer its KV.

        :raises TrtdisaggError: when it cannot be offered.
        """
        released = partial(self._post, Released(sequence.id))
        ticket = self._handover.hold(
            Offer(
                sequence.id,
                sequence.blocks,
                sequence.num_computed,
                released,
                sequence.dp_rank,
                sequence.request.reader,
            )
        )
        sequence.offer = msgspec.structs.replace(ticket, text_hash=_text_hash(sequence.tokens, sequence.num_computed))
        return sequence.offer

    def withdraw(self, sequence: Sequence) -> None:
        """Nobody has the ticket of what it holds."""
        assert sequence.offer is not None
        self._handover.withdraw(sequence.offer)

    # --- pieces of prompts that are still computed --------------------------------------------------------------------

    def announce(self, sequences: Items[Sequence], logits: Tensor) -> None:
        """Tell who will come for their KV of the blocks that have become full. They do not change any more.

        :param logits: of the step that filled them, whose KV is there when one of them is.
        """
        if sequences:
            logits[:1, :1].tolist()  # waits for the device
        for sequence in sequences:
            self._announce(sequence)

    def _announce(self, sequence: Sequence) -> None:
        if sequence.announcement is None:
            request = sequence.request
            assert request.reader is not None
            sequence.announcement = self._handover.announce(request.reader, sequence.dp_rank, request.cache_salt)
            if sequence.announcement is None:
                return
            self._announced.add(sequence)
        n, first, end = self._tokens_per_block, sequence.num_announced, sequence.num_computed // self._tokens_per_block
        if first < end:
            self._handover.tell(sequence.announcement, sequence.tokens[first * n : end * n], sequence.blocks[first:end])
            sequence.num_announced = end

    def retract(self, sequence: Sequence) -> None:
        """Its blocks are its own no more: what was told of them is taken back, if anything was."""
        if sequence.announcement is not None:
            self._handover.retract(sequence.announcement)
            self._announced.remove(sequence)
            sequence.announcement, sequence.num_announced = None, 0

    def retract_preempted(self) -> None:
        """The same for those who went back into the queue."""
        for sequence in [s for s in self._announced if s.state is State.WAITING]:
            self.retract(sequence)

    def follow(self) -> None:
        """Have what others announce posted."""
        if self._maybe_handover is not None:
            self._maybe_handover.follow(lambda a: self._post(Announced(a)), lambda key: self._post(Retracted(key)))

    def prefetch(self, announcement: Announcement, piece: Sequence) -> None:
        """Have the KV of what was announced written into the piece's blocks, but for those that were found."""
        self._fetches = True
        num_found, key = piece.num_published, announcement.key
        blocks = [-1] * num_found + piece.blocks[num_found:]
        self._handover.prefetch(announcement, blocks, piece.dp_rank, lambda error: self._post(Prefetched(key, error)))


def _why_not(ticket: Ticket, tokens: list[int]) -> str | None:
    """Why the KV that a ticket names is of no use for these tokens; None: it is."""
    if not 0 < ticket.num_tokens <= len(tokens):
        return f"the ticket is for {ticket.num_tokens} tokens, {len(tokens)} are known"
    if ticket.text_hash and ticket.text_hash != _text_hash(tokens, ticket.num_tokens):
        return "the ticket is for other tokens: both phases of a request must have the same prompt"
    return None


def _text_hash(tokens: list[int], num_tokens: int) -> bytes:
    return block_hash(b"", tokens[:num_tokens])
