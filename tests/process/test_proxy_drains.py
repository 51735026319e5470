"""Servers that leave, come back and are replaced under a real proxy: what is in use, who waits, nothing is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes import words
from helpers.serving import DEADLINE_S, MODEL, FakeEngine, Serving, serving

from trtdisagg.protocol.control import Member, Need, Told
from trtdisagg.protocol.reports import Beat

pytestmark = pytest.mark.anyio

GENERATION_COMES: dict[str, list[Need]] = {MODEL: ["generation"]}
CONTEXT, GENERATION = "context-0.1", "generation-0.1"
"""Incarnations of the first servers."""


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:
        yield session


async def complete(
    cluster: Serving, http: aiohttp.ClientSession, prompt: str, num_tokens: int = 4, *, stream: bool = True
) -> tuple[int, str]:
    """Ask and read to the end; returns status and text, which is whole only if no error came."""
    fields: dict[str, Any] = {"model": MODEL, "prompt": prompt, "max_tokens": num_tokens, "stream": stream}
    async with http.post(f"{cluster.url}/v1/completions", json=fields) as answer:
        text = await answer.text()
    if answer.status != 200:
        return answer.status, json.loads(text)["error"]["message"]
    if not stream:
        return 200, json.loads(text)["choices"][0]["text"]
    assert text.endswith("data: [DONE]\n\n"), text
    events = [json.loads(e.removeprefix("data: ")) for e in text.split("\n\n")[:-2]]
    return 200, "".join(c["text"] for e in events for c in e["choices"])


async def tell(cluster: Serving, *members: Member, coming: dict[str, list[Need]] | None = None) -> Told:
    return await asyncio.to_thread(lambda: cluster.tell(*members, coming=coming))


async def until_unused(cluster: Serving, incarnation: str, *members: Member, coming: Any = None) -> None:
    """What an agent does before it ends a server: tell that it is gone, until nothing counts on it."""
    while incarnation in (await tell(cluster, *members, coming=coming)).in_use:
        await asyncio.sleep(0.02)


async def until_all_unused(cluster: Serving, *members: Member) -> None:
    while (await tell(cluster, *members)).in_use:
        await asyncio.sleep(0.02)


async def until_num_waiting(cluster: Serving, number: int) -> None:
    def look() -> None:
        while not (isinstance(report := cluster.proxy.next_report(), Beat) and report.stats.num_waiting == number):
            pass

    await asyncio.to_thread(look)


# --- in use ---------------------------------------------------------------------------------------------------------


async def test_a_request_counts_on_its_servers_until_they_are_done_with_it(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": ["--token-delay-ms=500"]}) as cluster:
        members = [engine.member for engine in cluster.engines.values()]
        cluster["context-0"].ask("stick", {})
        fields = {"model": MODEL, "prompt": "counted", "max_tokens": 50, "stream": True}
        asking = asyncio.ensure_future(http.post(f"{cluster.url}/v1/completions", json=fields))
        await cluster["context-0"].wait("running")
        assert (await tell(cluster, *members)).in_use == {CONTEXT: 1, GENERATION: 1}
        cluster["context-0"].ask("unstick", {})
        async with await asking as answer:
            events = [await answer.content.readuntil(b"\n\n") for _ in range(2)]
            assert (await tell(cluster, *members)).in_use == {GENERATION: 1}, events
            cluster["generation-0"].ask("flags", {"token_delay_ms": 0})
            assert (await answer.read()).endswith(b"[DONE]\n\n")
        await until_all_unused(cluster, *members)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_has_left_is_removed_when_nothing_counts_on_it(
    tmp_path: Path, http: aiohttp.ClientSession, stream: bool
) -> None:
    engines = {"context-0": [], "generation-0": ["--hold-generation"], "generation-1": []}
    with serving(tmp_path, engines) as cluster:
        left, stays = cluster["generation-0"], [cluster[n].member for n in ("context-0", "generation-1")]
        line = f"Server {left.url} is removed"
        asking = [asyncio.create_task(complete(cluster, http, f"p{i}", stream=stream)) for i in range(2)]
        await left.wait("fetched")
        assert (await tell(cluster, *stays)).in_use[GENERATION] == 1
        assert line not in cluster.proxy.log.read_text()
        left.ask("go", {})
        assert await asyncio.gather(*asking) == [(200, words.answer(f"p{i}", 4)) for i in range(2)]
        await until_all_unused(cluster, *stays)
        assert cluster.proxy.log.read_text().count(line) == 1


async def test_a_request_whose_generation_server_leaves_meanwhile_goes_to_it(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": [], "generation-1": []}) as cluster:
        cluster["context-0"].ask("stick", {})
        asking = asyncio.create_task(complete(cluster, http, "still", 6))
        await cluster["context-0"].wait("running")
        told = await tell(cluster, cluster["context-0"].member)
        (chosen,) = told.in_use.keys() - {CONTEXT}
        cluster["context-0"].ask("unstick", {})
        assert await asking == (200, words.answer("still", 6))
        assert cluster[chosen.removesuffix(".1")].state()["fetched"] == 1
        assert cluster["context-0"].state()["context"] == 1


# --- who waits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_who_finds_no_server_waits_for_one_that_comes(
    tmp_path: Path, http: aiohttp.ClientSession, stream: bool
) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": []}) as cluster:
        context, generation = (cluster[n].member for n in ("context-0", "generation-0"))
        await tell(cluster, context, coming=GENERATION_COMES)
        asking = [asyncio.create_task(complete(cluster, http, f"p{i}", stream=stream)) for i in range(8)]
        await until_num_waiting(cluster, 8)
        assert (await tell(cluster, context, generation)).in_use.keys() <= {CONTEXT, GENERATION}
        assert await asyncio.gather(*asking) == [(200, words.answer(f"p{i}", 4)) for i in range(8)]
        await until_num_waiting(cluster, 0)


async def test_where_nothing_comes_it_is_a_503_at_once(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": []}) as cluster:
        await tell(cluster, cluster["context-0"].member, coming=GENERATION_COMES)
        asking = asyncio.create_task(complete(cluster, http, "given up"))
        await until_num_waiting(cluster, 1)
        await tell(cluster, cluster["context-0"].member)
        assert (await asking)[0] == 503
        fields = {"model": MODEL, "prompt": "at once"}
        async with http.post(f"{cluster.url}/v1/completions", json=fields) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


async def test_waiting_ends_when_the_first_token_is_due(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with serving(tmp_path, {"context-0": []}, first_token_timeout_s=0.4) as cluster:
        await tell(cluster, cluster["context-0"].member, coming=GENERATION_COMES)
        assert (await complete(cluster, http, "late"))[0] == 504


@pytest.mark.parametrize("stream", [False, True])
async def test_the_only_generation_server_dies_and_a_begun_answer_waits_for_the_next(
    tmp_path: Path, http: aiohttp.ClientSession, stream: bool
) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": ["--hold-generation"]}) as cluster:
        context = cluster["context-0"].member
        asking = [asyncio.create_task(complete(cluster, http, f"p{i}", stream=stream)) for i in range(3)]
        await cluster["generation-0"].wait("fetched", 3)
        cluster["generation-0"].process.kill()
        await until_num_waiting(cluster, 3)
        await tell(cluster, context, coming=GENERATION_COMES)
        again = FakeEngine(tmp_path, "generation-0", incarnation="generation-0.2")
        try:
            await asyncio.to_thread(again.wait_ready)
            told = await tell(cluster, context, again.member)
            assert GENERATION not in told.in_use
            assert await asyncio.gather(*asking) == [(200, words.answer(f"p{i}", 4)) for i in range(3)]
            assert cluster["context-0"].state()["context"] == 3
        finally:
            again.close()


async def test_a_server_that_refuses_at_its_door_has_not_used_the_ticket(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    engines = {"context-0": [], "generation-0": ["--fail-generation=100"], "generation-1": []}
    with serving(tmp_path, engines) as cluster:
        for i in range(4):
            assert await complete(cluster, http, f"p{i}") == (200, words.answer(f"p{i}", 4))
        state = cluster["generation-1"].state()
        assert (state["fetched"], state["recomputed"]) == (4, 0)
        assert cluster["context-0"].state()["context"] == 4


# --- a rolling restart ----------------------------------------------------------------------------------------------


async def test_a_rolling_restart_of_the_only_generation_server_loses_and_repeats_nothing(
    tmp_path: Path, http: aiohttp.ClientSession, num_rounds: int
) -> None:
    num_answered = 0

    async def client(cluster: Serving, number: int, stop: asyncio.Event) -> None:
        nonlocal num_answered
        while not stop.is_set():
            prompt = f"client {number} request {num_answered}"
            answer = await complete(cluster, http, prompt, 6, stream=number % 3 > 0)
            assert answer == (200, words.answer(prompt, 6))
            num_answered += 1

    engines = {"context-0": ["--token-delay-ms=5"], "generation-0": ["--token-delay-ms=5"]}
    with serving(tmp_path, engines) as cluster:
        stop, context, server = asyncio.Event(), cluster["context-0"].member, cluster["generation-0"]
        async with asyncio.TaskGroup() as tasks:
            for number in range(12):
                tasks.create_task(client(cluster, number, stop))
            for i in range(2 * num_rounds):
                before = num_answered
                while num_answered < before + 50:
                    await asyncio.sleep(0.01)
                await until_unused(cluster, server.spec.incarnation, context, coming=GENERATION_COMES)
                state = server.state()
                assert (state["running"], state["recomputed"], state["cancelled"]) == (0, 0, 0)
                assert await asyncio.to_thread(server.stop) == 0
                server = FakeEngine(tmp_path, "generation-0", incarnation=f"generation-0.{i + 2}")
                cluster.engines[f"generation-0.{i + 2}"] = server
                await asyncio.to_thread(server.wait_ready)
                await tell(cluster, context, server.member)
            stop.set()
        assert cluster["context-0"].state()["context"] == num_answered
        assert server.state()["recomputed"] == 0
        await asyncio.to_thread(server.close)
        assert cluster.proxy.log.read_text().count("is removed") == 2 * num_rounds
