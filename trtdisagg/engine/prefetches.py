"""Pieces of prompts that context servers still compute, fetched before their requests come.

    context server    | chunk 0 | chunk 1 | chunk 2 | chunk 3 | first token
    announced                   |0        |0 1      |0 1 2
    pieces here                 |-0-|     |-1-|     |-2-|               request: finds 0 1 2, fetches what is missing

A piece is fetched into blocks that nobody here wants, checked, and left where it is found by its hash, as what was
computed here is: for as long as there is room. So there is nothing for the request to take over, nothing to be given
back when it never comes, and it never matters whether a piece was fetched. What the request finds missing it fetches.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from trtdisagg.cache.announcements import Announcement, AnnouncementKey
from trtdisagg.engine.exchange import Exchange
from trtdisagg.engine.messages import Announced, Prefetched, Retracted
from trtdisagg.engine.request import Request, SamplingParams
from trtdisagg.engine.schedulers import Schedulers
from trtdisagg.engine.sequence import Sequence


@dataclass(slots=True)
class Prompt:
    """One that was announced."""

    last: Announcement
    """What was told last; it is all that was told."""
    dp_rank: int
    num_tried: int = 0
    """Tokens up to which pieces were fetched, or there was no room for them."""
    piece: Sequence | None = None
    """On its way."""
    is_retracted: bool = False


class Prefetches:
    """All of them; at most one piece of each prompt at a time."""

    def __init__(self, exchange: Exchange, schedulers: Schedulers, tokens_per_block: int) -> None:
        self._exchange = exchange
        self._schedulers = schedulers
        self._tokens_per_block = tokens_per_block
        self._prompts: dict[AnnouncementKey, Prompt] = {}

    @property
    def pieces(self) -> list[Sequence]:
        """Those that have blocks."""
        return [prompt.piece for prompt in self._prompts.values() if prompt.piece is not None]

    def take(self, message: Announced | Retracted | Prefetched) -> None:
        match message:
            case Announced(announcement=announcement):
                self._announced(announcement)
            case Retracted(key=key):
                self._retracted(key)
            case Prefetched(key=key, error=error):
                self._prefetched(key, error)

    def _announced(self, announcement: Announcement) -> None:
        if (prompt := self._prompts.get(announcement.key)) is None:
            dp_rank = self._schedulers.place(_piece(announcement))
            prompt = self._prompts[announcement.key] = Prompt(announcement, dp_rank)
        prompt.last = announcement
        self._go_on(prompt)

    def _retracted(self, key: AnnouncementKey) -> None:
        if prompt := self._prompts.get(key):
            prompt.is_retracted = True
            self._forget_ended(prompt)

    def _prefetched(self, key: AnnouncementKey, error: str | None) -> None:
        """A piece's fetch is over. After one that failed the request fetches the rest."""
        if (prompt := self._prompts.get(key)) is None:
            return  # the engine has started over since
        piece, prompt.piece = prompt.piece, None
        assert piece is not None, "a fetch ends twice"
        self._schedulers.prefetched(piece, 0 if error is not None else piece.num_prompt)
        if error is None and not prompt.is_retracted:
            self._go_on(prompt)
        self._forget_ended(prompt)

    def _go_on(self, prompt: Prompt) -> None:
        """Fetch what was told since the last piece."""
        num_tokens = len(prompt.last.tokens) // self._tokens_per_block * self._tokens_per_block
        if prompt.piece is not None or num_tokens <= prompt.num_tried:
            return
        prompt.num_tried = num_tokens
        part = _beginning(prompt.last, num_tokens)
        piece = _piece(part)
        piece.dp_rank = prompt.dp_rank
        if self._schedulers.prefetch(piece):
            prompt.piece = piece
            self._exchange.prefetch(part, piece)

    def _forget_ended(self, prompt: Prompt) -> None:
        if prompt.is_retracted and prompt.piece is None:
            del self._prompts[prompt.last.key]


def _beginning(announcement: Announcement, num_tokens: int) -> Announcement:
    ticket = msgspec.structs.replace(announcement.ticket, num_tokens=num_tokens)
    return announcement._replace(ticket=ticket, tokens=announcement.tokens[:num_tokens])


def _piece(announcement: Announcement) -> Sequence:
    """A prompt's beginning, as the tables of blocks know it."""
    request = Request(
        id=-announcement.ticket.request_id,
        type="context_only",
        prompt_token_ids=announcement.tokens,
        sampling=SamplingParams(max_tokens=1),
        cache_salt=announcement.cache_salt,
    )
    # What it finds is counted when its request comes.
    return Sequence(request, frozenset(), ticket=announcement.ticket, num_cached=0)
