"""One leg of a request: one server is asked, and everything that can go wrong with it becomes one of two errors.

`LegFailedError`: another server may do better. `RefusedError`: the request itself is at fault, so no other would.
What to do about either is the relay's.
"""

from __future__ import annotations

import time
from collections import defaultdict
from types import TracebackType

from trtdisagg.errors import DeadlineError, TrtdisaggError, UnavailableError, UpstreamError
from trtdisagg.protocol.answers import encode_error
from trtdisagg.protocol.control import Member
from trtdisagg.proxy.http1 import BadAnswerError, Head
from trtdisagg.proxy.pool import Exchange, Pool, UnreachableError
from trtdisagg.proxy.record import LegKind, LegOutcome, LegRecord, Record
from trtdisagg.proxy.upstream import BrokenError, Connection
from trtdisagg.registry.members import Roster

MAX_ERROR_BYTES = 1024 * 1024


class LegFailedError(Exception):
    """A server could not be asked, broke off, or failed.

    :param reached: the server may have seen the request, so what it holds (a ticket) may be used up.
    """

    def __init__(self, member: Member, why: str, *, reached: bool = True, status: int | None = None) -> None:
        super().__init__(f"{member.name}: {why}")
        self.member = member
        self.reached = reached
        self.status = status

    def as_error(self) -> TrtdisaggError:
        """What the client is told when nobody else can be asked."""
        if not self.reached or self.status == 503:
            return UnavailableError(f"The request could not be served: {self}")
        return UpstreamError(f"The request failed: {self}")


class RefusedError(Exception):
    """A server's 4xx, or its word that the client's own deadline has passed: the client gets it as it is."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        super().__init__(f"refused with status {status}")
        self.status = status
        self.body = body
        self.headers = headers

    def as_event(self) -> bytes:
        """The same as data of a server-sent event, which must be one line."""
        if b"\n" not in self.body and b"\r" not in self.body:
            return self.body
        text = self.body[:500].decode(errors="replace")
        return encode_error(UpstreamError(f"The request was refused with status {self.status}: {text}"))


class Legs:
    """Asks servers, and knows from which of them an answer is awaited."""

    def __init__(self, pool: Pool, roster: Roster) -> None:
        self.pool = pool
        self.roster = roster
        self._awaiting: defaultdict[Member, set[Leg]] = defaultdict(set)

    def open(self, kind: LegKind, member: Member, path: str, body: bytes, record: Record) -> Leg:
        """Prepare to ask a server; it is asked on entering the result.

        :param record: of the request: what becomes of the leg is noted there.
        """
        more = b"" if record.trace is None else record.trace.leg_headers(len(record.legs))
        exchange = self.pool.exchange(member.url, "POST", path, body, record.request_id, more=more)
        return Leg(self, record.leg(kind, member, time.monotonic()), exchange)

    def awaited(self) -> list[Member]:
        """Servers of which an answer has not begun, or does not show that it has."""
        return [member for member, legs in self._awaiting.items() if legs]

    def give_up(self, member: Member) -> None:
        """Have the legs that await this server fail."""
        for leg in list(self._awaiting[member]):
            leg.give_up()

    def begins(self, leg: Leg) -> None:
        self._awaiting[leg.member].add(leg)

    def is_answered(self, leg: Leg) -> None:
        self._awaiting[leg.member].discard(leg)

    def ends(self, leg: Leg) -> None:
        awaiting = self._awaiting[leg.member]
        awaiting.discard(leg)
        if not awaiting:
            del self._awaiting[leg.member]


class Leg:
    """One server and its answer, from `async with` to the end of the block."""

    def __init__(self, legs: Legs, record: LegRecord, exchange: Exchange) -> None:
        self._legs = legs
        self.member = record.member
        self.record = record
        self._exchange = exchange

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
                await _raise_for_status(self.member, head, connection)
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
        self.record.end(time.monotonic(), _outcome(error), "" if error is None else str(error))
        if isinstance(error, UnreachableError | BrokenError):
            self._legs.roster.doubt(self.member)
            raise LegFailedError(self.member, str(error), reached=isinstance(error, BrokenError)) from error
        if isinstance(error, BadAnswerError):
            raise LegFailedError(self.member, str(error)) from error

    def is_answered(self) -> None:
        """The answer has begun: from now on it is the stream that shows whether the server is alive."""
        self._legs.is_answered(self)
        self.record.first_byte = time.monotonic()

    def give_up(self) -> None:
        self._exchange.give_up()


def _outcome(error: BaseException | None) -> LegOutcome:
    match error:
        case None:
            return "done"
        case LegFailedError() | UnreachableError() | BrokenError() | BadAnswerError():
            return "failed"
        case RefusedError():
            return "refused"
    return "cancelled"


async def _raise_for_status(member: Member, head: Head, connection: Connection) -> None:
    status = head.status
    body = await connection.read(MAX_ERROR_BYTES)
    if status in (401, 403):
        raise LegFailedError(member, f"it does not accept the cluster's secret (status {status})", status=status)
    if 400 <= status < 500 or (status == DeadlineError.http_status and member.wire_version is not None):
        raise RefusedError(status, body, head.headers)
    text = body[:500].decode(errors="replace")
    # Ours answers 503 at its door, before it looks at a ticket; if not, a ticket that is used up is found out.
    reached = status != 503 or member.wire_version is None
    raise LegFailedError(member, f"status {status}: {text}", status=status, reached=reached)
