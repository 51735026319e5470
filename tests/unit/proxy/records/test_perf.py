"""What the proxy tells of requests that were handed over: joined from two servers, once."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from helpers.records import CONTEXT, GENERATION, handed_over, leg, record

from trtdisagg.proxy.http.pool import Pool
from trtdisagg.proxy.records.perf import PerfLog, Told
from trtdisagg.proxy.records.record import Record

pytestmark = pytest.mark.anyio


class Server:
    """Says what the test gives it, once."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.status = 200
        self.url = ""

    async def answer(self, _: web.Request) -> web.Response:
        items, self.items = self.items, []
        return web.json_response(items, status=self.status)


@contextlib.asynccontextmanager
async def servers(num: int = 2) -> AsyncIterator[list[Server]]:
    async with contextlib.AsyncExitStack() as stack:
        made = [Server() for _ in range(num)]
        for server in made:
            app = web.Application()
            app.router.add_get("/perf_metrics", server.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            server.url = f"{host}:{port}"
        yield made


@contextlib.asynccontextmanager
async def perf_log(max_requests: int = 10) -> AsyncIterator[PerfLog]:
    pool = Pool()
    yield PerfLog(pool, max_requests)
    pool.close_idle()


def handed(context: str, generation: str, *, arrived: float = 1.0, first_token: float = 2.0, **ids: int) -> Record:
    """A request that went over these two servers."""
    servers = msgspec.structs.replace(CONTEXT, url=context), msgspec.structs.replace(GENERATION, url=generation)
    legs = [leg("context", servers[0], (1.0, 1.5, 1.5)), leg("generation", servers[1], (1.5, 2.0, 3.0))]
    more: dict[str, Any] = {"disagg_request_id": None, **ids}
    return handed_over(legs=legs, arrived=arrived, first_token=first_token, **more)


def parts(told: list[Told]) -> list[tuple[Any, Any]]:
    return [(msgspec.json.decode(t.ctx_perf_metrics), msgspec.json.decode(t.gen_perf_metrics)) for t in told]


async def test_what_belongs_together_is_told_once() -> None:
    async with servers() as (context, generation), perf_log() as log:
        urls = context.url, generation.url
        log.add(handed(*urls, arrived=5.0, first_token=6.0, disagg_request_id=90, ctx_request_id=1))
        log.add(handed(*urls, disagg_request_id=91, ctx_request_id=2))
        context.items = [{"request_id": i, "ctx_request_id": i, "disagg_request_id": 89 + i} for i in (1, 2)]
        # Another context server's number 1, too.
        generation.items = [{"request_id": 7, "ctx_request_id": 1, "disagg_request_id": n} for n in (80, 90, 91)]
        told = await log.take()
        assert parts(told) == [
            (
                {"request_id": i, "ctx_request_id": i, "disagg_request_id": 89 + i},
                {"request_id": 7, "ctx_request_id": 1, "disagg_request_id": 89 + i},
            )
            for i in (1, 2)
        ]
        one = told[0]
        assert (one.ctx_server, one.gen_server) == (context.url, generation.url)
        assert (one.disagg_server_arrival_time, one.disagg_server_first_token_time) == (5.0, 6.0)
        assert await log.take() == []


async def test_a_request_waits_for_the_other_half() -> None:
    async with servers() as (context, generation), perf_log() as log:
        log.add(handed(context.url, generation.url, ctx_request_id=1))
        context.items = [{"ctx_request_id": 1}]
        assert await log.take() == []
        generation.items = [{"ctx_request_id": 1, "request_id": 5}]
        assert parts(await log.take()) == [({"ctx_request_id": 1}, {"ctx_request_id": 1, "request_id": 5})]


@pytest.mark.parametrize("status", [404, 500])
async def test_servers_that_say_nothing(status: int) -> None:
    async with servers() as (context, generation), perf_log() as log:
        log.add(handed(context.url, "127.0.0.1:1", ctx_request_id=1))
        log.add(handed(context.url, generation.url, ctx_request_id=2))
        context.items = [{"ctx_request_id": 2}]
        generation.status, generation.items = status, [{"ctx_request_id": 2}]
        assert await log.take() == []


async def test_the_oldest_go() -> None:
    async with servers() as (context, generation), perf_log(2) as log:
        for number in range(5):
            log.add(handed(context.url, generation.url, ctx_request_id=number))
        for server in (context, generation):
            server.items = [{"ctx_request_id": number} for number in range(3, 5)]
        assert [c["ctx_request_id"] for c, _ in parts(await log.take())] == [3, 4]


async def test_what_was_not_handed_over_is_not_kept() -> None:
    async with perf_log() as log:
        generation = leg("generation", GENERATION, (1.5, 2.0, 3.0))
        log.add(record())
        log.add(handed_over(legs=[generation]))
        log.add(handed_over(legs=[leg("context", CONTEXT, (1.0, 0.0, 1.5), "failed"), generation]))
        assert not log.num_kept


async def test_nothing_is_kept_where_nobody_asked_for_it() -> None:
    async with perf_log(0) as log:
        assert not log.is_on
        assert await log.take() == []


async def test_what_one_process_of_the_proxy_has_kept_and_heard_another_tells() -> None:
    async with servers() as (context, generation), perf_log() as one, perf_log() as other:
        other.add(handed(context.url, generation.url, arrived=1.0, ctx_request_id=1))
        one.add(handed(context.url, generation.url, arrived=2.0, ctx_request_id=2))
        context.items = [{"ctx_request_id": 1}, {"ctx_request_id": 2}]
        assert await other.take() == [], "generation has not said its part"
        one.take_over(msgspec.msgpack.encode(other.give()))
        assert (one.num_kept, other.num_kept) == (2, 0)
        generation.items = [{"ctx_request_id": 1}, {"ctx_request_id": 2}]
        assert [c["ctx_request_id"] for c, _ in parts(await one.take())] == [1, 2]
