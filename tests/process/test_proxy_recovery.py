"""Streams whose generation server dies, breaks off, says an error or falls silent: the client sees nothing of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes import words
from helpers.serving import DEADLINE_S, MODEL, Serving, serving
from msgspec.structs import replace

from trtdisagg.protocol.proxy_spec import BreakerSpec

pytestmark = pytest.mark.anyio

CONTEXT: dict[str, Sequence[str]] = {"context-0": []}
NUM_TOKENS = 8
INCARNATIONS = itertools.count()
GOOD = {"cut_at_token": None, "error_at_token": None, "silent_at_token": None, "cut": "before"}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:
        yield session


async def events_of(
    cluster: Serving, http: aiohttp.ClientSession, prompt: str, *, chat: bool = False, **fields: Any
) -> list[Any]:
    """All events of a stream; the last is `[DONE]`, or an error."""
    said: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    body = {"model": MODEL, "max_tokens": NUM_TOKENS, "stream": True, **said, **fields}
    path = "chat/completions" if chat else "completions"
    async with http.post(f"{cluster.url}/v1/{path}", json=body) as answer:
        assert answer.status == 200
        text = await answer.text()
    assert text.endswith("\n\n")
    data = [event.removeprefix("data: ") for event in text.split("\n\n")[:-1]]
    return [event if event == "[DONE]" else json.loads(event) for event in data]


def text_of(events: list[Any]) -> str:
    parts = [choice for event in events[:-1] for choice in event["choices"]]
    return "".join(part["delta"].get("content", "") if "delta" in part else part["text"] for part in parts)


def finishes(events: list[Any]) -> list[str]:
    return [c["finish_reason"] for e in events[:-1] for c in e["choices"] if c["finish_reason"] is not None]


MISFORTUNES: dict[str, dict[str, Any]] = {
    "is cut off": {"cut_at_token": 3},
    "is cut off within an event": {"cut_at_token": 3, "cut": "within"},
    "is cut off behind an event": {"cut_at_token": 3, "cut": "behind"},
    "says an error": {"error_at_token": 3, "fail_status": 500},
    "shuts down": {"error_at_token": 3, "fail_status": 503},
    "is silent": {"silent_at_token": 3},
    "dies": {"die_at_token": 3},
}


async def test_a_stream_goes_on_elsewhere(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    engines = {**CONTEXT, "generation-0": [], "generation-1": []}
    with serving(tmp_path, engines, idle_timeout_s=3.0) as cluster:
        for num_broken, (name, flags) in enumerate(MISFORTUNES.items(), 1):
            cluster["generation-0"].ask("flags", {**GOOD, **flags})
            await trust_again(cluster)
            for i in range(2):
                events = await events_of(cluster, http, f"{name} {i}", stream_options={"include_usage": True})
                assert text_of(events) == words.answer(f"{name} {i}", NUM_TOKENS), name
                assert (events[-1], finishes(events)) == ("[DONE]", ["length"])
                assert events[-2]["usage"]["completion_tokens"] == NUM_TOKENS
                assert len({event["id"] for event in events[:-1]}) == 1
            assert cluster["generation-1"].state()["replayed"] == num_broken
        assert cluster["context-0"].state()["held_tickets"] == []


async def test_wherever_it_breaks_all_comes_once(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """From the first token of a generation leg to what comes behind the last."""
    with serving(tmp_path, {**CONTEXT, "generation-0": [], "generation-1": []}) as cluster:
        num_broken = 0
        for alone, cut in itertools.product((False, True), ("within", "behind")):
            for token in range(0 if alone else 1, NUM_TOKENS + 1):
                cluster["generation-0"].ask("flags", {"cut_at_token": token, "cut": cut})
                for chat, usage in itertools.product((False, True), repeat=2):
                    await trust_again(cluster, "context-0" if alone else "")
                    await check_both(cluster, http, f"{alone} {token} {cut} {usage}", chat=chat, usage=usage)
                    num_broken += 1
        state = cluster["generation-0"].state()
        assert state["cancelled"] == num_broken


async def trust_again(cluster: Serving, without: str = "") -> None:
    """Tell the proxy of all servers as if they had just started, so that it has no doubts about them."""
    members = [engine.member for name, engine in cluster.engines.items() if name != without]
    await asyncio.to_thread(cluster.tell, *(replace(m, incarnation=str(next(INCARNATIONS))) for m in members))


async def check_both(cluster: Serving, http: aiohttp.ClientSession, prompt: str, *, chat: bool, usage: bool) -> None:
    """The answers of both generation servers, in turn."""
    options = {"stream_options": {"include_usage": True}} if usage else {}
    messages = [{"role": "user", "content": prompt}]
    expected = words.chat_answer(messages, NUM_TOKENS) if chat else words.answer(prompt, NUM_TOKENS)
    for _ in range(2):
        events = await events_of(cluster, http, prompt, chat=chat, **options)
        assert text_of(events) == expected
        assert (events[-1], finishes(events)) == ("[DONE]", ["length"])
        assert [e["usage"]["completion_tokens"] for e in events[:-1] if e.get("usage")] == [NUM_TOKENS] * usage
        if chat:
            assert ["role" in c["delta"] for e in events[:-1] for c in e["choices"]].count(True) == 1


async def test_only_so_often(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    cut = {f"generation-{i}": [f"--cut-at-token={3 + i}"] for i in range(3)}
    with serving(tmp_path, {**CONTEXT, **cut}, max_migrations=1) as cluster:
        events = await events_of(cluster, http, "broken")
        assert "error" in events[-1]
        assert text_of(events) in [words.answer("broken", n) for n in (4, 5)]
    with serving(tmp_path, {**CONTEXT, **cut}, max_migrations=3) as cluster:
        assert text_of(await events_of(cluster, http, "broken")) == words.answer("broken", NUM_TOKENS)


async def test_an_error_of_the_request_is_passed_on(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    flags = ["--error-at-token=3", "--fail-status=400"]
    with serving(tmp_path, {**CONTEXT, "generation-0": flags, "generation-1": flags}) as cluster:
        events = await events_of(cluster, http, "wrong")
        assert events[-1]["error"]["type"] == "invalid_request_error"
        assert text_of(events) == words.answer("wrong", 3)
        assert sum(cluster[f"generation-{i}"].state()["generation"] for i in (0, 1)) == 1


@pytest.mark.parametrize("roles", [("context-0",), ("generation-0", "generation-1")])
async def test_a_stream_of_foreign_servers_ends_with_an_error(
    tmp_path: Path, http: aiohttp.ClientSession, roles: tuple[str, ...]
) -> None:
    engines = {name: ["--cut-at-token=3"] for name in ("generation-0", "generation-1")} | CONTEXT
    engines = {name: [*flags, "--foreign"] if name in roles else flags for name, flags in engines.items()}
    with serving(tmp_path, engines) as cluster:
        events = await events_of(cluster, http, "abroad")
        assert events[-1]["error"]["code"] == "upstream_failed"
        assert text_of(events) == words.answer("abroad", 3)


async def test_a_stream_of_several_answers_ends_with_an_error(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    cut = {f"generation-{i}": ["--cut-at-token=3"] for i in range(2)}
    with serving(tmp_path, {**CONTEXT, **cut}) as cluster:
        events = await events_of(cluster, http, "two", n=2)
        assert events[-1]["error"]["code"] == "upstream_failed"


async def test_a_server_that_is_not_listed_any_more_and_is_silent_is_not_waited_for(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """Long before the time between two tokens is over."""
    engines = {**CONTEXT, "generation-0": ["--silent-at-token=3"], "generation-1": []}
    with serving(tmp_path, engines) as cluster:
        asking = [asyncio.create_task(events_of(cluster, http, f"p{i}")) for i in range(2)]
        await cluster["generation-0"].wait("tokens", 2)
        cluster["generation-0"].process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(cluster.tell, cluster["context-0"].member, cluster["generation-1"].member)
        for i, events in enumerate(await asyncio.gather(*asking)):
            assert text_of(events) == words.answer(f"p{i}", NUM_TOKENS)


# --- servers that are there and fail --------------------------------------------------------------------------------


async def test_a_server_that_fails_again_and_again_is_left_alone_until_it_is_well(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    fails = ["--fail-generation=1000000", "--fail-status=500"]
    engines = {**CONTEXT, "generation-0": fails, "generation-1": []}
    rules = BreakerSpec(num_failures=3, open_s=0.5)
    with serving(tmp_path, engines, breaker=rules) as cluster:
        began = time.monotonic()
        for i in range(12):
            assert text_of(await events_of(cluster, http, f"p{i}")) == words.answer(f"p{i}", NUM_TOKENS)
        cluster["generation-0"].ask("flags", {"fail_generation": 0})
        failed = cluster["generation-0"].state()["refused"]
        assert 3 <= failed <= 3 + (time.monotonic() - began) / rules.open_s, "one more when it was open for its time"
        while cluster["generation-0"].state()["finished"] == 0:
            assert text_of(await events_of(cluster, http, "again")) == words.answer("again", NUM_TOKENS)
        assert cluster["generation-0"].state()["refused"] == failed
        assert "generation-0" in cluster.proxy.log.read_text().partition("fails again and again")[0].splitlines()[-1]
