"""`trtdisagg bench proxy` as it is called, on our own proxy, and the load that it makes."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from trtdisagg.bench.program import MeasureError
from trtdisagg.bench.proxy.phases import streams, whole
from trtdisagg.bench.proxy.scripts import make_script
from trtdisagg.cli.bench.proxy_view import _ROWS
from trtdisagg.cli.main import cli
from trtdisagg.protocol.bench_proxy import Figures, ProxyReport

load = pytest.importorskip("trtdisagg._load", reason="the C++ extension was not built")


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["bench", "proxy", *map(str, args)])


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A port where every request is answered like this, and the connection closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def run() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join()


def test_the_whole_of_it(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = call("--quick", "--rounds", "1", "--json", file)
    assert done.exit_code == 0, done.output
    assert "many, trtdisagg" in done.stderr
    for words in _ROWS.values():
        assert words in done.stdout
    assert "The load client and a server alone:" in done.stdout
    report = msgspec.json.decode(file.read_bytes(), type=ProxyReport)
    assert report.is_quick
    assert not report.peers
    assert report.direct.requests_s > report.requests_s > 0
    assert 0 < report.cpu_us_per_request < report.cpu_us_per_request_32k
    assert report.cpu_us_per_chunk > 0
    assert report.many_streams_rss_mb > 10
    assert {"cpu_us_per_request", "cpu_us_per_request_32k", "cpu_us_per_chunk", "added_p50_us", "added_p99_us"} <= set(
        json.loads(file.read_bytes())
    )


def test_every_figure_has_a_row() -> None:
    assert set(_ROWS) == set(Figures.__struct_fields__)


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        ("no-such-program --port {port}", "no-such-program cannot be started: No such file"),
        (f"{sys.executable} -c 'raise SystemExit(3)' {{port}}", "it ended with exit code 3"),
    ],
)
def test_a_peer_that_does_not_start(peer: str, words: str) -> None:
    done = call("--quick", "--peer", peer)
    assert done.exit_code == 1
    assert words in done.stderr


def test_a_server_streams_as_it_is_asked() -> None:
    server = load.Worker(make_script("generation", ours=True))
    outcome = streams(3, 5, 2)(server.port)
    assert (outcome.num_ok, len(outcome.delays_us), server.num_requests) == (3, 15, 3)
    assert outcome.seconds >= 5 * 0.002
    assert min(outcome.delays_us) > 0


def test_a_context_server_answers_with_the_tokens_of_a_prompt() -> None:
    server = load.Worker(make_script("context", ours=True))
    outcome = whole(6, at_once=2, content_bytes=40_000)(server.port)
    assert (outcome.num_ok, len(outcome.latencies_us)) == (6, 6)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 503 Nope\r\nContent-Length: 0\r\n\r\n", "1 of 1 requests failed: answered HTTP/1.1 503 Nope"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "closed before the end of the answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "without its end mark"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "wrong chunks"),
    ],
)
def test_what_goes_wrong_is_no_figure(answer: bytes, words: str) -> None:
    with answering(answer) as port, pytest.raises(MeasureError, match=words):
        whole(1, at_once=1)(port)
