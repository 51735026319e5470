"""The last requests and their times: kept until somebody asks for all of them (`/perf_metrics`), which are forgotten
then, and for whoever asks for one (`/request_times`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import UNSET

from trtdisagg.engine.http.job import Job
from trtdisagg.engine.record import Record
from trtdisagg.protocol.request_times import KvCacheMetrics, PerfMetrics, RequestPerf, TimingMetrics

MAX_FOUND = 4096


class _Kept(NamedTuple):
    request_id: int
    ctx_request_id: int | None
    disagg_request_id: int | None
    name: str
    """Of the whole request, as its client or the proxy sent it."""
    record: Record
    arrived_s: float
    first_text_s: float


class PerfRing:
    """
    :param max_requests: that are kept for those who ask for all; the oldest go where there are more.
    :param max_found: that can be found by number or name, likewise.
    """

    def __init__(self, max_requests: int, max_found: int = MAX_FOUND) -> None:
        self.offset_s = 0.0
        """Added to all times that are told; see `SteadyClockOffset`."""
        self._kept: deque[_Kept] = deque(maxlen=max_requests)
        self._last: deque[_Kept] = deque(maxlen=max_found)

    def add(
        self,
        job: Job,
        records: Mapping[int, Record],
        *,
        name: str,
        arrived_s: float,
        first_text_s: float,
        is_answered: bool,
    ) -> None:
        """
        :param records: by request; of those that had a token.
        :param name: as it came in X-Request-Id; empty: in none.
        :param arrived_s: when its head had come, and when its first text was ready, by the monotonic clock.
        :param is_answered: to its end; of others nobody is told who has not asked for them.
        """
        whole = job.params.disagg_request_id if job.params else None
        for request_id, record in records.items():
            ctx_request_id = _ctx_request_id(job, request_id)
            kept = _Kept(request_id, ctx_request_id, whole, name, record, arrived_s, first_text_s)
            self._last.append(kept)
            if is_answered:
                self._kept.append(kept)

    def take(self) -> list[RequestPerf]:
        """The oldest first."""
        kept = list(self._kept)
        self._kept.clear()
        return [self._told(one) for one in kept]

    def find(self, *, disagg_request_id: int | None = None, name: str | None = None) -> list[RequestPerf]:
        """All that this server has computed of one request, the oldest first."""
        return [
            self._told(kept)
            for kept in self._last
            if (disagg_request_id is not None and kept.disagg_request_id == disagg_request_id)
            or (name and kept.name == name)
        ]

    def _told(self, kept: _Kept) -> RequestPerf:
        def at(seconds: float) -> float:
            return seconds + self.offset_s if seconds else 0.0

        record, moved = kept.record, kept.record.transfer
        timing = TimingMetrics(
            server_arrival_time=at(kept.arrived_s),
            arrival_time=at(record.arrived_s),
            first_scheduled_time=at(record.scheduled_s),
            first_token_time=at(record.first_token_s),
            server_first_token_time=at(kept.first_text_s),
            last_token_time=at(record.last_token_s),
            kv_cache_size=moved.num_bytes if moved else UNSET,
            kv_cache_transfer_start=at(moved.started_s) if moved else UNSET,
            kv_cache_transfer_end=at(moved.ended_s) if moved else UNSET,
        )
        blocks = KvCacheMetrics(
            num_total_allocated_blocks=record.num_blocks,
            num_new_allocated_blocks=record.num_blocks - record.num_reused_blocks,
            num_reused_blocks=record.num_reused_blocks,
            num_missed_blocks=record.num_missed_blocks,
        )
        metrics = PerfMetrics(
            first_iter=record.first_step,
            last_iter=record.last_step,
            timing_metrics=timing,
            kv_cache_metrics=blocks,
        )
        return RequestPerf(
            request_id=kept.request_id,
            ctx_request_id=kept.ctx_request_id,
            disagg_request_id=kept.disagg_request_id,
            perf_metrics=metrics,
        )


def _ctx_request_id(job: Job, request_id: int) -> int | None:
    if job.is_context_only:
        return request_id
    return job.params.ctx_request_id if job.params else None
