"""The routes of the proxy, over real sockets: pages of other rooms, wrong methods, errors that pages raise."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import yarl
from aiohttp import web

from trtdisagg.errors import BodyTooLargeError
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.proxy.app import App
from trtdisagg.proxy.completions import Completions
from trtdisagg.proxy.http.http_server import serving
from trtdisagg.proxy.http.pages import Pages
from trtdisagg.proxy.http.pool import Pool
from trtdisagg.proxy.means import Means
from trtdisagg.registry.members import Roster

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def app(pages: Pages, roster: Roster | None = None, **fields: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """An app, of itself without servers, and a client of it."""
    means = Means.make(ProxySpec(cluster="test", **fields), roster or Roster(), Pool())
    with socket.create_server(("127.0.0.1", 0)) as sock:
        base = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with (
            serving(App(means, Completions(means), pages).handle, [sock], 1000),
            aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(total=60)) as http,
        ):
            yield http


async def _echo(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=request.query.get("key", "").encode() + await request.read())


async def _fail(_: web.BaseRequest) -> web.StreamResponse:
    raise KeyError("the secret")


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
    [
        ("DELETE", "/health", "GET, HEAD, OPTIONS"),
        ("GET", "/v1/completions", "POST, OPTIONS"),
        ("DELETE", "/page", "GET, PUT, HEAD, OPTIONS"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allow: str) -> None:
    async with app({("PUT", "/page"): _echo, ("GET", "/page"): _echo}) as http, http.request(method, path) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, allow)
        assert (await answer.json())["error"]["code"] == "method_not_allowed"


async def test_an_unknown_route_is_a_404() -> None:
    async with app({}) as http, http.get("/nowhere?x=1") as answer:
        assert answer.status == 404
        assert "/nowhere" in (await answer.json())["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/livez"), ("GET", "/health"), ("HEAD", "/ping"), ("OPTIONS", "/ping"), ("GET", "/nowhere"),
     ("GET", "/v1/completions"), ("POST", "/v1/completions"), ("PUT", "/page"), ("GET", "/bug")],
)  # fmt: skip
async def test_every_answer_has_the_clients_id_or_one_of_ours(method: str, path: str) -> None:
    async with app({("PUT", "/page"): _refuse, ("GET", "/bug"): _fail}) as http:
        async with http.request(method, path, headers={"X-Request-Id": "mine"}) as answer:
            assert answer.headers["X-Request-Id"] == "mine"
        given = []
        for wish in ("not mine", "x" * 129, "", None):
            headers = {} if wish is None else {"X-Request-Id": wish}
            async with http.request(method, path, headers=headers) as answer:
                given.append(answer.headers["X-Request-Id"])
    assert len(set(given)) == 4
    assert {len(id_) for id_ in given} == {24}


async def test_a_bug_is_answered_and_logged_but_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async with app({("GET", "/bug"): _fail}) as http, http.get("/bug") as answer:
        assert answer.status == 500
        assert "the secret" not in await answer.text()
        assert f"{answer.headers['X-Request-Id']}: a bug in the proxy" in caplog.text


async def test_models_are_listed_and_found_by_name() -> None:
    roster = Roster()
    members = [Member(name=f"both-{i}", role="both", model=m, url=f"h:{i}") for i, m in enumerate(("m", "org/m 1"))]
    roster.replace("agent", members)
    async with app({}, roster) as http:
        async with http.get("/v1/models") as answer:
            listed = (await answer.json())["data"]
        assert [card["id"] for card in listed] == ["m", "org/m 1"]
        for card, path in zip(listed, ("m?x=1", "org%2Fm%201"), strict=True):
            async with http.get(yarl.URL(f"/v1/models/{path}", encoded=True)) as answer:
                assert (answer.status, await answer.json()) == (200, card)
        async with http.get("/v1/models/gpt-5") as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 415), ("br", 415), ("identity", 200), ("Identity", 200)])
async def test_bodies_are_taken_as_they_are(encoding: str, status: int) -> None:
    told = {"Content-Encoding": encoding}
    async with app({("POST", "/set"): _echo}) as http, http.post("/set", data=b"\x1f\x8b", headers=told) as answer:
        assert answer.status == status


async def test_a_completion_refused_at_the_door_is_counted_as_well() -> None:
    async with app({}) as http:
        async with http.post("/v1/completions", data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}) as answer:
            assert answer.status == 415
        async with http.get("/metrics") as answer:
            page = await answer.text()
    assert 'trtdisagg_proxy_requests_total{model="",route="/v1/completions",status="415"} 1.0' in page
    assert 'trtdisagg_proxy_request_errors_total{kind="unsupported_encoding",model=""} 1.0' in page


async def _drip() -> AsyncIterator[bytes]:
    while True:
        yield b" "
        await asyncio.sleep(0.02)


async def test_a_body_that_comes_byte_by_byte_is_not_waited_for() -> None:
    async with app({}, first_token_timeout_s=0.2) as http, http.post("/v1/completions", data=_drip()) as answer:
        assert answer.status == 408
        assert (await answer.json())["error"]["code"] == "body_timeout"


async def test_a_body_that_does_not_say_how_long_it_is_may_not_be_longer_than_others() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    async with app({}, max_body_bytes=1000) as http, http.post("/v1/completions", data=pieces()) as answer:
        assert answer.status == 413


async def test_the_document_has_every_page_that_is_for_programs() -> None:
    async with app({("GET", "/cluster_info"): _echo, ("GET", "/made-up"): _echo}) as http:
        async with http.get("/openapi.json") as answer:
            document = await answer.json()
        expected = document["paths"].keys() - {"/v1/models/{model}"}
        assert expected >= {"/v1/completions", "/v1/chat/completions", "/v1/models", "/cluster_info"}
        assert "/made-up" not in expected
        for path in expected:
            async with http.options(path) as answer:
                assert {m.lower() for m in answer.headers["Allow"].split(", ")} >= document["paths"][path].keys()


@pytest.mark.parametrize("path", ["/livez", "/ping", "/metrics", "/prometheus/metrics", "/version", "/v1/models"])
async def test_pages_of_the_proxy(path: str) -> None:
    async with app({}) as http:
        async with http.get(path) as answer:
            assert answer.status == 200
            length = len(await answer.read())
        async with http.head(path) as answer:
            assert (answer.status, await answer.read()) == (200, b"")
            assert path.endswith("metrics") or answer.content_length == length


@pytest.mark.parametrize(
    ("path", "status", "allow"),
    [
        ("/v1/completions", 204, "POST, OPTIONS"),
        ("/health", 204, "GET, HEAD, OPTIONS"),
        ("/v1/models/m", 204, "GET, HEAD, OPTIONS"),
        ("/nowhere", 404, None),
    ],
)
async def test_options_are_the_methods_of_a_path(path: str, status: int, allow: str | None) -> None:
    async with app({}) as http, http.options(path) as answer:
        assert (answer.status, answer.headers.get("Allow"), await answer.read() == b"") == (
            status,
            allow,
            status == 204,
        )
