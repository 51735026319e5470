"""One leg of a request: one server is asked, and everything that can go wrong with it becomes one of two errors.

`LegFailedError`: another server may do better. `RefusedError`: the request itself is at fault, so no other would.
What to do about either is the relay's.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from trtdisagg.errors import TrtdisaggError, UnavailableError, UpstreamError
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.openai import encode_error
from trtdisagg.proxy.http1 import BadAnswerError
from trtdisagg.proxy.metrics import Metrics
from trtdisagg.proxy.pool import Exchange, Pool, UnreachableError
from trtdisagg.proxy.upstream import BrokenError
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
    """A server's 4xx, which the client gets as it is."""

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
    """Asks servers."""

    def __init__(self, pool: Pool, roster: Roster, metrics: Metrics) -> None:
        self._pool = pool
        self._roster = roster
        self._metrics = metrics

    @contextlib.asynccontextmanager
    async def open(self, member: Member, path: str, body: bytes, request_id: str) -> AsyncIterator[Exchange]:
        """Ask a server; in the block its answer has status 200 and its body is to be taken.

        :raises LegFailedError: also for what goes wrong in the block.
        :raises RefusedError: when the answer is a 4xx.
        """
        self._metrics.leg_begins(member)
        try:
            async with self._pool.exchange(member.url, "POST", path, body, request_id) as answer:
                if answer.head.status != 200:
                    await _raise_for_status(member, answer)
                yield answer
        except UnreachableError as e:
            self._roster.doubt(member)
            raise LegFailedError(member, str(e), reached=False) from e
        except BrokenError as e:
            self._roster.doubt(member)
            raise LegFailedError(member, str(e)) from e
        except BadAnswerError as e:
            raise LegFailedError(member, str(e)) from e
        finally:
            self._metrics.leg_ends(member)


async def _raise_for_status(member: Member, answer: Exchange) -> None:
    status, headers = answer.head
    body = await answer.connection.read(MAX_ERROR_BYTES)
    if status in (401, 403):
        raise LegFailedError(member, f"it does not accept the cluster's secret (status {status})", status=status)
    if 400 <= status < 500:
        raise RefusedError(status, body, headers)
    text = body[:500].decode(errors="replace")
    raise LegFailedError(member, f"status {status}: {text}", status=status)
