"""What `trtdisagg trace` is told of requests: by the proxy, which knows the legs, with what each server says of its.

    proxy's members socket, agent's control socket    GET /traces?id=ID | ?last=N | ?slowest=N -> Traces

Times are milliseconds since the request came, on the proxy's clock; None: it did not come to that, or not yet.
"""

from __future__ import annotations

import msgspec

from trtdisagg.protocol import WIRE_VERSION


class ServerTimes(msgspec.Struct, kw_only=True, frozen=True):
    """One request on one server, as that server tells it."""

    arrived_ms: float
    transfer_begun_ms: float | None = None
    transfer_ended_ms: float | None = None
    transfer_bytes: int = 0
    scheduled_ms: float | None = None
    first_token_ms: float | None = None
    last_token_ms: float | None = None


class TracedLeg(msgspec.Struct, kw_only=True, frozen=True):
    """One server that was asked."""

    kind: str
    """`context` or `generation`."""
    server: str
    url: str
    begun_ms: float
    first_byte_ms: float | None = None
    ended_ms: float | None = None
    outcome: str
    """`running`, `done`, `failed`, `refused`, `cancelled`."""
    why: str = ""
    num_replayed_tokens: int = 0
    """It went on behind so many tokens of a stream that broke."""
    on_server: ServerTimes | None = None
    """None: the server does not say, or nobody asked it."""


class Trace(msgspec.Struct, kw_only=True, frozen=True):
    """One request."""

    request_id: str
    arrived: float
    """Unix seconds."""
    worker: int = 0
    """Which of the proxy's processes."""
    model: str = ""
    client: str = ""
    route: str
    path: str = ""
    """Which way it went (`both`: over two servers); empty: no server was chosen."""
    status: int = 0
    """0: it runs still; 499: the client left."""
    error: str = ""
    is_stream: bool = False
    num_events: int = 0
    num_retries: int = 0
    num_migrations: int = 0
    chosen_ms: float | None = None
    first_token_ms: float | None = None
    ended_ms: float | None = None
    legs: list[TracedLeg] = []


class Traces(msgspec.Struct, kw_only=True, frozen=True):
    wire_version: int = WIRE_VERSION
    traces: list[Trace] = []
    missing: list[str] = []
    """Processes of the proxy that did not answer, and why."""
