"""What comes into the engine loop from other threads: one inbox, typed messages, in the order they were put."""

from __future__ import annotations

import msgspec

from trtdisagg.cache.announcements import Announcement, AnnouncementKey
from trtdisagg.cache.events import BlockListener
from trtdisagg.cache.transfers import Transfer
from trtdisagg.engine.interfaces import Guide
from trtdisagg.engine.request import Request


class Add(msgspec.Struct, frozen=True):
    """A new request, checked against the limits."""

    request: Request
    guides: list[Guide] = []
    """One for each choice, where there is one."""
    arrived_s: float | None = None
    """When, on the monotonic clock; None: now."""


class Cancel(msgspec.Struct, frozen=True):
    """Nobody wants the rest of this request, nor its ticket. One that has ended already is no error."""

    request_id: int
    choice: int | None = None
    """Only this one of its choices."""


class Fetched(msgspec.Struct, frozen=True):
    """A fetch is over: the blocks are written, or, with an error, never will be."""

    request_id: int
    error: str | None = None
    transfer: Transfer | None = None
    """Without an error: what has come."""


class Released(msgspec.Struct, frozen=True):
    """Held blocks are no longer read by anyone: fetched, given back, or their lease ended."""

    request_id: int


class Broken(msgspec.Struct, frozen=True):
    """Nothing can be computed any more."""

    reason: str


class Announced(msgspec.Struct, frozen=True):
    """More of a prompt is computed on a context server, whose request will come here."""

    announcement: Announcement


class Retracted(msgspec.Struct, frozen=True):
    """No more of it will be told."""

    key: AnnouncementKey


class Prefetched(msgspec.Struct, frozen=True):
    """The fetch of a piece is over: its blocks are written, or, with an error, never will be."""

    key: AnnouncementKey
    error: str | None = None


class Listen(msgspec.Struct, frozen=True):
    """Somebody wants to know what can be found in the blocks, or no more."""

    listener: BlockListener
    is_over: bool = False


class Shutdown(msgspec.Struct, frozen=True):
    """Cancel everything and end the loop."""

    timeout_s: float
    """How long to wait for fetches that still write into blocks."""


Message = Add | Cancel | Fetched | Released | Announced | Retracted | Prefetched | Listen | Broken | Shutdown
