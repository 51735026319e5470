"""What `trtdisagg bench proxy` finds. The machine's other work can only take from a figure, so of all rounds the best
counts; CPU time says most on a busy machine, and ratios to a peer measured in the same run say more than any figure."""

from __future__ import annotations

import msgspec


class Figures(msgspec.Struct, kw_only=True, frozen=True):
    """Of one proxy, each request passing a context and a generation server. CPU is user and system time of all its
    processes."""

    requests_s: float
    """64 at once, small bodies, whole answers."""
    cpu_us_per_request: float
    """Likewise."""
    cpu_us_per_request_32k: float
    """The same with bodies of 32 KiB."""
    cpu_us_per_chunk: float
    """64 streams, one token every 10 ms each."""
    added_p50_us: float
    """One request at a time: from the request to the last byte, less the median of asking a server directly."""
    added_p99_us: float
    """Likewise, less the same median."""
    many_streams_added_p99_ms: float
    """1,000 streams, one token every 50 ms each: a chunk's way from server to client, less the median without a
    proxy."""
    many_streams_rss_mb: float
    """Resident memory of all its processes while they run."""
    hold_ms: float
    """The longest that a chunk of another stream was on its way while bodies of 256 KiB passed."""
    idle_hold_ms: float
    """The same while none passed: what the machine itself does."""


class Direct(msgspec.Struct, kw_only=True, frozen=True):
    """The load client against a scripted server with nothing between: neither limits the figures above."""

    requests_s: float
    p50_us: float
    p99_us: float
    chunk_delay_p50_us: float
    """64 streams, one token every 10 ms each."""
    chunk_delay_p99_us: float
    many_streams_delay_p50_us: float
    many_streams_delay_p99_us: float


class ProxyReport(Figures, kw_only=True, frozen=True):
    """What `--json` writes: our own figures, and those of the peers."""

    version: str
    num_cores: int
    num_rounds: int
    is_quick: bool
    direct: Direct
    peers: dict[str, Figures]
    """By command."""
