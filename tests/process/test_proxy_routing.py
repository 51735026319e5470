"""Where a real proxy sends requests, which it lets wait, and which it refuses."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes import words
from helpers.overload import come
from helpers.serving import DEADLINE_S, MODEL, Serving, serving
from msgspec.structs import replace

from trtdisagg.protocol.proxy_spec import ModelSpec, RouterSpec
from trtdisagg.protocol.reports import Beat

pytestmark = pytest.mark.anyio

PAIR: dict[str, list[str]] = {"context-0": [], "generation-0": []}
TWO: dict[str, list[str]] = {"generation-0": [], "generation-1": []}
HELD = {"generation-0": ["--hold-generation"]}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:
        yield session


class Answered:
    """One request and its answer."""

    def __init__(self, status: int, headers: Any, body: Any) -> None:
        self.status = status
        self.context: str | None = headers.get("x-trtdisagg-context")
        self.generation: str | None = headers.get("x-trtdisagg-generation")
        self.retry_after: str | None = headers.get("Retry-After")
        self.body = body

    @property
    def text(self) -> str:
        assert self.status == 200, self.body
        return self.body["choices"][0]["text"]  # type: ignore[no-any-return]

    @property
    def code(self) -> str:
        return self.body["error"]["code"]  # type: ignore[no-any-return]


async def ask(
    cluster: Serving, http: aiohttp.ClientSession, prompt: str | list[int], *, session: str | None = None, **fields: Any
) -> Answered:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 3, **fields}
    headers = {} if session is None else {"X-Session-ID": session}
    async with http.post(f"{cluster.url}/v1/completions", json=body, headers=headers) as answer:
        text = await answer.text()
        return Answered(answer.status, answer.headers, json.loads(text) if not fields.get("stream") else text)


def tell(cluster: Serving, **limits: Any) -> None:
    """What servers say of themselves; of one role alone, by `context_` or `generation_` before the name."""
    members = []
    for engine in cluster.engines.values():
        own = {k.removeprefix(f"{engine.spec.role}_"): v for k, v in limits.items() if k.startswith(engine.spec.role)}
        members.append(replace(engine.member, **own))
    cluster.tell(*members)


async def until_num_waiting(cluster: Serving, number: int) -> None:
    def look() -> None:
        while not (isinstance(report := cluster.proxy.next_report(), Beat) and report.stats.num_waiting == number):
            pass

    await asyncio.to_thread(look)


def routed(**spec: Any) -> dict[str, ModelSpec]:
    return {MODEL: ModelSpec(**spec)}


# --- policies -------------------------------------------------------------------------------------------------------


async def test_work_counts_from_the_moment_it_is_routed(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    router = routed(generation_router=RouterSpec(type="load_balancing"))
    with serving(tmp_path, {**HELD, "generation-1": []}, models=router) as cluster:
        held = [asyncio.create_task(ask(cluster, http, f"held {i}")) for i in range(2)]
        await cluster["generation-0"].wait("running", 1)
        answers = [await ask(cluster, http, f"p{i}") for i in range(5)]
        assert {a.generation for a in answers} == {"generation-1"}
        cluster["generation-0"].ask("go", {})
        assert Counter(a.generation for a in await asyncio.gather(*held)) == {"generation-0": 1, "generation-1": 1}


async def test_a_session_stays_where_it_is(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    router = routed(generation_router=RouterSpec(type="session"))
    with serving(tmp_path, TWO, models=router) as cluster:
        homes = {}
        for name in (f"s{i}" for i in range(12)):
            answers = [await ask(cluster, http, f"{name} {i}", session=name) for i in range(3)]
            (homes[name],) = {a.generation for a in answers}
        assert set(homes.values()) == set(TWO)
        refused = await ask(cluster, http, "p", session="x" * 300)
        assert (refused.status, refused.body["error"]["param"]) == (400, "X-Session-ID")


async def test_short_prompts_go_to_a_generation_server_alone(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with serving(tmp_path, PAIR, models=routed(max_local_prefill_length=20)) as cluster:
        short, long = await ask(cluster, http, list(range(20))), await ask(cluster, http, list(range(21)))
        assert (short.context, long.context) == (None, "context-0")
        assert [a.text for a in (short, long)] == [words.answer(list(range(n)), 3) for n in (20, 21)]
        async with http.get(f"{cluster.url}/metrics") as page:
            text = await page.text()
        assert f'request_paths_total{{model="{MODEL}",path="short"}} 1.0' in text
        assert f'request_paths_total{{model="{MODEL}",path="both"}} 1.0' in text


async def test_going_by_caches_that_nobody_knows_is_told(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with serving(tmp_path, TWO, models=routed(generation_router=RouterSpec(type="kv_cache_aware"))) as cluster:
        answers = [await ask(cluster, http, f"p{i}") for i in range(4)]
        assert {a.generation for a in answers} == set(TWO)
        async with http.get(f"{cluster.url}/metrics") as page:
            assert f'blind_routes_total{{model="{MODEL}"}} 4.0' in await page.text()


# --- room -----------------------------------------------------------------------------------------------------------


async def test_a_prompt_is_computed_only_when_there_is_room_for_its_answer(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with serving(tmp_path, {"context-0": [], **HELD}, max_queue_size=2) as cluster:
        tell(cluster, generation_max_batch_size=1)
        asking = [asyncio.create_task(ask(cluster, http, f"p{i}")) for i in range(4)]
        await until_num_waiting(cluster, 2)
        await cluster["generation-0"].wait("running", 2)
        assert cluster["context-0"].state()["context"] == 2
        refused = await ask(cluster, http, "one more")
        assert (refused.status, refused.code, refused.retry_after) == (429, "queue_full", "1")
        late = await ask(cluster, http, "late", timeout=20, priority=9)
        assert late.status == 429, "nor is one of a higher priority let in"
        cluster["generation-0"].ask("go", {})
        assert [a.text for a in await asyncio.gather(*asking)] == [words.answer(f"p{i}", 3) for i in range(4)]


async def test_a_deadline_holds_in_the_queue_too(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with serving(tmp_path, HELD) as cluster:
        tell(cluster, generation_max_batch_size=1)
        running = [asyncio.create_task(ask(cluster, http, f"p{i}")) for i in range(2)]
        await cluster["generation-0"].wait("running", 2)
        late = await ask(cluster, http, "late", timeout=0.2)
        assert (late.status, late.code) == (504, "deadline_exceeded")
        assert "room" in late.body["error"]["message"]
        cluster["generation-0"].ask("go", {})
        assert [a.text for a in await asyncio.gather(*running)] == [words.answer(f"p{i}", 3) for i in range(2)]
        assert cluster["generation-0"].state()["aggregated"] == 2


async def test_who_leaves_the_queue_is_never_asked_for(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with serving(tmp_path, HELD) as cluster:
        tell(cluster, generation_max_batch_size=1)
        running = [asyncio.create_task(ask(cluster, http, f"p{i}")) for i in range(2)]
        await cluster["generation-0"].wait("running", 2)
        leaving = asyncio.create_task(ask(cluster, http, "leaving"))
        await until_num_waiting(cluster, 1)
        leaving.cancel()
        await until_num_waiting(cluster, 0)
        cluster["generation-0"].ask("go", {})
        await asyncio.gather(*running)
        assert (await ask(cluster, http, "next")).text == words.answer("next", 3)
        assert cluster["generation-0"].state()["aggregated"] == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_only_the_context_server_can_hold_is_refused_before_its_first_token(
    tmp_path: Path, http: aiohttp.ClientSession, stream: bool
) -> None:
    with serving(tmp_path, PAIR) as cluster:
        tell(cluster, context_max_seq_len=4096, generation_max_seq_len=40)
        counted = await ask(cluster, http, list(range(41)))
        assert (counted.status, counted.code) == (400, "context_length_exceeded")
        assert cluster["context-0"].state()["context"] == 0
        unread = await ask(cluster, http, "x" * 38, stream=stream)
        assert unread.status == 400
        assert "38 tokens and max_tokens is 3" in str(unread.body)
        assert cluster["generation-0"].state()["generation"] == 0
        assert (await ask(cluster, http, "x" * 37)).text == words.answer("x" * 37, 3)
        assert (await cluster["context-0"].wait("released"))["held_tickets"] == []


async def test_a_prompt_that_is_longer_than_it_looked_goes_to_the_server_that_can_hold_it(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with serving(tmp_path, {"context-0": [], **TWO}) as cluster:
        members = {name: engine.member for name, engine in cluster.engines.items()}
        limits = {"context-0": 4096, "generation-0": 40, "generation-1": 4096}
        cluster.tell(*(replace(members[name], max_seq_len=limit) for name, limit in limits.items()))
        for i in range(4):
            prompt = f"{i}" * 100
            answer = await ask(cluster, http, prompt)
            assert (answer.text, answer.generation) == (words.answer(prompt, 3), "generation-1")
        assert cluster["generation-1"].state()["fetched"] == 4


async def until_num_refused(cluster: Serving, http: aiohttp.ClientSession, number: int) -> None:
    line = f'requests_total{{model="{MODEL}",route="/v1/completions",status="429"}} {float(number)}'
    page = ""
    while line not in page:
        await asyncio.sleep(0.02)
        async with http.get(f"{cluster.url}/metrics") as answer:
            page = await answer.text()


async def test_too_much_to_do_is_refused_at_once_and_the_rest_is_answered(
    tmp_path: Path, http: aiohttp.ClientSession, num_rounds: int
) -> None:
    """Ten on two servers that generate for four each, four that wait, and no more before one is answered."""
    generation = ["--one-batch", "--hold-generation"]
    engines = {"context-0": [], "generation-0": generation, "generation-1": generation}
    with serving(tmp_path, engines, engine_max_batch_size=4, max_queue_size=4) as cluster:
        tell(cluster, generation_max_batch_size=4)
        num_refused = 100 * num_rounds - 14
        coming = asyncio.create_task(come(cluster.url, num_refused + 14, requests_s=400.0, num_tokens=11))
        await until_num_refused(cluster, http, num_refused)
        for name in TWO:
            cluster[name].ask("go", {})
        seen = await coming
        assert all(one.is_right for one in seen)
        assert Counter(one.status for one in seen) == {200: 14, 429: num_refused}
        assert {one.retry_after for one in seen if one.status == 429} == {"1"}
        await until_num_waiting(cluster, 0)
        for engine in cluster.engines.values():
            state = engine.state()
            assert (state["running"], state["held_tickets"]) == (0, [])
