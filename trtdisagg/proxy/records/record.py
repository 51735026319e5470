"""What became of one request: written down on its path, read when it is over (metrics, access log, traces).

    completions makes it -> relay, legs note what happens -> records.add(record), once, at its end

Times are of the monotonic clock (a loop's time is the same, a moment older), 0.0 where it never came to that.
"""

from __future__ import annotations

from typing import Literal

from trtdisagg.protocol.control import Member
from trtdisagg.proxy.records.trace_context import TraceContext

LegKind = Literal["context", "generation"]
LegOutcome = Literal["running", "done", "failed", "refused", "cancelled"]
Path = Literal["", "both", "alone", "short", "cached", "no_context", "indivisible", "first_token"]
"""Which way it went: over both servers; over one, because it was asked so, its prompt is short or cached, there was no
context server, it cannot be divided; or it ended with its first token."""


class LegRecord:
    """One server that was asked."""

    __slots__ = ("begun", "ended", "first_byte", "kind", "member", "num_replayed_tokens", "outcome", "why")

    def __init__(self, kind: LegKind, member: Member, begun: float) -> None:
        self.kind = kind
        self.member = member
        self.begun = begun
        self.first_byte = 0.0
        self.ended = 0.0
        self.outcome: LegOutcome = "running"
        self.why = ""
        """It failed, for people."""
        self.num_replayed_tokens = 0
        """It went on behind so many tokens of a stream that broke."""

    def end(self, now: float, outcome: LegOutcome, why: str = "") -> None:
        """It was answered, or was not."""
        self.ended, self.outcome, self.why = now, outcome, why


class Record:
    """One request of a client."""

    __slots__ = (
        "arrived",
        "chosen",
        "client",
        "ctx_request_id",
        "disagg_request_id",
        "ended",
        "error",
        "first_token",
        "is_blind",
        "is_stream",
        "legs",
        "model",
        "num_events",
        "num_migrations",
        "num_retries",
        "path",
        "request_id",
        "route",
        "status",
        "trace",
    )

    def __init__(self, request_id: str, route: str, arrived: float) -> None:
        self.request_id = request_id
        self.route = route
        self.arrived = arrived
        self.chosen = 0.0
        """Servers were chosen for the first time: until then it was read and waited."""
        self.first_token = 0.0
        """The first byte of a streamed answer went to the client."""
        self.ended = 0.0
        self.model = ""
        self.client = ""
        """Name of the API key; empty: there are none."""
        self.is_stream = False
        self.path: Path = ""
        self.is_blind = False
        """A router that goes by what servers have in their caches did not know that of any, and went by load."""
        self.status = 0
        """499: the client left."""
        self.error = ""
        """What went wrong, in a word: the `code` of the error, or its `type`; with status 200, within the stream."""
        self.legs: list[LegRecord] = []
        """In the order in which they were asked."""
        self.num_retries = 0
        """Before anything was sent."""
        self.num_migrations = 0
        """After that: the stream went on elsewhere."""
        self.num_events = 0
        """Of a stream."""
        self.disagg_request_id: int | None = None
        """Of the last attempt; what its servers call it."""
        self.ctx_request_id: int | None = None
        """What the context server calls it; read only for /perf_metrics."""
        self.trace: TraceContext | None = None
        """None: nobody traces."""

    def leg(self, kind: LegKind, member: Member, now: float) -> LegRecord:
        """A server is about to be asked."""
        leg = LegRecord(kind, member, now)
        self.legs.append(leg)
        return leg
