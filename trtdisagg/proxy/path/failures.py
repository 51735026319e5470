"""The two things that can go wrong with a leg.

`LegFailedError`: another server may do better. `RefusedError`: the request itself is at fault, so no other would.
"""

from __future__ import annotations

import msgspec

from trtdisagg.errors import DeadlineError, RequestError, TrtdisaggError, UnavailableError, UpstreamError
from trtdisagg.protocol.answers import ErrorBody, encode_error
from trtdisagg.protocol.control import Member

_OF_THE_REQUEST: dict[str, type[TrtdisaggError]] = {e.type: e for e in (RequestError, DeadlineError)}
"""Types of errors within a stream for which no other server would be better."""


class LegFailedError(Exception):
    """A server could not be asked, broke off, or failed.

    :param reached: the server may have seen the request, so what it holds (a ticket) may be used up.
    :param status: it answered, with this status or, within a stream, as if.
    """

    def __init__(self, member: Member, why: str, *, reached: bool = True, status: int | None = None) -> None:
        super().__init__(f"{member.name}: {why}")
        self.member = member
        self.reached = reached
        self.status = status

    @property
    def is_unseen(self) -> bool:
        """No connection came about."""
        return not self.reached and self.status is None

    def as_error(self) -> TrtdisaggError:
        """What the client is told when nobody else can be asked."""
        if not self.reached or self.status == UnavailableError.http_status:
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


def from_event(member: Member, data: bytes) -> LegFailedError | RefusedError:
    """What an event says that ends a stream with an error.

    :param data: of the event.
    """
    try:
        error = msgspec.json.decode(data, type=ErrorBody).error
    except msgspec.DecodeError:
        return LegFailedError(member, f"its error cannot be read: {data[:200].decode(errors='replace')}")
    if (kind := _OF_THE_REQUEST.get(error.type)) is not None:
        return RefusedError(kind.http_status, data, {"content-type": "application/json"})
    is_away = error.type == UnavailableError.type
    status = UnavailableError.http_status if is_away else UpstreamError.http_status
    return LegFailedError(member, error.message, status=status)
