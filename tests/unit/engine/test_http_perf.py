"""`/perf_metrics`: times of single requests, told once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers.http_face import SPEC, Face, http_face

from trtdisagg.engine.http.perf import PerfRing

pytestmark = pytest.mark.anyio

KEPT = msgspec.structs.replace(SPEC, perf_metrics_max_requests=2)


async def test_each_request_with_a_token_is_told_once_and_the_oldest_go() -> None:
    async with http_face("abc", spec=KEPT) as face:
        for _ in range(3):
            await face.complete()
        async with face.session.get("/perf_metrics") as answer:
            told = await answer.json()
        async with face.session.get("/perf_metrics") as answer:
            assert await answer.json() == []
    assert [item["request_id"] for item in told] == [2, 3]
    metrics = told[0]["perf_metrics"]
    assert metrics["kv_cache_metrics"] == {
        "num_total_allocated_blocks": 5,
        "num_new_allocated_blocks": 3,
        "num_reused_blocks": 2,
        "num_missed_blocks": 0,
    }
    times = metrics["timing_metrics"]
    assert list(times) == [
        "server_arrival_time",
        "arrival_time",
        "first_scheduled_time",
        "first_token_time",
        "server_first_token_time",
        "last_token_time",
    ]
    assert (times["arrival_time"], times["first_scheduled_time"]) == (1.0, 2.0)
    assert 0 < times["server_arrival_time"] <= times["server_first_token_time"]


async def test_nothing_is_kept_where_nobody_asked_for_it() -> None:
    async with http_face("abc") as face:
        await face.complete()
        async with face.session.get("/perf_metrics") as answer:
            assert await answer.json() == []


async def test_times_of_another_machines_clock() -> None:
    async with http_face("abc", spec=KEPT) as face:
        async with face.session.get("/steady_clock_offset") as answer:
            asked = await answer.json()
        assert asked["receive_ts"] == asked["transmit_ts"] > 0
        assert await face.post("/steady_clock_offset", {"offset": 1000.0}) == (200, {})
        await face.complete()
        async with face.session.get("/perf_metrics") as answer:
            [item] = await answer.json()
        status, body = await face.post("/steady_clock_offset", {"offset": "soon"})
    times = item["perf_metrics"]["timing_metrics"]
    assert (times["arrival_time"], times["first_token_time"]) == (1001.0, 0.0), "what has not happened stays 0"
    assert status == 400
    assert "offset" in body["error"]["message"]


# --- one request ----------------------------------------------------------------------------------------------------


async def times_of(face: Face, **query: str) -> list[Any]:
    async with face.session.get("/request_times", params=query) as answer:
        assert answer.status == 200, await answer.text()
        told = await answer.json()
    assert (told["server"], told["incarnation"]) == ("context-0", "i")
    assert told["now"] > 0
    return told["requests"]


async def test_one_request_is_found_by_number_and_name_as_often_as_somebody_asks() -> None:
    params = {"request_type": "context_only", "disagg_request_id": 7}
    async with http_face("abc") as face:
        await face.complete()
        body = {"model": "tiny", "prompt": "Hi", "disaggregated_params": params}
        await face.post("/v1/completions", body, headers={"X-Request-Id": "mine"})
        by_number, by_name = await times_of(face, disagg_request_id="7"), await times_of(face, request_id="mine")
        assert by_number == by_name == await times_of(face, request_id="mine")
        [told] = by_number
        assert (told["request_id"], told["ctx_request_id"], told["disagg_request_id"]) == (2, 2, 7)
        assert told["perf_metrics"]["timing_metrics"]["first_scheduled_time"] == 2.0
        assert await times_of(face, disagg_request_id="8") == []


async def test_a_request_whose_client_left_is_found_though_it_does_not_count() -> None:
    async with http_face("abc", spec=KEPT, steps_itself=False) as face:
        body = {"model": "tiny", "prompt": "Hi", "stream": True}
        async with face.reading("/v1/completions", body, headers={"X-Request-Id": "left"}):
            pass
        await face.executor.cancellation.wait()
        assert len(await times_of(face, request_id="left")) == 1
        async with face.session.get("/perf_metrics") as answer:
            assert await answer.json() == []


@pytest.mark.parametrize(
    "query", ["", "id=3", "request_id=", "disagg_request_id=x", "request_id=a&disagg_request_id=3"]
)
async def test_who_asks_for_something_else_is_told_what_to_ask_for(query: str) -> None:
    async with http_face() as face, face.session.get(f"/request_times?{query}") as answer:
        assert answer.status == 400
        assert "disagg_request_id" in await answer.text()


async def test_the_oldest_are_found_no_more() -> None:
    async with http_face("abc") as face:
        face.service.perf = PerfRing(0, max_found=2)
        for name in ("a", "b", "c"):
            body = {"model": "tiny", "prompt": "Hi"}
            await face.post("/v1/completions", body, headers={"X-Request-Id": name})
        assert [len(await times_of(face, request_id=name)) for name in ("a", "b", "c")] == [0, 1, 1]
