"""Connections that bring no request are not kept for ever."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web

from trtdisagg.proxy.http_server import serving

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
            assert (await asyncio.wait_for(reader.read(), 10)).endswith(answer)
            writer.close()
            await writer.wait_closed()
