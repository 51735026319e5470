"""The blocks that a context server holds for generation servers, each under a lease.

       hold              Renew (a generation server waits or reads)
    ---------> unclaimed ------> claimed by a peer ---------+
                   |                 |                      |
                   | lease ends,     | Finish, Release      | lease ends, or the peer is lost
                   | reader is gone, |                      |
                   | Release         |                      |
                   v                 v                      v
                on_released, exactly once, and the hold is gone

A hold has a number of its own, which is never used again: were it the request's, a server that reuses those would
call one request's KV valid because another's is held.

It knows no sockets and no blocks' content. Thread-safe: the engine adds, the event loop does the rest.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from trtdisagg.errors import HandoverError


class Offer(NamedTuple):
    """One request's KV, for a generation server."""

    request_id: int
    """For logs; the ticket carries a number of its own."""
    blocks: Sequence[int]
    """In token order."""
    num_tokens: int
    """Whose KV is in them."""
    on_released: Callable[[], None]
    """Called exactly once, from any thread, when nobody may read the blocks any more: they were fetched, given back or
    withdrawn, the lease ended, the peer that had claimed them is lost, or the holder closes."""
    dp_rank: int = 0
    """With attention data parallelism: whose blocks they are."""
    reader: str | None = None
    """Name of the server that will most likely come for them: when it ends, they are released at once."""


class Hold(msgspec.Struct):
    """One request's blocks."""

    request_id: int
    """For logs."""
    num_blocks: int
    deadline: float
    on_released: Callable[[], None]
    reader: str | None = None
    """Incarnation of the server it is meant for, where that is known."""
    holder: object | None = None
    """The peer that renewed it last."""


class Holds:
    """All that is held.

    :param lease_s: how long a hold lives without renewal.
    :param clock: monotonic seconds.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._lock = threading.Lock()
        self._hold_ids = itertools.count(1)
        self._holds: dict[int, Hold] = {}
        self._is_closed = False
        self.num_expired_total = 0
        """Whose lease ended."""
        self.num_unread_total = 0
        """Given back, withdrawn, expired or lost with their peer: all that were not read to their end."""

    def __len__(self) -> int:
        return len(self._holds)

    @property
    def num_blocks(self) -> int:
        with self._lock:
            return sum(h.num_blocks for h in self._holds.values())

    def add(self, request_id: int, num_blocks: int, on_released: Callable[[], None], reader: str | None = None) -> int:
        """
        :param reader: incarnation of the server that will come for it, where that is known.
        :param on_released: called once, from the thread that ends the hold.
        :return: the hold's number.
        :raises HandoverError: after `close`.
        """
        with self._lock:
            if self._is_closed:
                raise HandoverError("the server ends and holds no more blocks")
            hold_id = next(self._hold_ids)
            self._holds[hold_id] = Hold(request_id, num_blocks, self._clock() + self._lease_s, on_released, reader)
            return hold_id

    def renew(self, hold_ids: Iterable[int], holder: object) -> None:
        """Begin the lease anew for those that are still held; whoever asks about the others learns of it at the end."""
        with self._lock:
            deadline = self._clock() + self._lease_s
            for hold in filter(None, map(self._holds.get, hold_ids)):
                hold.deadline, hold.holder = deadline, holder

    def end(self, hold_id: int, *, is_read: bool = False) -> bool:
        """
        :param is_read: a peer has read it to its end.
        :return: whether it was held until now.
        """
        with self._lock:
            hold = self._holds.pop(hold_id, None)
            self.num_unread_total += hold is not None and not is_read
        if hold is not None:
            hold.on_released()
        return hold is not None

    def end_expired(self) -> list[int]:
        """
        :return: the requests whose lease had ended.
        """
        now = self._clock()
        expired = self._end_where(lambda hold: hold.deadline <= now)
        self.num_expired_total += len(expired)
        return expired

    def end_of(self, holder: object) -> list[int]:
        """
        :return: the requests that this peer had claimed.
        """
        return self._end_where(lambda hold: hold.holder is holder)

    def end_meant_for(self, reader: str) -> list[int]:
        """
        :return: the requests that were meant for this incarnation, and that nobody has claimed.
        """
        return self._end_where(lambda hold: hold.reader == reader and hold.holder is None)

    def close(self) -> None:
        """End all, and take no more."""
        with self._lock:
            self._is_closed = True
        self._end_where(lambda _: True)

    def next_deadline(self) -> float | None:
        """When the first lease ends; None when nothing is held."""
        with self._lock:
            return min((h.deadline for h in self._holds.values()), default=None)

    def _end_where(self, ends: Callable[[Hold], bool]) -> list[int]:
        with self._lock:
            ended = {i: hold for i, hold in self._holds.items() if ends(hold)}
            for hold_id in ended:
                del self._holds[hold_id]
            self.num_unread_total += len(ended)
        for hold in ended.values():
            hold.on_released()
        return [hold.request_id for hold in ended.values()]
