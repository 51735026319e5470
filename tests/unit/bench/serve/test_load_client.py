"""The client against an endpoint that misbehaves: each failure is told by its kind, and none ends the load."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from fakes.openai_endpoint import Answer, Endpoint, chunk, event, never, raw, refused, streamed
from fakes.tiny_http import Connection
from helpers.certificates import make_certificate, needs_openssl
from helpers.ports import free_port

from trtdisagg.bench.program import MeasureError
from trtdisagg.bench.serve.client import Client
from trtdisagg.bench.serve.load import Load
from trtdisagg.bench.serve.outcome import Outcome
from trtdisagg.bench.serve.run import find_model
from trtdisagg.errors import ConfigError

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = event(chunk({}, "a"))
BODY = b'{"prompt": "question 0", "stream": true, "max_tokens": 3}'


def framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


async def ask(url: str, timeout_s: float = 10, **said: Any) -> Outcome:
    outcome = Outcome(index=0, max_tokens=3)
    client = Client(url, None)
    try:
        await client.ask("/v1/completions", BODY, outcome, is_streamed=True, timeout_s=timeout_s, **said)
    finally:
        client.close()
    return outcome


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refused(429, "the queue is full"), "HTTP 429", "the queue is full"),
        (refused(500), "HTTP 500", "no"),
        (raw(b""), "connection lost", "closed before the end"),
        (raw(HEAD, framed(TOKEN)), "cut off", "closed before the end"),
        (raw(HEAD, framed(TOKEN), b"0\r\n\r\n"), "cut off", r"without \[DONE\]"),
        (raw(HEAD, framed(event({"error": {"message": "lost"}}))), "error event", "lost"),
        (raw(HEAD, framed(b"data: {garbage}\n\n")), "not an answer", "garbage"),
        (raw(b"220 mail.example.com ESMTP\r\n\r\n"), "not an answer", "not an HTTP/1 status line"),
        (raw(HEAD, b"zz\r\n"), "not an answer", "not a chunk size"),
    ],
)
async def test_kinds_of_failure(answer: Answer, kind: str, words: str) -> None:
    async with Endpoint(answer) as endpoint:
        outcome = await ask(endpoint.url)
    assert outcome.error == kind
    assert words.replace("\\", "") in outcome.message


async def test_an_answer_that_never_comes() -> None:
    async with Endpoint(never) as endpoint:
        outcome = await ask(endpoint.url, timeout_s=0.05)
        assert (outcome.error, outcome.message) == ("timeout", "no whole answer within 0.05 s")
        assert outcome.ended_at >= outcome.sent_at + 0.05  # so long the load has taken
        async with asyncio.timeout(60):
            while endpoint.num_connections:  # the client has left
                await asyncio.sleep(0.005)


async def test_nobody_listens() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert (await ask(url)).error == "connection refused"
    with pytest.raises(MeasureError, match="does not answer: Connect"):
        await find_model(Load(url=url))


async def test_a_connection_closed_while_idle_is_no_failure() -> None:
    async def once(body: dict[str, Any], connection: Connection) -> None:
        await streamed(1)(body, connection)
        connection.transport.close()

    async with Endpoint(once) as endpoint:
        client = Client(endpoint.url, None)
        for _ in range(4):
            outcome = Outcome(index=0, max_tokens=3)
            await client.ask("/v1/completions", BODY, outcome, is_streamed=True, timeout_s=10)
            assert outcome.error is None
        client.close()
        assert len(endpoint.asked) == 4


async def test_a_server_that_wants_no_second_request_is_not_asked_one() -> None:
    answer = b'{"choices": [{"text": "a"}]}'
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(answer)
    async with Endpoint(raw(head, answer, then_closes=False)) as endpoint:
        client = Client(endpoint.url, None)
        for _ in range(3):
            outcome = Outcome(index=0, max_tokens=1)
            assert await client.ask("/v1/completions", BODY, outcome, is_streamed=False, timeout_s=10) == "a"
        async with asyncio.timeout(60):
            while endpoint.num_connections:
                await asyncio.sleep(0.005)


async def test_bytes_that_come_one_by_one_are_the_same_answer() -> None:
    parts = (framed(TOKEN), framed(event("[DONE]")), b"0\r\n\r\n")

    async def slow(_body: dict[str, Any], connection: Connection) -> None:
        for byte in HEAD + b"".join(parts):
            connection.transport.write(bytes([byte]))
            await asyncio.sleep(0)

    async with Endpoint(slow) as endpoint:
        outcome = await ask(endpoint.url)
    assert (outcome.error, outcome.num_tokens) == (None, 1)


async def test_a_client_that_leaves_closes_its_connection() -> None:
    async with Endpoint(streamed(50, gate=asyncio.Event())) as endpoint:
        outcome = await ask(endpoint.url, leave_after=1)
        assert (outcome.is_cancelled, outcome.num_seen, outcome.error) == (True, 1, None)
        async with asyncio.timeout(60):
            while endpoint.num_connections:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_forms_of_an_url(suffix: str) -> None:
    async with Endpoint(streamed(1)) as endpoint:
        assert (await ask(endpoint.url + suffix)).error is None
        assert (await ask(endpoint.url.removeprefix("http://") + suffix)).error is None


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port", "http://x?a=b"])
async def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError, match="--url"):
        await ask(url)


@pytest.mark.parametrize("url", ["http://me:swordfish@x", "me:swordfish@x:port"])
async def test_a_password_in_an_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="--api-key-file") as refused:
        await ask(url)
    assert "swordfish" not in refused.value.message


@needs_openssl
async def test_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    heads = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(HEAD + framed(TOKEN) + framed(event("[DONE]")) + b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        assert (await ask(url)).error == "TLS"  # nobody vouches for it
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        outcome = await ask(url)
    assert (outcome.error, outcome.num_tokens) == (None, 1)
    assert heads[-1].startswith(b"POST /v1/completions HTTP/1.1\r\nHost: localhost:")
