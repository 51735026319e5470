"""Between the engine's thread, which may not wait, and the transceiver, which lives in the event loop.

engine thread   claim        fetch          forget
                  |            |              |          posted, in this order
event loop      Errand: claims at once, waits to be told, then fetches or gives back ... on_fetched, once
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from trtdisagg.cache.announcements import Announcement, AnnouncementKey
from trtdisagg.cache.holds import Offer
from trtdisagg.cache.transceiver import Transceiver
from trtdisagg.cache.transfers import Transfer
from trtdisagg.engine.interfaces import OnFetched, OnPrefetched
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import Ticket

log = logging.getLogger(__name__)

T = TypeVar("T")

_GIVEN_UP = "it is no longer wanted"


class TransceiverHandover:
    """A transceiver as the engine wants it; see `interfaces.Handover`. `async with`, in the transceiver's loop.

    :param transceiver: open until we are closed.
    """

    def __init__(self, transceiver: Transceiver) -> None:
        self._transceiver = transceiver
        self._errands: dict[int, Errand] = {}
        self._prefetches: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for errand in list(self._errands.values()):
            errand.forget()
        for prefetch in self._prefetches:
            prefetch.cancel()
        await self._tasks.__aexit__(None, None, None)

    # --- from the engine's thread -----------------------------------------------------------------------------------

    def hold(self, offer: Offer) -> Ticket:
        return self._transceiver.hold(offer)

    def withdraw(self, ticket: Ticket) -> None:
        self._transceiver.withdraw(ticket)

    def claim(self, request_id: int, ticket: Ticket) -> None:
        self._loop.call_soon_threadsafe(self._claim, request_id, ticket)

    def fetch(self, request_id: int, blocks: list[int], on_fetched: OnFetched, dp_rank: int = 0) -> None:
        self._loop.call_soon_threadsafe(self._fetch, request_id, Fetch(blocks, on_fetched, dp_rank))

    def forget(self, request_id: int) -> None:
        self._loop.call_soon_threadsafe(self._forget, request_id)

    def announce(self, reader: str, dp_rank: int, cache_salt: str | None) -> int | None:
        return self._transceiver.telling.announce(reader, dp_rank, cache_salt)

    def tell(self, announcement: int, tokens: list[int], blocks: list[int]) -> None:
        self._transceiver.telling.tell(announcement, tokens, blocks)

    def retract(self, announcement: int) -> None:
        self._transceiver.telling.retract(announcement)

    def follow(self, announced: Callable[[Announcement], None], retracted: Callable[[AnnouncementKey], None]) -> None:
        self._transceiver.hearing.follow(announced, retracted)

    def prefetch(
        self, announcement: Announcement, blocks: list[int], dp_rank: int, on_prefetched: OnPrefetched
    ) -> None:
        self._loop.call_soon_threadsafe(
            self._prefetch, self._run_prefetch(announcement, blocks, dp_rank, on_prefetched)
        )

    # --- in the event loop ------------------------------------------------------------------------------------------

    def _prefetch(self, work: Coroutine[None, None, None]) -> None:
        prefetch = self._tasks.create_task(work)
        self._prefetches.add(prefetch)
        prefetch.add_done_callback(self._prefetches.discard)

    async def _run_prefetch(
        self, announcement: Announcement, blocks: list[int], dp_rank: int, on_prefetched: OnPrefetched
    ) -> None:
        error: str | None = _GIVEN_UP
        try:
            await self._transceiver.prefetch(announcement, blocks, dp_rank)
            error = None
        except HandoverError as e:
            error = e.message
        except Exception as e:  # a fault of ours; the request fetches the piece itself
            log.exception("a piece of a prompt could not be fetched")
            error = f"{type(e).__name__}: {e}"
        finally:
            on_prefetched(error)

    def _claim(self, request_id: int, ticket: Ticket) -> None:
        errand = self._errands[request_id] = Errand(self._transceiver, ticket)
        self._tasks.create_task(self._run(request_id, errand))

    def _fetch(self, request_id: int, fetch: Fetch) -> None:
        if errand := self._errands.get(request_id):
            errand.fetch(fetch)
        else:  # its claim ended with a fault of ours
            fetch.on_fetched(_GIVEN_UP)

    def _forget(self, request_id: int) -> None:
        if errand := self._errands.get(request_id):  # its fetch may have ended meanwhile
            errand.forget()

    async def _run(self, request_id: int, errand: Errand) -> None:
        try:
            await errand.run()
        finally:
            del self._errands[request_id]


class Fetch(NamedTuple):
    """Where the KV is to be written, and who wants to know when it is."""

    blocks: list[int]
    on_fetched: OnFetched
    dp_rank: int
    """Of the blocks."""


class Errand:
    """What one request's ticket names: claimed, then fetched or given back."""

    def __init__(self, transceiver: Transceiver, ticket: Ticket) -> None:
        self._transceiver = transceiver
        self._ticket = ticket
        self._fetch: asyncio.Future[Fetch | None] = asyncio.get_running_loop().create_future()
        """None: forgotten before there was anywhere to write."""
        self._is_wanted = True
        self._step: asyncio.Task[Any] | None = None
        """What is going on now and may be cut short."""

    def fetch(self, fetch: Fetch) -> None:
        if self._fetch.done():  # we are closing
            fetch.on_fetched(_GIVEN_UP)
        else:
            self._fetch.set_result(fetch)

    def forget(self) -> None:
        self._is_wanted = False
        if not self._fetch.done():
            self._fetch.set_result(None)
        if self._step is not None:
            self._step.cancel()

    async def run(self) -> None:
        error: str | None = _GIVEN_UP
        transfer = None
        try:
            transfer = await self._claim_and_fetch()
            error = None
        except HandoverError as e:
            error = e.message
        except Exception as e:  # a fault of ours; the engine computes the prefix itself
            log.exception("a handover failed")
            error = f"{type(e).__name__}: {e}"
        finally:
            if self._fetch.done() and (fetch := self._fetch.result()):
                fetch.on_fetched(error, transfer)

    async def _claim_and_fetch(self) -> Transfer:
        """
        :raises HandoverError: there is no KV, and nothing is written any more.
        """
        try:
            claim = await self._cancellable(self._transceiver.claim(self._ticket))
        except HandoverError:
            if not self._is_wanted:  # it was cut short before it had claimed anything
                self._transceiver.release(self._ticket)
            await self._fetch
            raise
        fetch = await self._fetch
        if fetch is None or not self._is_wanted:
            claim.release()
            raise HandoverError(_GIVEN_UP)
        try:
            return await self._cancellable(claim.fetch(fetch.blocks, fetch.dp_rank))
        finally:
            claim.release()  # a fetch that is cut short before it began has not done so

    async def _cancellable(self, work: Coroutine[Any, Any, T]) -> T:
        """
        :raises HandoverError: when `forget` cuts it short.
        """
        self._step = asyncio.create_task(work)
        try:
            result: T = await self._step
            return result
        except asyncio.CancelledError:
            if self._is_wanted:
                raise  # it is us who are cancelled
            raise HandoverError(_GIVEN_UP) from None
        finally:
            self._step = None
