"""Records of requests as OpenTelemetry's spans, with the names of its conventions. Sends nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trtdisagg.net import split_address
from trtdisagg.proxy.records.record import LegRecord, Record
from trtdisagg.proxy.records.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_MAX_MODEL_CHARS = 200
_COUNTED = ("num_events", "num_retries", "num_migrations")
"""Said where they are not 0: each attribute costs a few microseconds to send."""


class SpanMaker:
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
    }
    told |= {f"trtdisagg.{name}": number for name in _COUNTED if (number := getattr(record, name))}
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
    }
    if leg.num_replayed_tokens:
        told["trtdisagg.num_replayed_tokens"] = leg.num_replayed_tokens
    if leg.first_byte:
        told["trtdisagg.time_to_first_byte"] = leg.first_byte - leg.begun
    return told
