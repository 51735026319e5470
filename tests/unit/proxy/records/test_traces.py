"""Spans of requests, as a collector gets them."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.records import CONTEXT, GENERATION, OTHER, handed_over, leg, record

from trtdisagg.errors import StartupError
from trtdisagg.protocol import otlp
from trtdisagg.proxy.records import traces as module
from trtdisagg.proxy.records.trace_context import TraceContext
from trtdisagg.proxy.records.traces import Traces

trace_service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra otel is not installed"
)

TRACE = TraceContext(trace_id=0xABC, parent_id=7, span_id=100, flags=1)


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps what is sent to it."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, trace_service.ExportTraceServiceRequest.FromString(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def collector(status: int = 200) -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.got, server.status = [], status  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def url(server: Any) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def spans(server: Any) -> dict[str, Any]:
    """By name."""
    found = [s for _, got in server.got for r in got.resource_spans for scope in r.scope_spans for s in scope.spans]
    return {span.name: span for span in found}


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def shift(part: Any, by_s: float, *names: str) -> None:
    for name in names:
        setattr(part, name, getattr(part, name) + by_s)


def test_a_span_for_the_request_and_one_for_each_leg() -> None:
    legs = [
        leg("context", CONTEXT, (100.02, 100.19, 100.19)),
        leg("generation", GENERATION, (100.2, 0.0, 100.22), "failed", why="generation-0: gone"),
        leg("generation", OTHER, (100.22, 100.24, 100.3)),
    ]
    with collector() as server, (traces := Traces(url(server))).opened():
        before = time.time_ns()
        now = time.monotonic()
        shifted = handed_over(legs=legs, num_migrations=1, request_id="abc", trace=TRACE)
        shift(shifted, now - 100, "arrived", "chosen", "first_token", "ended")
        for part in legs:
            shift(part, now - 100, "begun", "ended")
        traces.add(shifted)
        traces._export()
        got = spans(server)
    assert [path for path, _ in server.got] == ["/v1/traces"]
    assert set(got) == {"/v1/completions", "context context-0", "generation generation-0", "generation generation-1"}
    root = got["/v1/completions"]
    assert (int.from_bytes(root.trace_id), int.from_bytes(root.span_id)) == (0xABC, 100)
    assert int.from_bytes(root.parent_span_id) == 7
    assert (root.end_time_unix_nano - root.start_time_unix_nano) / 1e9 == pytest.approx(0.3, abs=1e-3)
    assert abs(root.start_time_unix_nano - before) < 60e9, "on the wall clock"
    told = attributes(root)
    assert (told["gen_ai.request.id"], told["http.response.status_code"]) == ("abc", 200)
    assert told["gen_ai.latency.time_to_first_token"] == pytest.approx(0.2)
    assert told["gen_ai.latency.time_in_queue"] == pytest.approx(0.01)
    assert told["trtdisagg.num_migrations"] == 1
    for number, name in enumerate(("context context-0", "generation generation-0", "generation generation-1")):
        assert int.from_bytes(got[name].span_id) == TRACE.leg_id(number), "what its server was told"
        assert int.from_bytes(got[name].parent_span_id) == 100
    failed = got["generation generation-0"].status
    assert (failed.code, failed.message) == (2, "generation-0: gone")
    assert attributes(got["context context-0"])["server.port"] == 1


def test_what_is_not_recorded_is_not_sent() -> None:
    with collector() as server:
        with (traces := Traces(url(server))).opened():
            traces.add(record(trace=TRACE._replace(flags=0)))
            traces.add(record())
            traces.add(record(trace=TRACE, route="/v1/chat/completions", error="queue_full"))
        assert list(spans(server)) == ["/v1/chat/completions"], "what is left is sent at the end"
        assert attributes(spans(server)["/v1/chat/completions"])["error.type"] == "queue_full"


@pytest.mark.parametrize(("sampler", "is_recorded"), [("always_off", False), ("parentbased_always_on", True)])
def test_whoever_begins_a_trace_decides(monkeypatch: pytest.MonkeyPatch, sampler: str, is_recorded: bool) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    with collector() as server, (traces := Traces(url(server))).opened():
        begun = traces.begin({})
        assert (begun.parent_id, begun.is_recorded) == (0, is_recorded)
        assert begun.leg_headers(0).rstrip().endswith(b"-01" if is_recorded else b"-00")
        client = f"00-{0xABC:032x}-{7:016x}-"
        assert traces.begin({"traceparent": client + "01"}).is_recorded
        assert not traces.begin({"traceparent": client + "00"}).is_recorded


def test_a_collector_that_is_gone_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    with collector(status=400) as server:
        with (traces := Traces(url(server))).opened():
            for _ in range(6):
                traces.add(record(trace=TRACE))
        assert len(server.got) == 1, "the others are not tried"
    assert "traces of 6 requests were not taken" in caplog.text


def test_the_oldest_of_too_many_are_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 2)
    with collector() as server:
        with (traces := Traces(url(server))).opened():
            for number in range(5):
                traces.add(record(trace=TRACE, route=str(number)))
        assert sorted(spans(server)) == ["3", "4"]
    assert "traces of 3 requests" in caplog.text


def test_a_collector_may_speak_grpc() -> None:
    exporters = pytest.importorskip(
        "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", reason="the extra otel is not installed"
    )
    with (traces := Traces("grpc://127.0.0.1:4317")).opened():
        assert isinstance(traces._exporter, exporters.OTLPSpanExporter)


def test_without_the_packages_it_is_said_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StartupError, match=r"pip install 'trtdisagg\[otel\]'"), Traces("http://h:1").opened():
        pass
