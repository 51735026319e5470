"""Connections that bring no request are not kept for ever."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import msgspec
import pytest
from aiohttp import web

from trtdisagg.proxy.http import http_server
from trtdisagg.proxy.http.http_server import serving

pytestmark = pytest.mark.anyio


async def _answer(_: web.BaseRequest) -> web.Response:
    return web.Response(text="here")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(b"", b""), (b"GET / HTTP/1.1\r\nHost:", b""), (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"here")],
)
async def test_a_connection_is_closed_when_no_head_comes_in_time(sent: bytes, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with serving(_answer, [sock], 1000, keep_alive_s=0.2):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(sent)
            assert (await asyncio.wait_for(reader.read(), 60)).endswith(answer)
            writer.close()
            await writer.wait_closed()


async def test_a_head_that_comes_byte_by_byte_has_no_more_time_than_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with serving(_answer, [sock], 1000, keep_alive_s=0.3) as door:
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            ended = asyncio.ensure_future(reader.read())
            writer.write(b"GET / HTTP/1.1\r\n")
            async with asyncio.timeout(60):
                while not ended.done():
                    writer.write(b"X-Slow: x\r\n")
                    await asyncio.wait([ended], timeout=0.05)
            with contextlib.suppress(ConnectionError):
                assert await ended == b""
            assert not door.connections
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_one_connection_too_many_is_told_to_come_again_and_those_that_are_open_go_on() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with serving(_answer, [sock], 1000, max_connections=2) as door:
            first = [await asyncio.open_connection(*sock.getsockname()) for _ in range(2)]
            for reader, writer in first:
                writer.write(request)
                assert b" 200 " in await asyncio.wait_for(reader.readline(), 60)
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(request)
            answer = await asyncio.wait_for(reader.read(), 60)
            assert b" 503 " in answer
            assert b"Retry-After: 1" in answer
            assert len(door.connections) == 2
            first[0][1].close()
            async with asyncio.timeout(60):
                while len(door.connections) == 2:
                    await asyncio.sleep(0.01)
            again, again_writer = await asyncio.open_connection(*sock.getsockname())
            again_writer.write(request)
            assert b" 200 " in await asyncio.wait_for(again.readline(), 60)
    for _, each in (*first, (reader, writer), (again, again_writer)):
        each.close()
        with contextlib.suppress(ConnectionError):
            await each.wait_closed()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"y" * 20_000 + b": x\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
    ],
)
async def test_what_is_not_http_is_refused_in_openais_form(
    head: bytes, expected: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with serving(_answer, [sock], 1000):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(head)
            answer = await asyncio.wait_for(reader.read(), 60)
            writer.close()
            with contextlib.suppress(ConnectionError):  # the server may not have read all of the head
                await writer.wait_closed()
    status, _, body = answer.partition(b"\r\n\r\n")
    assert status.split()[1] == expected
    assert b"X-Request-Id: " in status
    assert msgspec.json.decode(body)["error"]["type"] == "invalid_request_error"
    assert "Traceback" not in caplog.text


async def test_a_closed_door_waits_for_the_quiet_not_for_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is never through, such as a stream of events, keeps nobody from ending."""
    monkeypatch.setattr(http_server, "QUIET_S", 0.2)
    begun, never = asyncio.Event(), asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/for-ever":
            begun.set()
            await never.wait()
        return web.Response(text="here")

    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
        async with serving(answer, [sock], 1000) as door:
            (quiet, quiet_writer), (busy, busy_writer) = [await asyncio.open_connection(*address) for _ in range(2)]
            busy_writer.write(b"GET /for-ever HTTP/1.1\r\nHost: x\r\n\r\n")
            await begun.wait()
            await door.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)
            quiet_writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answered = await asyncio.wait_for(quiet.read(), 60)
            assert b"Connection: close" in answered
            assert answered.endswith(b"here")
            await asyncio.wait_for(door.until_quiet(), 60)
        assert await asyncio.wait_for(busy.read(), 60) == b""
    for writer in (quiet_writer, busy_writer):
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
