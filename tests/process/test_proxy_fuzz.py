"""Whatever clients send: no 500, no hang, and nothing is left of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from helpers.serving import MODEL, Serving, serving
from helpers.waiting import until
from hypothesis import strategies as st

from trtdisagg.protocol.decoding import TIMEOUT_HEADER
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest
from trtdisagg.protocol.responses import ResponsesRequest

ANSWER_S = 60.0
MAX_GROWTH_BYTES = 32 * 1024 * 1024
ROUTES: dict[str, Any] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/responses": ResponsesRequest,
}
BASES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": MODEL, "prompt": "hello", "max_tokens": 2},
    "/v1/chat/completions": {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2},
    "/v1/responses": {"model": MODEL, "input": "hello", "max_output_tokens": 2},
}

NUMBERS = st.one_of(st.integers(), st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, 5e-324]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(allow_nan=False), st.text(max_size=20))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    engines: dict[str, list[str]] = {"context-0": [], "generation-0": []}
    with serving(tmp_path_factory.mktemp("fuzz"), engines, max_body_bytes=100_000) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def connection(cluster: Serving) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection(cluster.proxy.url, timeout=ANSWER_S)) as connection:
        yield connection


@pytest.fixture(autouse=True)
def nothing_is_left(cluster: Serving) -> Iterator[None]:
    """No request, no descriptor, no memory to speak of."""
    pid = cluster.proxy.process.pid
    settle(cluster)
    fds, rss = num_fds(pid), rss_bytes(pid)
    yield
    settle(cluster)
    # Connections to servers are kept open, and those of clients that have left may not be closed yet.
    until(lambda: num_fds(pid) <= fds + 8, "descriptors are closed", ANSWER_S, lambda: num_fds(pid) - fds)
    assert rss_bytes(pid) - rss < MAX_GROWTH_BYTES
    for engine in cluster.engines.values():
        state = engine.state()
        assert (state["running"], state["held_tickets"]) == (0, [])
    assert "a bug in the proxy" not in cluster.proxy.log.read_text()


def settle(cluster: Serving) -> None:
    """Wait until nothing is in flight any more; the page is asked over a connection of its own."""
    none = "\ntrtdisagg_proxy_requests_in_flight 0"
    until(lambda: none in get(cluster, "/metrics"), "nothing is in flight", ANSWER_S, lambda: get(cluster, "/metrics"))


def get(cluster: Serving, path: str) -> str:
    with contextlib.closing(http.client.HTTPConnection(cluster.proxy.url, timeout=ANSWER_S)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def num_fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fuzz(num_rounds: int, num_examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=num_examples * num_rounds, database=None, suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip


# --- bodies ---------------------------------------------------------------------------------------------------------


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A route, and a body of which some fields are anything."""
    path = draw(st.sampled_from(sorted(ROUTES)))
    names = st.one_of(st.sampled_from([*ROUTES[path].__struct_fields__, "MODEL", "x"]), st.text(max_size=8))
    fields = {**BASES[path], **draw(st.dictionaries(names, VALUES, max_size=4))}
    for name in draw(st.sets(st.sampled_from(sorted(BASES[path])), max_size=1)):
        fields.pop(name)
    return path, json.dumps(fields).encode(errors="surrogatepass")


@st.composite
def broken_bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """The same, but cut, with bytes changed, or nothing of the kind."""
    path, body = draw(bodies())
    match draw(st.integers(0, 3)):
        case 0:
            return path, draw(st.binary(max_size=200))
        case 1:
            return path, body[: draw(st.integers(0, len(body)))]
        case 2:
            at = draw(st.integers(0, len(body)))
            return path, body[:at] + draw(st.binary(min_size=1, max_size=4)) + body[at:]
        case _:
            return path, b"[" * draw(st.integers(1, 50_000))


def post(connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("kind", ["bodies", "broken_bodies"])
def test_bodies(connection: http.client.HTTPConnection, kind: str, num_rounds: int) -> None:
    made = bodies() if kind == "bodies" else broken_bodies()

    @fuzz(num_rounds, 80)
    @hypothesis.given(made)
    def check(case: tuple[str, bytes]) -> None:
        path, body = case
        status, answer = post(connection, path, body, {})
        assert status in (200, 400, 404, 413, 429) or (status == 504 and b'"timeout"' in body), (answer, body[:500])
        if status == 200 and answer.startswith((b"data: ", b"event: ")):
            last = answer.rstrip().splitlines()[-1]
            ended = (
                last == b"data: [DONE]" or b'"type":"response.completed"' in last or b'"response.incomplete"' in last
            )
            assert ended, answer[-500:]
        else:
            error = json.loads(answer).get("error")
            assert (error is None) == (status == 200)
            assert error is None or set(error) == {"message", "type", "param", "code"}
            assert len(answer) < 20_000 or status == 200

    check()


HEADER_VALUES = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "X-Request-Id",
            "X-Request-Timeout",
            "X-Session-ID",
            "Authorization",
            "Expect",
            "Connection",
            "Origin",
            "Accept",
            "Content-Type",
            "Content-Encoding",
            "traceparent",
            "Upgrade",
            "Host",
            "Cookie",
            "TE",
            "Range",
        ]
    ),
    st.one_of(
        HEADER_VALUES,
        st.sampled_from(
            [
                "",
                "1",
                "-1",
                "nan",
                "inf",
                "1e999",
                "close",
                "keep-alive, x",
                "upgrade",
                "h2c",
                "websocket",
                "gzip",
                "deflate",
                "br",
                "100-continue",
            ]
        ),
    ),
    max_size=5,
)


def test_headers(cluster: Serving, num_rounds: int) -> None:
    """Each on a connection of its own: what is asked of it may be to close it."""

    @fuzz(num_rounds, 60)
    @hypothesis.given(HEADERS, st.sampled_from(sorted(ROUTES)), st.booleans())
    def check(headers: dict[str, str], path: str, stream: bool) -> None:
        body = json.dumps({**BASES[path], "stream": stream}).encode()
        with contextlib.closing(http.client.HTTPConnection(cluster.proxy.url, timeout=ANSWER_S)) as connection:
            told = {name: value.encode("latin-1") for name, value in headers.items()}
            status, answer = post(connection, path, body, told)  # type: ignore[arg-type]
        assert status in (200, 400, 415) or (status == 504 and TIMEOUT_HEADER in headers), (answer, headers)

    check()


# --- bytes ----------------------------------------------------------------------------------------------------------

LINES = st.sampled_from(
    [b"GET /health HTTP/1.1", b"POST /v1/completions HTTP/1.1", b"GET /v1/models HTTP/1.0", b"OPTIONS * HTTP/1.1",
     b"HEAD /metrics HTTP/1.1", b"GET http://other/health HTTP/1.1", b"CONNECT x:1 HTTP/1.1", b"PRI * HTTP/2.0",
     b"GET /health", b"get /health HTTP/1.1", b"GET /%00%ff?%zz HTTP/1.1", b"TRACE / HTTP/1.1", b"GET / HTTP/9.9"]
)  # fmt: skip
FIELDS = st.sampled_from(
    [b"Host: x", b"Host: x\r\nHost: y", b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 6",
     b"Content-Length: +5", b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked",
     b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding : chunked",
     b"Connection: upgrade\r\nUpgrade: websocket", b"Connection: close", b"Expect: 100-continue", b"X: \xff\x00",
     b" folded: x", b"Content-Encoding: gzip", b":", b"X-Request-Id: a\tb", b"Sec-WebSocket-Key: x"]
)  # fmt: skip
TAILS = st.one_of(
    st.sampled_from(
        [
            b"",
            b"hello",
            b"5\r\nhello\r\n0\r\n\r\n",
            b"0\r\n\r\n",
            b"ffffffffffffffffff\r\n",
            b"5\r\nhelloX",
            b"-1\r\n",
            b"5;a=b\r\nhello\r\n0\r\nT: x\r\n\r\n",
        ]
    ),
    st.binary(max_size=60),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Something like a request, or several, one behind the other."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]))
    data = b""
    for _ in range(draw(st.integers(1, 3))):
        data += end.join([draw(LINES), *draw(st.lists(FIELDS, max_size=4)), b"", b""]) + draw(TAILS)
    return data


def test_bytes(cluster: Serving, num_rounds: int) -> None:
    host, _, port = cluster.proxy.url.rpartition(":")

    @fuzz(num_rounds, 150)
    @hypothesis.given(requests())
    def check(data: bytes) -> None:
        with socket.create_connection((host, int(port)), timeout=ANSWER_S) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionResetError):  # it did not want to read on
                while piece := sock.recv(65536):
                    answer += piece
        statuses = {int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.")}
        assert not {status for status in statuses if status >= 500}, (data, answer)

    check()
    assert json.loads(get(cluster, "/livez")) == {"status": "ok"}


# --- by the document ------------------------------------------------------------------------------------------------


def test_what_the_document_says(cluster: Serving, num_rounds: int) -> None:
    """What is right by the document may still be wrong for a model, and is a 400 then."""
    schemathesis = pytest.importorskip("schemathesis", reason="needs the package schemathesis")
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    document = json.loads(get(cluster, "/openapi.json"))
    for kind in ROUTES.values():
        document["components"]["schemas"][kind.__name__]["properties"]["model"] = {"enum": [MODEL, MODEL, "m"]}
    schema = schemathesis.openapi.from_dict(document)
    for found in schema.get_all_operations():
        operation = found.ok()

        @fuzz(num_rounds, 6)
        @hypothesis.given(operation.as_strategy())
        def check(case: Any) -> None:
            # Deadlines are long enough for any machine.
            if isinstance(case.body, dict) and isinstance(case.body.get("timeout"), int | float):
                case.body["timeout"] += ANSWER_S
            if TIMEOUT_HEADER in (case.headers or {}):
                case.headers[TIMEOUT_HEADER] = str(ANSWER_S)
            answer = case.call(base_url=f"http://{cluster.proxy.url}", timeout=ANSWER_S)
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])

        check()
