"""One connection of a client: what goes over it, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from trtdisagg.proxy.http import client_connection
from trtdisagg.proxy.http.http_server import Handler, serving

pytestmark = pytest.mark.anyio

GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.asynccontextmanager
async def connected(handler: Handler) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with serving(handler, [sock], 1 << 20):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            try:
                yield reader, writer
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()


async def path(request: web.BaseRequest) -> web.Response:
    return web.Response(text=request.path)


async def read_answer(reader: asyncio.StreamReader) -> tuple[list[bytes], bytes]:
    """The lines of a head, and the body."""
    async with asyncio.timeout(60):
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
        length = next((int(line[16:]) for line in lines if line.startswith(b"Content-Length: ")), 0)
        return lines, await reader.readexactly(length)


async def rest(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), 60)


async def test_requests_are_answered_in_their_order_however_many_come_at_once() -> None:
    running = 0

    async def handler(request: web.BaseRequest) -> web.Response:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        running -= 1
        return await path(request)

    paths = [b"/%d" % i for i in range(300)]
    async with connected(handler) as (reader, writer):
        writer.write(b"".join(GET % p for p in paths))
        for expected in paths:
            assert (await read_answer(reader))[1] == expected


async def test_a_request_may_come_in_any_pieces() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(body=await request.read())

    message = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789"
    async with connected(handler) as (reader, writer):
        for at in (1, 20, len(message) - 10, len(message) - 3, len(message)):
            writer.write(message[:at])
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(message[at:])
            assert (await read_answer(reader))[1] == b"0123456789"


async def test_the_head_of_an_answer() -> None:
    async with connected(path) as (reader, writer):
        writer.write(GET % b"/here")
        lines, body = await read_answer(reader)
        assert lines[0] == b"HTTP/1.1 200 OK"
        assert {line.partition(b":")[0] for line in lines[1:]} == {b"Content-Type", b"Content-Length", b"Date"}
        assert body == b"/here"


async def test_the_older_http_is_closed_unless_it_asks() -> None:
    async with connected(path) as (reader, writer):
        writer.write(b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        lines, _ = await read_answer(reader)
        assert lines[0] == b"HTTP/1.0 200 OK"
        assert b"Connection: keep-alive" in lines
        writer.write(b"GET /2 HTTP/1.0\r\n\r\n")
        assert (await rest(reader)).endswith(b"\r\n\r\n/2")


async def test_a_head_has_no_body() -> None:
    async with connected(path) as (reader, writer):
        writer.write(b"HEAD /here HTTP/1.1\r\nHost: x\r\n\r\n" + GET % b"/there")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        assert b"Content-Length: 5\r\n" in head
        assert (await read_answer(reader))[1] == b"/there"


async def test_nothing_said_has_no_length() -> None:
    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(status=204)

    async with connected(handler) as (reader, writer):
        writer.write((GET % b"/") * 2)
        for _ in range(2):
            lines, _ = await read_answer(reader)
            assert not any(line.startswith(b"Content") for line in lines)


async def test_who_leaves_has_nothing_running() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(_: web.BaseRequest) -> web.Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with connected(handler) as (_, writer):
        writer.write((GET % b"/") * 2)
        await asyncio.wait_for(begun.wait(), 60)
        writer.close()
        await asyncio.wait_for(cancelled.wait(), 60)


async def test_a_body_that_nobody_reads_is_taken_all_the_same() -> None:
    """A client that still sends does not read; without its body taken the answer would be lost."""

    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(status=413, text="too much")

    body = bytes(3_000_000)
    async with connected(handler) as (reader, writer):
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            lines, answer = await read_answer(reader)
            assert lines[0] == b"HTTP/1.1 413 Request Entity Too Large"
            assert answer == b"too much"


async def test_a_body_that_nobody_reads_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_connection, "LINGER_S", 0.1)
    async with connected(path) as (reader, writer):
        writer.write(b"POST /here HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234")
        assert (await rest(reader)).endswith(b"/here")


async def test_reading_stops_while_a_body_is_not_taken() -> None:
    go_on = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.Response:
        await go_on.wait()
        num_bytes = 0
        while piece := await request.content.readany():
            num_bytes += len(piece)
        return web.Response(text=str(num_bytes))

    body = bytes(32_000_000)
    async with connected(handler) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.2)  # more than sockets hold has to wait
        go_on.set()
        assert (await read_answer(reader))[1] == b"32000000"


async def test_another_protocol_is_not_spoken() -> None:
    async with connected(path) as (reader, writer):
        writer.write(b"GET /here HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00")
        assert (await rest(reader)).endswith(b"/here")


async def test_what_comes_behind_a_request_and_is_no_http_is_answered_after_it() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.Response:
        begun.set()
        await go_on.wait()
        return await path(request)

    async with connected(handler) as (reader, writer):
        writer.write(GET % b"/here")
        await asyncio.wait_for(begun.wait(), 60)
        writer.write(b"nonsense\r\n\r\n")
        await writer.drain()
        go_on.set()
        assert (await read_answer(reader))[1] == b"/here"
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"Connection: close\r\n" in answer


@pytest.mark.parametrize("begun", [False, True])
async def test_a_bug_is_answered_where_nothing_was_sent(begun: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if begun:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"x")
        raise KeyError("oh")

    async with connected(handler) as (reader, writer):
        writer.write(GET % b"/")
        answer = await rest(reader)
    assert answer.startswith(b"HTTP/1.1 200" if begun else b"HTTP/1.1 500")
    assert (b"Internal error" in answer) is not begun
    assert "KeyError" in caplog.text


async def test_a_header_is_never_two(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(headers={"X": "1\nSet-Cookie: y"})

    async with connected(handler) as (reader, writer):
        writer.write(GET % b"/")
        answer = await rest(reader)
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"Cookie" not in answer
    assert "end of line" in caplog.text


async def test_a_stream_is_sent_as_it_comes() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for i in range(3):
            await response.write(b"%d" % i)
        return response

    async with connected(handler) as (reader, writer):
        for _ in range(2):
            writer.write(GET % b"/")
            answer = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)
            assert b"Transfer-Encoding: chunked\r\n" in answer
            assert answer.endswith(b"1\r\n0\r\n1\r\n1\r\n1\r\n2\r\n0\r\n\r\n")


async def test_a_stream_behind_a_closed_door_is_the_last_of_its_connection() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"here")
        return response

    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with serving(handler, [sock], 1000) as door:
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(GET % b"/")
            await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)
            await door.close()
            writer.write(GET % b"/")
            answer = await rest(reader)
            assert b"Connection: close\r\n" in answer
            assert answer.endswith(b"here\r\n0\r\n\r\n")
            writer.close()
            await writer.wait_closed()
