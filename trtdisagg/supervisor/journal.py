"""What happened, kept for those who ask and passed on to those who listen."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectSendStream

from trtdisagg.protocol.reports import Beat
from trtdisagg.supervisor.events import Event, Reported
from trtdisagg.supervisor.words import describe

_NUM_KEPT = 500
_NUM_UNREAD = 1000
"""A listener that is so far behind is let go: it can come again."""


class Entry(msgspec.Struct, kw_only=True, frozen=True):
    time: float
    """Unix seconds."""
    text: str | None
    """For people; None: only noise to them."""
    event: Event


class Journal:
    """All events of this run but beats, of which each replaces the last."""

    def __init__(self) -> None:
        self._kept: deque[Entry] = deque(maxlen=_NUM_KEPT)
        self._listeners: set[MemoryObjectSendStream[Entry]] = set()
        self._closed = False

    def add(self, event: Event) -> Entry | None:
        """:returns: the entry it became."""
        if isinstance(event, Reported) and isinstance(event.report, Beat):
            return None
        entry = Entry(time=time.time(), text=describe(event), event=event)
        self._kept.append(entry)
        for listener in list(self._listeners):
            try:
                listener.send_nowait(entry)
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                self._drop(listener)
        return entry

    def last_lines(self, count: int) -> list[str]:
        """The last events that say something to people, with the time of day."""
        told = [entry for entry in self._kept if entry.text is not None]
        return [f"{time.strftime('%H:%M:%S', time.localtime(e.time))} {e.text}" for e in told[-count:]]

    def kept(self) -> list[Entry]:
        """What is kept, the oldest first."""
        return list(self._kept)

    async def follow(self) -> AsyncGenerator[Entry, None]:
        """What is kept, then what comes, until the journal is closed."""
        send, receive = anyio.create_memory_object_stream[Entry](_NUM_UNREAD)
        kept = list(self._kept)
        if self._closed:
            send.close()
        else:
            self._listeners.add(send)
        try:
            with receive:
                for entry in kept:
                    yield entry
                async for entry in receive:
                    yield entry
        finally:
            self._drop(send)

    def close(self) -> None:
        """Nothing more comes: listeners are let go when they have read all."""
        self._closed = True
        for listener in list(self._listeners):
            self._drop(listener)

    def _drop(self, listener: MemoryObjectSendStream[Entry]) -> None:
        self._listeners.discard(listener)
        listener.close()
