"""Traces: records joined with what servers say of the same requests, on one clock."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from helpers.records import CONTEXT, GENERATION, handed_over, leg, record

from trtdisagg.errors import RequestError
from trtdisagg.protocol.control import Member
from trtdisagg.proxy.http.pool import Pool
from trtdisagg.proxy.records.recent import Recent
from trtdisagg.proxy.records.records import Records
from trtdisagg.proxy.records.timelines import Timelines, clock_offset_s

pytestmark = pytest.mark.anyio


class Server:
    """Tells times of requests."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.clock_s = 0.0
        """It is so much ahead of ours."""
        self.asked: list[str] = []
        self.member: Member

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.query["request_id"])
        told = {"server": "s", "incarnation": "i", "now": time.monotonic() + self.clock_s, "requests": self.requests}
        return web.json_response(told)

    def says(self, **times: float) -> None:
        """:param times: of one more request, on its clock."""
        names = ("server_arrival_time", "arrival_time", "first_scheduled_time", "first_token_time")
        all_times = dict.fromkeys((*names, "server_first_token_time", "last_token_time"), 0.0) | times
        blocks = dict.fromkeys(("total_allocated", "new_allocated", "reused", "missed"), 0)
        cache = {f"num_{name}_blocks": number for name, number in blocks.items()}
        perf = {"first_iter": 0, "last_iter": 1, "timing_metrics": all_times, "kv_cache_metrics": cache}
        self.requests.append({"request_id": len(self.requests), "perf_metrics": perf})


@contextlib.asynccontextmanager
async def telling(member: Member) -> AsyncIterator[Server]:
    server, app = Server(), web.Application()
    app.router.add_get("/request_times", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        server.member = msgspec.structs.replace(member, url=f"{host}:{port}", wire_version=1)
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture
async def timelines() -> AsyncIterator[Timelines]:
    pool = Pool()
    yield Timelines(pool, Records([]), Recent())
    pool.close_idle()


async def test_what_servers_say_is_laid_beside_the_legs(timelines: Timelines) -> None:
    async with telling(CONTEXT) as context, telling(GENERATION) as generation:
        generation.clock_s = 1000.0  # of another machine
        legs = [
            leg("context", context.member, (100.02, 100.19, 100.19)),
            leg("generation", generation.member, (100.2, 100.25, 100.3)),
        ]
        context.says(server_arrival_time=50.0, first_scheduled_time=50.1, first_token_time=50.2)
        context.says(server_arrival_time=100.03, first_scheduled_time=100.05, first_token_time=100.18)
        generation.says(
            server_arrival_time=1100.21,
            kv_cache_transfer_start=1100.22,
            kv_cache_transfer_end=1100.23,
            kv_cache_size=4096,
            first_scheduled_time=1100.24,
            first_token_time=1100.25,
            last_token_time=1100.29,
        )
        timelines._recent.add(handed_over(request_id="a b&c", legs=legs))
        [trace] = (await timelines.answer("id=a%20b%26c")).traces
        assert context.asked == ["a b&c"]
    first, rest = (leg.on_server for leg in trace.legs)
    assert first is not None
    assert (first.arrived_ms, first.scheduled_ms) == (pytest.approx(30), pytest.approx(50)), "not the older request"
    assert (first.transfer_begun_ms, first.last_token_ms) == (None, None)
    assert rest is not None
    assert rest.arrived_ms == pytest.approx(210, abs=100), "on our clock, as well as that can be known"
    assert rest.scheduled_ms is not None
    assert rest.scheduled_ms - rest.arrived_ms == pytest.approx(30)
    assert rest.transfer_bytes == 4096
    assert (trace.chosen_ms, trace.first_token_ms, trace.ended_ms) == tuple(map(pytest.approx, (10, 200, 300)))


async def test_servers_that_say_nothing(timelines: Timelines) -> None:
    gone = msgspec.structs.replace(CONTEXT, url="127.0.0.1:1", wire_version=1)
    foreign = GENERATION
    legs = [leg("context", gone, (100.0, 0.0, 100.1), "failed"), leg("generation", foreign, (100.1, 100.2, 100.3))]
    timelines._recent.add(handed_over(legs=legs))
    [trace] = (await timelines.answer("id=r")).traces
    assert [leg.on_server for leg in trace.legs] == [None, None]
    assert [leg.outcome for leg in trace.legs] == ["failed", "done"]


async def test_one_that_runs_is_found_and_comes_first(timelines: Timelines) -> None:
    running = timelines._records.begin("r", "/v1/completions")
    running.leg("context", CONTEXT, running.arrived + 1)
    timelines._recent.add(record())
    first, second = (await timelines.answer("id=r")).traces
    assert (first.status, first.ended_ms, second.status) == (0, None, 429)
    assert first.legs[0].outcome == "running"
    assert abs(first.arrived - time.time()) < 60


async def test_lists(timelines: Timelines) -> None:
    for number in range(5):
        timelines._recent.add(record(request_id=str(number), ended=101.0 + number % 3))
    assert [t.request_id for t in (await timelines.answer("last=2")).traces] == ["4", "3"]
    assert [t.request_id for t in (await timelines.answer("slowest=1")).traces] == ["2"]
    assert (await timelines.answer("id=unknown")).traces == []


@pytest.mark.parametrize("query", ["", "last=x", "last=-1", "first=1", "last=1&slowest=1"])
async def test_other_questions_are_refused(timelines: Timelines, query: str) -> None:
    with pytest.raises(RequestError):
        await timelines.answer(query)


@pytest.mark.parametrize(
    ("told", "offset_s"), [(10.0005, 0.0), (9.9995, 0.0), (10.0, 0.0), (510.0, -500.0), (9.9, 0.1)]
)
def test_a_clock_is_ours_unless_it_differs_by_more_than_asking_took(told: float, offset_s: float) -> None:
    assert clock_offset_s(9.999, told, 10.001) == pytest.approx(offset_s)
