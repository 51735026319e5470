"""OpenTelemetry: a span for each request, and one for each server it was asked of, sent to a collector by OTLP.

    a request ends -> its record is kept -> every EXPORT_S, in a thread: spans are made of the records and sent

On the request path nothing but the context is made. The packages are the extra `otel`; the environment variables that
they know (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS) count.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trtdisagg.protocol.otlp import check_installed
from trtdisagg.proxy.records.record import Record
from trtdisagg.proxy.records.spans import SpanMaker
from trtdisagg.proxy.records.trace_context import TraceContext, trace_context

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

EXPORT_S = 1.0
MAX_RECORDS = 8192
"""That wait to be sent; the oldest of more are left out."""
BATCH = 512
"""Requests that are sent at once."""
TIMEOUT_S = 5.0
"""For the collector to take a batch."""

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
        self._maker: SpanMaker
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
        self._exporter, self._maker = _open_exporter(self._endpoint), SpanMaker()
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
