"""What a generation server learns of a prompt while a context server still computes it: the life of an announcement.

    context: engine   rank 0                            rank 0: generation            engine
    announce
    tell ---------->  Computed(number, tokens, blocks) ---> Hearing, all so far ----> announced
                                     <=== reads, one-sided, by the movers === <------ prefetch
                      Telling <------------- Check(number)
                         still told? --- Checked(valid) ----------------------------> on_fetched
    retract ------->  from now on nothing of it is valid
                      Retracted(number) -----------------------> forgotten ---------> retracted

Nothing is held for it and nothing has a lease: the context server may take back what it told at any time, and whoever
has read it learns of that before it is used. The end of the connection ends all that was told over it, on both sides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

import msgspec

from trtdisagg.cache.streams import PeerStream
from trtdisagg.protocol.handover import Ticket
from trtdisagg.protocol.peers import Computed, FromGeneration, PeerRanks, Retracted

MAX_TOKENS_TOLD = 100_000
"""In one message: so it fits into a frame."""

AnnouncementKey: TypeAlias = tuple[str, int]
"""Incarnation of the context server, and the number that it gave the prompt."""


class Announcement(NamedTuple):
    """What a context server has computed of a prompt whose request will come here."""

    ticket: Ticket
    """For these tokens; its request id is the number of the announcement."""
    tokens: list[int]
    """From the beginning, as many as fill blocks over there."""
    cache_salt: str | None

    @property
    def key(self) -> AnnouncementKey:
        return self.ticket.incarnation, self.ticket.request_id


class Told(NamedTuple):
    """To whom a prompt is told, and what is the same in all that is told of it."""

    stream: PeerStream[FromGeneration]
    dp_rank: int
    cache_salt: str | None


class Telling:
    """The context side: what is told and was not taken back. From any thread: each is one operation of a dict.

    :param readers: those who are connected.
    :param post: has a function called in the event loop, in order.
    :param changed: called, in any thread, when there may be the first or the last thing to read.
    """

    def __init__(
        self,
        readers: Mapping[PeerStream[FromGeneration], PeerRanks],
        tokens_per_block: int,
        post: Callable[[Callable[[], None]], None],
        changed: Callable[[], None],
    ) -> None:
        self._readers = readers
        self._tokens_per_block = tokens_per_block
        self._post = post
        self._changed = changed
        self._numbers = itertools.count(1)
        self._told: dict[int, Told] = {}

    def __len__(self) -> int:
        return len(self._told)

    def __contains__(self, number: int) -> bool:
        return number in self._told

    def announce(self, reader: str, dp_rank: int, cache_salt: str | None) -> int | None:
        """Begin to tell of a prompt.

        :param reader: name of a generation server.
        :return: a number for the announcement, never used again; None: the reader is not connected.
        """
        stream = next((s for s, peer in list(self._readers.items()) if peer.server == reader), None)
        if stream is None:
            return None
        number = next(self._numbers)
        self._told[number] = Told(stream, dp_rank, cache_salt)
        self._changed()
        return number

    def tell(self, number: int, tokens: list[int], blocks: list[int]) -> None:
        """More of it is computed: these tokens fill these blocks."""
        if (told := self._told.get(number)) is None:  # the reader is lost
            return
        at_once, n = max(1, MAX_TOKENS_TOLD // self._tokens_per_block), self._tokens_per_block
        for first in range(0, len(blocks), at_once):
            end = first + at_once
            message = Computed(
                number=number,
                tokens=tokens[first * n : end * n],
                blocks=blocks[first:end],
                dp_rank=told.dp_rank,
                cache_salt=told.cache_salt,
            )
            self._post(partial(told.stream.send, message))

    def retract(self, number: int) -> None:
        """From now on nothing that was told of it holds."""
        if told := self._told.pop(number, None):
            self._post(partial(told.stream.send, Retracted(number=number)))
            self._changed()

    def lost(self, stream: PeerStream[FromGeneration]) -> None:
        """A reader is connected no more."""
        for number in [number for number, told in list(self._told.items()) if told.stream is stream]:
            self._told.pop(number, None)


class Hearing:
    """The generation side: what was told so far, and who wants to know."""

    def __init__(self) -> None:
        self._heard: dict[AnnouncementKey, Announcement] = {}
        self._announced: Callable[[Announcement], None] | None = None
        self._retracted: Callable[[AnnouncementKey], None] = lambda _: None

    def follow(self, announced: Callable[[Announcement], None], retracted: Callable[[AnnouncementKey], None]) -> None:
        """Tell of everything from now on."""
        self._announced, self._retracted = announced, retracted

    def computed(self, server: str, incarnation: str, message: Computed) -> None:
        """More of a prompt is computed on a server."""
        if self._announced is None:
            return
        nothing = Announcement(_ticket(server, incarnation, message), [], message.cache_salt)
        before = self._heard.get(nothing.key, nothing)
        tokens, blocks = before.tokens + message.tokens, before.ticket.blocks + message.blocks
        ticket = msgspec.structs.replace(before.ticket, num_tokens=len(tokens), blocks=blocks)
        heard = self._heard[nothing.key] = Announcement(ticket, tokens, message.cache_salt)
        self._announced(heard)

    def retracted(self, key: AnnouncementKey) -> None:
        if self._heard.pop(key, None) is not None:
            self._retracted(key)

    def lost(self, incarnation: str) -> None:
        """A server is connected no more."""
        for key in [key for key in self._heard if key[0] == incarnation]:
            self.retracted(key)


def _ticket(server: str, incarnation: str, message: Computed) -> Ticket:
    """Names blocks, and no lease; whoever made it is connected already."""
    return Ticket(
        server=server,
        incarnation=incarnation,
        host="",
        port=0,
        request_id=message.number,
        num_tokens=0,
        blocks=[],
        lease_ms=0,
        dp_rank=message.dp_rank,
    )
