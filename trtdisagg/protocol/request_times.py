"""What `/perf_metrics` says of single requests, in TensorRT-LLM's form.

Times are seconds of a steady clock of the machine that says them (`/steady_clock_offset`). Of a generation server
arrival_time <= kv_cache_transfer_start <= kv_cache_transfer_end <= first_scheduled_time holds; a request for which
nothing was transferred has none of these three keys.
"""

from __future__ import annotations

import msgspec


class TimingMetrics(msgspec.Struct, kw_only=True, frozen=True):
    server_arrival_time: float
    """Its head had come."""
    arrival_time: float
    """The engine had it."""
    first_scheduled_time: float
    first_token_time: float
    server_first_token_time: float
    """Its first text was ready to be sent."""
    last_token_time: float
    kv_cache_size: int | msgspec.UnsetType = msgspec.UNSET
    """Bytes that were transferred here for it."""
    kv_cache_transfer_start: float | msgspec.UnsetType = msgspec.UNSET
    kv_cache_transfer_end: float | msgspec.UnsetType = msgspec.UNSET


class KvCacheMetrics(msgspec.Struct, kw_only=True, frozen=True):
    num_total_allocated_blocks: int
    num_new_allocated_blocks: int
    num_reused_blocks: int
    num_missed_blocks: int


class PerfMetrics(msgspec.Struct, kw_only=True, frozen=True):
    first_iter: int
    last_iter: int
    timing_metrics: TimingMetrics
    kv_cache_metrics: KvCacheMetrics


class RequestPerf(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One request on one server."""

    request_id: int
    """On this server."""
    ctx_request_id: int | None = None
    """On the context server, of a request that is handed over."""
    disagg_request_id: int | None = None
    """Of the whole request, where a proxy gave it one."""
    perf_metrics: PerfMetrics


class RequestTimes(msgspec.Struct, kw_only=True, frozen=True):
    """What one server says of one request: `GET /request_times`, by `disagg_request_id=` or by `request_id=`, which is
    what was in X-Request-Id. It is told as often as somebody asks, while it is among the last ones."""

    server: str
    incarnation: str
    now: float
    """On the clock of the times below."""
    requests: list[RequestPerf]
    """Several where it computed both legs, or one again; those that were given up are among them."""


class SteadyClock(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to a question for the time: half way between the two it was asked for, as seen from here."""

    receive_ts: float
    transmit_ts: float


class SteadyClockOffset(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Added to all times from now on, so that they are those of another machine's clock."""

    offset: float
