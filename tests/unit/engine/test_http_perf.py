"""`/perf_metrics`: times of single requests, told once."""

from __future__ import annotations

import msgspec
import pytest
from helpers.http_face import SPEC, http_face

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
