"""What a real proxy leaves of the requests it has answered: its access log, its spans."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from helpers.serving import DEADLINE_S, MODEL, serving

from trtdisagg.protocol.control import Member

PROMPT = "never to be seen in a log"


def ask(url: str, **body: Any) -> str:
    data = json.dumps({"model": MODEL, "prompt": PROMPT, "max_tokens": 4, **body}).encode()
    headers = {"X-Request-Id": "mine", "Content-Type": "application/json"}
    headers["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    request = urllib.request.Request(f"{url}/v1/completions", data, headers)
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        return str(answer.read().decode())


def test_a_proxy_that_ends_has_written_all_lines(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with serving(tmp_path, {"context-0": [], "generation-0": []}, access_log=str(path)) as cluster:
        ask(cluster.url, stream=True)
        cluster.proxy.process.terminate()
        cluster.proxy.process.wait(DEADLINE_S)
    [line] = [json.loads(text) for text in path.read_text().splitlines()]
    assert line["request_id"] == "mine"
    assert (line["status"], line["path"], line["servers"]) == (200, "both", ["context-0", "generation-0"])
    assert 0 <= line["queue_ms"] <= line["ttft_ms"] <= line["e2e_ms"]
    assert line["num_events"] >= 4
    assert PROMPT not in path.read_text()


class _Slow(http.server.BaseHTTPRequestHandler):
    """A server of others that takes its time between the end mark and the end of its answer."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in (b'data: {"choices": [{"text": "a"}]}\n\n', b"data: [DONE]\n\n"):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.server.left.wait(30)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def test_a_client_that_leaves_at_the_end_mark_was_answered(tmp_path: Path) -> None:
    """As the openai package does with every stream."""
    path = tmp_path / "access.log"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as slow:
        slow.left = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=slow.serve_forever)
        thread.start()
        try:
            with serving(tmp_path, {}, access_log=str(path)) as cluster:
                url = f"127.0.0.1:{slow.server_address[1]}"
                cluster.tell(Member(name="generation-0", role="generation", model=MODEL, url=url, incarnation="1"))
                _read_to_the_end_mark(cluster.proxy.url)
                while 'outcome="' not in (page := _get(f"{cluster.url}/metrics")):
                    pass
                cluster.proxy.process.terminate()
                cluster.proxy.process.wait(30)
        finally:
            slow.left.set()  # type: ignore[attr-defined]
            slow.shutdown()
            thread.join()
    [line] = [json.loads(text) for text in path.read_text().splitlines()]
    assert (line["status"], line["error"], line["servers"]) == (200, None, ["generation-0"])
    assert 'outcome="done"' in page


def _read_to_the_end_mark(address: str) -> None:
    host, _, port = address.rpartition(":")
    body = json.dumps({"model": MODEL, "prompt": "p", "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(head.encode() + body)
        said = b""
        while b"[DONE]" not in said:
            piece = client.recv(4096)
            assert piece, said
            said += piece


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


class _Collector(http.server.BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_spans_go_to_the_collector(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as collector:
        collector.bodies = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
            with serving(tmp_path, {"context-0": [], "generation-0": []}, otlp_traces_endpoint=endpoint) as cluster:
                ask(cluster.url)
                cluster.proxy.process.terminate()
                cluster.proxy.process.wait(DEADLINE_S)
        finally:
            collector.shutdown()
            thread.join()
    sent = b"".join(collector.bodies)  # type: ignore[attr-defined]
    assert bytes.fromhex("0af7651916cd43dd8448eb211c80319c") in sent, "the client's trace goes on"
    assert bytes.fromhex("b7ad6b7169203331") in sent
    for name in (b"/v1/completions", b"context context-0", b"generation generation-0"):
        assert name in sent
