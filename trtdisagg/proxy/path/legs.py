"""One leg of a request: one server is asked, what becomes of it is noted, and what goes wrong becomes one of two errors
(failures.py). What to do about either is the relay's.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from trtdisagg.errors import DeadlineError
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.http1 import BadAnswerError, Head
from trtdisagg.proxy.http.pool import Exchange, Pool, UnreachableError
from trtdisagg.proxy.http.upstream import BrokenError, Connection
from trtdisagg.proxy.path.breaker import Breakers
from trtdisagg.proxy.path.failures import LegFailedError, RefusedError
from trtdisagg.proxy.records.record import LegKind, LegRecord, Record
from trtdisagg.registry.members import Roster

MAX_ANSWER_BYTES = 256 * 1024 * 1024
MAX_ERROR_BYTES = 1024 * 1024

_T = TypeVar("_T")


class Legs:
    """Asks servers, and knows which of them are being asked."""

    def __init__(self, pool: Pool, roster: Roster, breakers: Breakers) -> None:
        self.pool = pool
        self.roster = roster
        self.breakers = breakers
        self._awaiting: defaultdict[Member, set[Leg]] = defaultdict(set)

    def open(self, kind: LegKind, member: Member, path: str, body: bytes, record: Record) -> Leg:
        """Prepare to ask a server; it is asked by `fetch` or on entering the result.

        :param record: of the request: what becomes of the leg is noted there.
        """
        more = b"" if record.trace is None else record.trace.leg_headers(len(record.legs))
        exchange = self.pool.exchange(member.url, "POST", path, body, record.request_id, more=more)
        return Leg(self, record.leg(kind, member, time.monotonic()), exchange)

    def awaited(self) -> list[Member]:
        """Servers of which something is awaited that another one could do."""
        return [member for member, legs in self._awaiting.items() if legs]

    def give_up(self, member: Member) -> None:
        """Have the legs that await this server fail."""
        for leg in list(self._awaiting[member]):
            leg.give_up()

    def begins(self, leg: Leg) -> None:
        self._awaiting[leg.member].add(leg)

    def is_bound(self, leg: Leg) -> None:
        self._awaiting[leg.member].discard(leg)

    def ends(self, leg: Leg) -> None:
        awaiting = self._awaiting[leg.member]
        awaiting.discard(leg)
        if not awaiting:
            del self._awaiting[leg.member]


class Leg:
    """One server and its answer: taken whole, or a stream from `async with` to the end of the block."""

    __slots__ = ("_exchange", "_legs", "member", "record")

    def __init__(self, legs: Legs, record: LegRecord, exchange: Exchange) -> None:
        self._legs = legs
        self.member = record.member
        self.record = record
        self._exchange = exchange

    async def fetch(self, decode: Callable[[bytes], _T]) -> _T:
        """Ask, and take a whole answer with status 200.

        :param decode: raises BadAnswerError when the answer is of no use.
        :raises LegFailedError:
        :raises RefusedError: when the answer is for the client.
        """
        self._legs.begins(self)
        error: BaseException | None = None
        try:
            head, body = await self._exchange.fetch(MAX_ANSWER_BYTES)
            if head.status != 200:
                raise _as_error(self.member, head, body)
            return decode(body)
        except BaseException as e:
            error = e
            raise
        finally:
            self.record.first_byte = self._exchange.heard_at
            self._end(error)

    async def __aenter__(self) -> Connection:
        """Ask; in the block the answer has status 200 and its body is to be taken.

        :raises LegFailedError: also for what goes wrong in the block.
        :raises RefusedError: when the answer is for the client.
        """
        self._legs.begins(self)
        try:
            head, connection = await self._exchange.__aenter__()
        except BaseException as e:
            self._end(e)
            raise
        self.record.first_byte = time.monotonic()
        if head.status != 200:
            try:
                raise _as_error(self.member, head, await connection.read(MAX_ERROR_BYTES))
            except BaseException as e:
                await self.__aexit__(type(e), e, None)
                raise
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.__aexit__(kind, error, trace)
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self._legs.ends(self)
        if error is None:
            self.record.end(time.monotonic(), "done")
            self._legs.breakers.succeeded(self.member)
            return
        failure = _as_failure(self.member, error)
        if isinstance(failure, LegFailedError):
            self._note_failure(failure)
        elif isinstance(failure, RefusedError):
            self.record.end(time.monotonic(), "refused", str(failure))
        else:
            self.record.end(time.monotonic(), "cancelled")
        if isinstance(error, UnreachableError | BrokenError):
            self._legs.roster.doubt(self.member)
        if failure is not error:
            raise failure from error

    def is_answered(self, *, is_bound: bool) -> None:
        """The answer has begun.

        :param is_bound: nobody else could go on with it: from now on the stream alone shows whether the server lives.
        """
        self.record.first_byte = time.monotonic()
        if is_bound:
            self._legs.is_bound(self)

    def fail(self, why: str) -> LegFailedError:
        """It was broken off from outside, and that is the server's fault."""
        failure = LegFailedError(self.member, why)
        self._note_failure(failure)
        return failure

    def _note_failure(self, failure: LegFailedError) -> None:
        now = time.monotonic()
        self.record.end(now, "failed", str(failure))
        if self._legs.roster.is_listed(self.member):  # of all that break with a server, one counts
            self._legs.breakers.failed(self.member, now)

    def give_up(self) -> None:
        self._exchange.give_up()


def _as_failure(member: Member, error: BaseException) -> BaseException:
    """What is told of what went wrong with a connection; anything else as it is."""
    if isinstance(error, UnreachableError):
        return LegFailedError(member, str(error), reached=False)
    if isinstance(error, BrokenError | BadAnswerError):
        return LegFailedError(member, str(error))
    return error


def _as_error(member: Member, head: Head, body: bytes) -> LegFailedError | RefusedError:
    """What an answer means that has another status."""
    status = head.status
    if len(body) > MAX_ERROR_BYTES:
        raise BrokenError(f"the answer is longer than {MAX_ERROR_BYTES} bytes")
    if status in (401, 403):
        return LegFailedError(member, f"it does not accept the cluster's secret (status {status})", status=status)
    if 400 <= status < 500 or (status == DeadlineError.http_status and member.wire_version is not None):
        return RefusedError(status, body, head.headers)
    text = body[:500].decode(errors="replace")
    # Ours answers 503 at its door, before it looks at a ticket; if not, a ticket that is used up is found out.
    reached = status != 503 or member.wire_version is None
    return LegFailedError(member, f"status {status}: {text}", status=status, reached=reached)
