"""The tickets a fake engine has given out, and their leases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from trtdisagg.protocol.spec import EngineSpec


class Tickets:
    """Held until a generation server fetches, or the lease ends.

    :param expired: called for each lease that ended.
    """

    def __init__(self, spec: EngineSpec, secret: bytes, expired: Callable[[], None]) -> None:
        self._spec = spec
        self._secret = secret
        self._expired = expired
        self.held: dict[int, asyncio.TimerHandle] = {}

    def hold(self, request_id: int, num_tokens: int, port: int) -> str:
        """Begin a lease; returns the sealed ticket."""
        from trtdisagg.protocol.handover import Ticket, seal

        spec = self._spec
        loop = asyncio.get_running_loop()
        self.held[request_id] = loop.call_later(spec.transfer.lease_ms / 1000, self._expire, request_id)
        ticket = Ticket(
            server=spec.name,
            incarnation=spec.incarnation,
            host=spec.host,
            port=port,
            request_id=request_id,
            num_tokens=num_tokens,
            blocks=[request_id],
            lease_ms=spec.transfer.lease_ms,
        )
        return seal(ticket, self._secret)

    def drop(self, request_id: int) -> bool:
        """End a lease; whether it was still held."""
        lease = self.held.pop(request_id, None)
        if lease is not None:
            lease.cancel()
        return lease is not None

    def _expire(self, request_id: int) -> None:
        if self.drop(request_id):
            self._expired()
