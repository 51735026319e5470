"""OpenTelemetry: a span for each request, and one for each server it was asked of, sent to a collector by OTLP.

    a request ends -> its record is kept -> every EXPORT_S, in a thread: spans are made of the records and sent

On the request path nothing but the context is made. The packages are the extra `otel`; the environment variables that
they know (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS) count.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trtdisagg.net import split_address
from trtdisagg.protocol.otlp import check_installed
from trtdisagg.proxy.record import LegRecord, Record
from trtdisagg.proxy.trace_context import TraceContext, trace_context

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

EXPORT_S = 1.0
MAX_RECORDS = 8192
"""That wait to be sent; the oldest of more are left out."""
BATCH = 512
"""Requests that are sent at once."""
TIMEOUT_S = 5.0
"""For the collector to take a batch."""
_MAX_MODEL_CHARS = 200

logger = logging.getLogger(__name__)


class Traces:
    """
    :param endpoint: `http://host:4318`, or `grpc://host:4317`.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._waiting: deque[Record] = deque(maxlen=MAX_RECORDS)
        self._num_left_out = 0
        self._exporter: SpanExporter
        self._maker: _SpanMaker
        self._sampler: Sampler

    def begin(self, headers: Mapping[str, str]) -> TraceContext:
        """Go on with a client's trace, as it was decided there whether it is recorded; or begin one and decide here."""
        context = trace_context(headers.get("traceparent"), headers.get("tracestate"))
        if context.parent_id or self._sampler.should_sample(None, context.trace_id, "").decision.is_sampled():
            return context
        return context._replace(flags=0)

    def add(self, record: Record) -> None:
        """Keep a request, if its trace is recorded."""
        if record.trace is not None and record.trace.is_recorded:
            self._num_left_out += len(self._waiting) == MAX_RECORDS
            self._waiting.append(record)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """What is still kept at the end of the block is sent, if the collector takes it.

        :raises StartupError: the packages are missing.
        """
        self._exporter, self._maker = _open_exporter(self._endpoint), _SpanMaker()
        self._sampler = _sampler()
        try:
            yield
        finally:
            self._export()
            self._exporter.shutdown()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await asyncio.sleep(EXPORT_S)
            if self._waiting:
                await asyncio.to_thread(self._export)

    def _export(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            spans = [span for record in batch for span in self._maker.spans(record)]
            if self._exporter.export(spans).name != "SUCCESS":
                self._num_left_out += len(batch) + len(self._waiting)
                self._waiting.clear()  # rather than ask again and again while the collector is gone
        if self._num_left_out:
            logger.warning("traces of %d requests were not taken by %s", self._num_left_out, self._endpoint)
            self._num_left_out = 0


def _open_exporter(endpoint: str) -> SpanExporter:
    url = urlsplit(endpoint)
    check_installed(endpoint)
    if url.scheme.startswith("grpc"):
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_exporter

        return grpc_exporter.OTLPSpanExporter(url.netloc, insecure=url.scheme == "grpc", timeout=TIMEOUT_S)
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_exporter

    whole = endpoint if url.path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"
    return http_exporter.OTLPSpanExporter(whole, timeout=TIMEOUT_S)


def _sampler() -> Sampler:
    """What OTEL_TRACES_SAMPLER asks for; of itself every trace is recorded."""
    from opentelemetry.sdk.trace import TracerProvider

    return TracerProvider(shutdown_on_exit=False).sampler


class _SpanMaker:
    """Makes spans of records; the times of a record are laid on the wall clock as it is now."""

    def __init__(self) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._api: Any = trace
        self._span = ReadableSpan
        self._resource = Resource({"service.name": "trtdisagg"}).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("trtdisagg.proxy")

    def spans(self, record: Record) -> Iterator[ReadableSpan]:
        """The request's own, and those of its legs."""
        trace, kind = record.trace, self._api.SpanKind
        assert trace is not None
        yield self._make(
            record.route,
            trace,
            (trace.span_id, trace.parent_id),
            (record.arrived, record.ended),
            kind=kind.SERVER,
            attributes=_of_request(record),
            error=record.error,
        )
        for number, leg in enumerate(record.legs):
            yield self._make(
                f"{leg.kind} {leg.member.name}",
                trace,
                (trace.leg_id(number), trace.span_id),
                (leg.begun, leg.ended or record.ended),
                kind=kind.CLIENT,
                attributes=_of_leg(leg),
                error="" if leg.outcome == "done" else leg.why or leg.outcome,
            )

    def _make(
        self,
        name: str,
        trace: TraceContext,
        ids: tuple[int, int],
        times: tuple[float, float],
        *,
        kind: Any,
        attributes: dict[str, Any],
        error: str,
    ) -> ReadableSpan:
        """
        :param ids: of the span and of its parent.
        :param times: begin and end, on the monotonic clock.
        """
        api, since_epoch = self._api, time.time() - time.monotonic()
        status = api.Status(api.StatusCode.ERROR, error) if error else api.Status(api.StatusCode.UNSET)
        begun_ns, ended_ns = (int((at + since_epoch) * 1e9) for at in times)
        span_id, parent_id = ids
        return self._span(
            name,
            context=self._context(trace, span_id, is_remote=False),
            parent=self._context(trace, parent_id, is_remote=parent_id == trace.parent_id) if parent_id else None,
            resource=self._resource,
            attributes=attributes,
            kind=kind,
            status=status,
            start_time=begun_ns,
            end_time=ended_ns,
            instrumentation_scope=self._scope,
        )

    def _context(self, trace: TraceContext, span_id: int, *, is_remote: bool) -> Any:
        flags = self._api.TraceFlags(trace.flags)
        return self._api.SpanContext(trace.trace_id, span_id, is_remote=is_remote, trace_flags=flags)


def _of_request(record: Record) -> dict[str, Any]:
    """Names of OpenTelemetry's conventions, and of TensorRT-LLM's spans, where they have one."""
    told: dict[str, Any] = {
        "http.request.method": "POST",
        "http.route": record.route,
        "http.response.status_code": record.status,
        "gen_ai.request.model": record.model[:_MAX_MODEL_CHARS],
        "gen_ai.request.id": record.request_id,
        "gen_ai.latency.e2e": record.ended - record.arrived,
        "trtdisagg.path": record.path,
        "trtdisagg.num_events": record.num_events,
        "trtdisagg.num_retries": record.num_retries,
        "trtdisagg.num_migrations": record.num_migrations,
    }
    if record.chosen:
        told["gen_ai.latency.time_in_queue"] = record.chosen - record.arrived
    if record.first_token:
        told["gen_ai.latency.time_to_first_token"] = record.first_token - record.arrived
    if record.error:
        told["error.type"] = record.error
    return told


def _of_leg(leg: LegRecord) -> dict[str, Any]:
    host, port = split_address(leg.member.url)
    told: dict[str, Any] = {
        "server.address": host,
        "server.port": port,
        "trtdisagg.server": leg.member.name,
        "trtdisagg.role": leg.kind,
        "trtdisagg.outcome": leg.outcome,
        "trtdisagg.num_replayed_tokens": leg.num_replayed_tokens,
    }
    if leg.first_byte:
        told["trtdisagg.time_to_first_byte"] = leg.first_byte - leg.begun
    return told
