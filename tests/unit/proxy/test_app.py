"""The routes of the proxy, over real sockets: pages of other rooms, wrong methods, errors that pages raise."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from trtdisagg.errors import BodyTooLargeError
from trtdisagg.protocol.spec import ProxySpec
from trtdisagg.proxy.app import App
from trtdisagg.proxy.completions import Completions
from trtdisagg.proxy.http_server import serving
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.pages import Pages
from trtdisagg.proxy.pool import Pool
from trtdisagg.registry.members import Roster

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def app(pages: Pages, **fields: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """An app without servers, and a client of it."""
    means = Means.make(ProxySpec(cluster="test", **fields), Roster(), Pool())
    with socket.create_server(("127.0.0.1", 0)) as sock:
        base = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with (
            serving(App(means, Completions(means), pages).handle, [sock], 1000),
            aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(total=10)) as http,
        ):
            yield http


async def _echo(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=request.query.get("key", "").encode() + await request.read())


async def _refuse(_: web.BaseRequest) -> web.StreamResponse:
    raise BodyTooLargeError("no more room")


async def test_pages_of_other_rooms_are_answered_by_them() -> None:
    async with app({("POST", "/set"): _echo, ("GET", "/get"): _echo, ("PUT", "/get"): _refuse}) as http:
        async with http.post("/set?key=k", data=b"v") as answer:
            assert (answer.status, await answer.read()) == (200, b"kv")
        async with http.head("/get") as answer:
            assert answer.status == 200
        async with http.put("/get") as answer:
            assert answer.status == 413
            assert (await answer.json())["error"]["message"] == "no more room"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("DELETE", "/health", "GET, HEAD"), ("GET", "/v1/completions", "POST"), ("DELETE", "/page", "GET, PUT, HEAD")],
)
async def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allow: str) -> None:
    async with app({("PUT", "/page"): _echo, ("GET", "/page"): _echo}) as http, http.request(method, path) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, allow)
        assert (await answer.json())["error"]["code"] == "method_not_allowed"


async def test_an_unknown_route_is_a_404() -> None:
    async with app({}) as http, http.get("/nowhere?x=1") as answer:
        assert answer.status == 404
        assert "/nowhere" in (await answer.json())["error"]["message"]
