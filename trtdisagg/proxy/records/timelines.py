"""Traces of requests for `trtdisagg trace`: from the records of this process, joined with what servers say of theirs.

What a server says is on its own clock. On one host that is ours; otherwise it is laid on ours by the moment at which it
was asked, which is wrong by half the time that took at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl, quote

import msgspec
from aiohttp import web

from trtdisagg.errors import RequestError
from trtdisagg.protocol.http1 import BadAnswerError
from trtdisagg.protocol.request_times import RequestPerf, RequestTimes, TimingMetrics
from trtdisagg.protocol.trace import ServerTimes, Trace, TracedLeg, Traces
from trtdisagg.proxy.http.pages import json_page
from trtdisagg.proxy.http.pool import Pool, UnreachableError
from trtdisagg.proxy.http.upstream import BrokenError
from trtdisagg.proxy.records.recent import Recent
from trtdisagg.proxy.records.record import LegRecord, Record
from trtdisagg.proxy.records.records import Records

ASK_TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 1 << 20
MAX_TRACES = 100
SAME_CLOCK_S = 0.001
"""A clock that differs by less than this beyond what asking took is ours."""
_EARLY_S = 0.005
"""A server may say that a request came so much earlier than it was sent."""


class Timelines:
    """
    :param worker: which of the proxy's processes this is.
    """

    def __init__(self, pool: Pool, records: Records, recent: Recent, worker: int = 0) -> None:
        self._pool = pool
        self._records = records
        self._recent = recent
        self._worker = worker

    async def page(self, request: web.BaseRequest) -> web.Response:
        """Answer `GET /traces`."""
        return json_page(await self.answer(request.query_string))

    async def answer(self, query: str) -> Traces:
        """
        :param query: `id=ID`, `last=N` or `slowest=N`.
        :raises RequestError: it is another one.
        """
        [(key, value), *more] = parse_qsl(query) or [("", "")]
        if key == "id" and not more:
            return Traces(traces=await asyncio.gather(*map(self._joined, self._find(value))))
        if key not in ("last", "slowest") or more or not (value.isascii() and value.isdigit()):
            raise RequestError("One of `id=ID`, `last=NUMBER` and `slowest=NUMBER` is needed")
        number = min(int(value), MAX_TRACES)
        found = self._recent.last(number) if key == "last" else self._recent.slowest(number)
        return Traces(traces=[self._trace(record, {}) for record in found])

    def _find(self, request_id: str) -> list[Record]:
        """Those that run first."""
        running = [record for record in self._records.running if record.request_id == request_id]
        return [*running, *self._recent.find(request_id)][:MAX_TRACES]

    async def _joined(self, record: Record) -> Trace:
        urls = {leg.member.url for leg in record.legs if leg.member.wire_version is not None}
        told = await asyncio.gather(*(self._ask(url, record) for url in urls))
        return self._trace(record, dict(zip(urls, told, strict=True)))

    async def _ask(self, url: str, record: Record) -> Sequence[TimingMetrics]:
        """What a server says of a request, on our clock; nothing, if it does not answer."""
        path = f"/request_times?request_id={quote(record.request_id, safe='')}"
        asked = time.monotonic()
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                head, body = await self._pool.exchange(url, "GET", path).fetch(MAX_ANSWER_BYTES)
            told = msgspec.json.decode(body, type=RequestTimes) if head.status == 200 else None
        except (UnreachableError, BrokenError, BadAnswerError, TimeoutError, msgspec.DecodeError):
            return []
        if told is None:
            return []
        answered = time.monotonic()
        return on_our_clock(told.requests, offset_s=clock_offset_s(asked, told.now, answered))

    def _trace(self, record: Record, told: dict[str, Sequence[TimingMetrics]]) -> Trace:
        arrived = record.arrived
        return Trace(
            request_id=record.request_id,
            arrived=time.time() - time.monotonic() + arrived,
            worker=self._worker,
            model=record.model[:200],
            client=record.client,
            route=record.route,
            path=record.path,
            status=record.status,
            error=record.error,
            is_stream=record.is_stream,
            num_events=record.num_events,
            num_retries=record.num_retries,
            num_migrations=record.num_migrations,
            chosen_ms=_ms(record.chosen, arrived),
            first_token_ms=_ms(record.first_token, arrived),
            ended_ms=_ms(record.ended, arrived),
            legs=[_leg(leg, arrived, told.get(leg.member.url, ())) for leg in record.legs],
        )


def clock_offset_s(asked: float, told: float, answered: float) -> float:
    """What is to be added to times of a server, so that they are ours.

    :param asked, answered: on our clock.
    :param told: what time it was there in between.
    """
    offset_s = (asked + answered) / 2 - told
    return 0.0 if abs(offset_s) <= (answered - asked) / 2 + SAME_CLOCK_S else offset_s


def on_our_clock(requests: Iterable[RequestPerf], *, offset_s: float) -> list[TimingMetrics]:
    def shifted(timing: TimingMetrics) -> TimingMetrics:
        times = {
            name: value + offset_s
            for name, value in msgspec.structs.asdict(timing).items()
            if isinstance(value, float) and value
        }
        return msgspec.structs.replace(timing, **times)

    return [shifted(request.perf_metrics.timing_metrics) for request in requests]


def _leg(leg: LegRecord, arrived: float, told: Sequence[TimingMetrics]) -> TracedLeg:
    return TracedLeg(
        kind=leg.kind,
        server=leg.member.name,
        url=leg.member.url,
        begun_ms=(leg.begun - arrived) * 1e3,
        first_byte_ms=_ms(leg.first_byte, arrived),
        ended_ms=_ms(leg.ended, arrived),
        outcome=leg.outcome,
        why=leg.why,
        num_replayed_tokens=leg.num_replayed_tokens,
        on_server=_on_server(leg, arrived, told),
    )


def _on_server(leg: LegRecord, arrived: float, told: Sequence[TimingMetrics]) -> ServerTimes | None:
    """Of what its server says of the whole request, what is of this leg: a server may have been asked twice."""
    ended = leg.ended or time.monotonic()
    ours = [timing for timing in told if leg.begun - _EARLY_S <= timing.server_arrival_time <= ended]
    if not ours:
        return None
    timing = min(ours, key=lambda timing: abs(timing.server_arrival_time - leg.begun))
    return ServerTimes(
        arrived_ms=(timing.server_arrival_time - arrived) * 1e3,
        transfer_begun_ms=_ms(timing.kv_cache_transfer_start or 0.0, arrived),
        transfer_ended_ms=_ms(timing.kv_cache_transfer_end or 0.0, arrived),
        transfer_bytes=timing.kv_cache_size or 0,
        scheduled_ms=_ms(timing.first_scheduled_time, arrived),
        first_token_ms=_ms(timing.first_token_time, arrived),
        last_token_ms=_ms(timing.last_token_time, arrived),
    )


def _ms(then: float, arrived: float) -> float | None:
    return (then - arrived) * 1e3 if then else None
