"""Servers that refuse, break off, are silent or die, and clients that leave: what each sees, and what is left."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from fakes import words
from helpers.serving import DEADLINE_S, MODEL, FakeEngine, Serving, serving

from trtdisagg.protocol.spec import TransferSpec

pytestmark = pytest.mark.anyio

NEVER = "--token-delay-ms=3600000"
FIRST_TOKEN_S = 4.0
"""A deadline for the first token that is kept."""


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:
        yield session


def body(prompt: str, num_tokens: int, *, stream: bool = True) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": num_tokens, "stream": stream}


async def complete(
    cluster: Serving, http: aiohttp.ClientSession, prompt: str, num_tokens: int, *, stream: bool = True
) -> tuple[int, str, dict[str, Any] | None]:
    """Ask and read to the end.

    :returns: status, text, and the error, be it the body or an event of the stream.
    """
    async with http.post(f"{cluster.url}/v1/completions", json=body(prompt, num_tokens, stream=stream)) as answer:
        text = await answer.text()
    if answer.status != 200 or not stream:
        whole = json.loads(text)
        return answer.status, whole.get("choices", [{"text": ""}])[0]["text"], whole.get("error")
    assert text.endswith("\n\n")
    events = [e.removeprefix("data: ") for e in text.split("\n\n")[:-1]]
    values = [json.loads(e) for e in events if e != "[DONE]"]
    errors = [v["error"] for v in values if "error" in v]
    assert bool(errors) == (events[-1] != "[DONE]"), "a stream ends with its end mark or an error, never silently"
    return 200, "".join(c["text"] for v in values for c in v.get("choices", [])), errors[0] if errors else None


async def metric(cluster: Serving, http: aiohttp.ClientSession, name: str) -> float:
    """The sum of a metric over its labels."""
    async with http.get(f"{cluster.url}/metrics") as answer:
        page = await answer.text()
    return sum(float(v) for v in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE))


async def until_none_in_flight(cluster: Serving, http: aiohttp.ClientSession) -> None:
    """A server may be done with what it was asked before the proxy is."""
    while await metric(cluster, http, "trtdisagg_proxy_(?:server_)?requests_in_flight"):
        await asyncio.sleep(0.02)


async def until_all_is_over(engine: FakeEngine, leg: str) -> None:
    """All that a server was ever asked was cancelled; where that was nothing, its proxy has not even come to ask."""
    while (state := await asyncio.to_thread(engine.state))["running"] or state[leg] != state["cancelled"]:
        await asyncio.sleep(0.02)


# --- clients that leave ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_the_context_leg(
    tmp_path: Path, http: aiohttp.ClientSession, stream: bool
) -> None:
    with serving(tmp_path, {"context-0": [NEVER], "generation-0": []}) as cluster:
        asking = asyncio.create_task(complete(cluster, http, "bye", 4, stream=stream))
        await cluster["context-0"].wait("running")
        asking.cancel()
        state = await cluster["context-0"].wait("cancelled")
        assert state["running"] == 0
        assert cluster["generation-0"].state()["generation"] == 0
        await until_none_in_flight(cluster, http)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_the_generation_leg(
    tmp_path: Path, http: aiohttp.ClientSession, stream: bool
) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": ["--hold-generation"]}) as cluster:
        asking = asyncio.create_task(complete(cluster, http, "bye", 4, stream=stream))
        await cluster["generation-0"].wait("fetched")
        asking.cancel()
        state = await cluster["generation-0"].wait("cancelled")
        assert state["running"] == 0
        assert cluster["context-0"].state()["held_tickets"] == []


async def test_a_whole_answer_that_breaks_off_late_is_asked_for_again(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    late = ["--foreign", "--hold-generation", "--die-at-token=3"]
    slow = ["--foreign", "--token-delay-ms=500"]  # the next attempt takes longer than deadlines are looked at
    engines = {"context-0": slow, "generation-0": late, "generation-1": ["--foreign"]}
    with serving(tmp_path, engines, first_token_timeout_s=FIRST_TOKEN_S) as cluster:
        asking = [asyncio.create_task(complete(cluster, http, "late", 4, stream=False)) for _ in range(2)]
        await cluster["generation-0"].wait("running")  # one of them goes to the first server
        await asyncio.sleep(FIRST_TOKEN_S)  # the time that is over
        cluster["generation-0"].ask("go", {})
        assert await asyncio.gather(*asking) == [(200, words.answer("late", 4), None)] * 2


# --- nobody comes for what a context server holds -------------------------------------------------------------------


async def test_kv_is_released_when_no_generation_server_can_be_asked(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": []}, max_retries=0) as cluster:
        cluster["context-0"].ask("stick", {})
        asking = asyncio.create_task(complete(cluster, http, "p", 4))
        await cluster["context-0"].wait("running")
        cluster["generation-0"].process.kill()
        cluster["generation-0"].process.wait()
        cluster["context-0"].ask("unstick", {})
        _, _, error = await asking
        assert error is not None
        state = await cluster["context-0"].wait("released")
        assert state["held_tickets"] == []


async def test_kv_is_released_when_the_client_leaves_before_it_was_fetched(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": []}) as cluster:
        cluster["generation-0"].process.send_signal(signal.SIGSTOP)
        asking = asyncio.create_task(complete(cluster, http, "p", 4))
        await cluster["context-0"].wait("held")
        asking.cancel()
        state = await cluster["context-0"].wait("released")
        assert state["held_tickets"] == []
        cluster["generation-0"].process.send_signal(signal.SIGCONT)


async def test_a_storm_of_clients_that_leave_leaves_nothing(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    engines = {"context-0": ["--token-delay-ms=20"], "generation-0": ["--token-delay-ms=5"]}
    with serving(tmp_path, engines, engine_transfer=TransferSpec(lease_ms=1000)) as cluster:

        async def leave_after(delay_s: float) -> None:
            async with asyncio.timeout(delay_s):
                await complete(cluster, http, f"storm {delay_s}", 100)

        left = await asyncio.gather(*(leave_after(0.01 + i * 0.005) for i in range(32)), return_exceptions=True)
        assert all(isinstance(e, TimeoutError) for e in left)
        assert await complete(cluster, http, "after", 5) == (200, words.answer("after", 5), None)
        for engine in cluster.engines.values():
            # The tickets whose clients left between the legs go with their leases.
            while (state := engine.state())["running"] or state["held_tickets"]:
                await asyncio.sleep(0.05)
        await until_none_in_flight(cluster, http)


# --- context servers that fail --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("flags", [["--fail-context=100"], ["--die-at-token=0"]])
async def test_a_context_leg_that_fails_is_asked_elsewhere(
    tmp_path: Path, http: aiohttp.ClientSession, flags: Sequence[str], stream: bool
) -> None:
    with serving(tmp_path, {"context-0": flags, "context-1": [], "generation-0": []}) as cluster:
        for i in range(4):
            expected = (200, words.answer(f"p{i}", 6), None)
            assert await complete(cluster, http, f"p{i}", 6, stream=stream) == expected
        assert cluster["generation-0"].state()["fetched"] == 4
        assert cluster["context-1"].state()["held_tickets"] == []
        assert await metric(cluster, http, "trtdisagg_proxy_retries_total") >= 1


async def test_a_new_attempt_has_a_new_id(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    engines = {"context-0": ["--fail-context=1"], "context-1": ["--fail-context=1"], "generation-0": []}
    with serving(tmp_path, engines, max_retries=2) as cluster:
        assert await complete(cluster, http, "p", 3) == (200, words.answer("p", 3), None)
        legs = [cluster[name].state()["bodies"]["context"] for name in ("context-0", "context-1")]
        assert len({leg["disaggregated_params"]["disagg_request_id"] for leg in legs}) == 2
        assert len({leg["seam"]["id"] for leg in legs}) == 1


async def test_without_a_context_server_generation_does_it_all(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": []}) as cluster:
        cluster["context-0"].process.kill()
        cluster["context-0"].process.wait()
        for stream in (False, True):
            assert await complete(cluster, http, "alone", 5, stream=stream) == (200, words.answer("alone", 5), None)
        assert cluster["generation-0"].state()["aggregated"] == 2
        async with http.get(f"{cluster.url}/health") as answer:
            assert (answer.status, (await answer.json())["status"]) == (200, "ok")


async def test_what_is_wrong_with_the_request_is_not_asked_again(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    flags = ["--fail-context=1", "--fail-status=422"]
    with serving(tmp_path, {"context-0": flags, "context-1": flags, "generation-0": []}) as cluster:
        status, _, error = await complete(cluster, http, "p", 3)
        assert status == 422
        assert error is not None
        assert error["message"] == "fail_context"
        assert cluster["context-0"].state()["context"] + cluster["context-1"].state()["context"] == 1


async def test_a_deadline_that_has_passed_is_not_tried_elsewhere(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    flags = ["--fail-context=1", "--fail-status=504"]
    with serving(tmp_path, {"context-0": flags, "context-1": flags, "generation-0": []}) as cluster:
        assert (await complete(cluster, http, "p", 3))[0] == 504
        assert cluster["context-0"].state()["context"] + cluster["context-1"].state()["context"] == 1


async def test_retries_come_to_an_end(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    engines = {
        f"{role}-{i}": [f"--fail-{role}=100", "--fail-status=500"] for role in ("context", "generation") for i in (0, 1)
    }
    with serving(tmp_path, engines, max_retries=1) as cluster:
        status, _, error = await complete(cluster, http, "p", 3)
        assert status == 502
        assert error is not None
        assert "fail_context" in error["message"]
        assert sum(cluster[f"context-{i}"].state()["context"] for i in (0, 1)) == 2


# --- generation servers that fail -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "recomputed", "fetched"), [(500, 1, 0), (503, 0, 1)])
async def test_a_generation_leg_that_fails_goes_on_and_a_refusal_at_the_door_uses_no_ticket(
    tmp_path: Path, http: aiohttp.ClientSession, status: int, recomputed: int, fetched: int, stream: bool
) -> None:
    engines = {"context-0": [], "generation-0": ["--fail-generation=1", f"--fail-status={status}"]}
    with serving(tmp_path, engines) as cluster:
        assert await complete(cluster, http, "again", 6, stream=stream) == (200, words.answer("again", 6), None)
        assert cluster["context-0"].state()["context"] == 1
        state = cluster["generation-0"].state()
        assert (state["generation"], state["recomputed"], state["fetched"]) == (2, recomputed, fetched)
        params = state["bodies"]["generation"]["disaggregated_params"]
        assert ("encoded_opaque_state" in params) == bool(fetched)
        assert params.keys() >= {"request_type", "disagg_request_id", "first_gen_tokens"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_generation_server_that_is_not_there_costs_nothing(
    tmp_path: Path, http: aiohttp.ClientSession, stream: bool
) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": [], "generation-1": []}) as cluster:
        cluster["generation-0"].process.kill()
        cluster["generation-0"].process.wait()
        for i in range(3):
            assert await complete(cluster, http, f"p{i}", 6, stream=stream) == (200, words.answer(f"p{i}", 6), None)
        assert cluster["context-0"].state()["context"] == 3
        assert cluster["generation-1"].state()["fetched"] == 3, "a ticket nobody has seen is still good"


async def test_a_stream_that_nobody_can_go_on_with_says_so(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": ["--die-at-token=3"]}) as cluster:
        status, text, error = await complete(cluster, http, "broken", 6)
        assert (status, text) == (200, words.answer("broken", 3))
        assert error is not None
        assert error["code"] == "no_server_ready"
        assert "generation-0" in error["message"]
        assert await metric(cluster, http, "trtdisagg_proxy_broken_streams_total") == 1


async def test_the_openai_client_raises_when_a_stream_breaks(tmp_path: Path) -> None:
    with (
        serving(tmp_path, {"context-0": [], "generation-0": ["--die-at-token=3"]}) as cluster,
        openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client,
        client.completions.create(model=MODEL, prompt="broken", max_tokens=6, stream=True) as stream,
        pytest.raises(openai.APIError, match="generation-0"),
    ):
        list(stream)


async def test_a_refusal_behind_the_first_token_is_an_event(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    flags = ["--fail-generation=1", "--fail-status=400"]
    with serving(tmp_path, {"context-0": [], "generation-0": flags}) as cluster:
        status, text, error = await complete(cluster, http, "refused", 6)
        assert (status, text) == (200, words.answer("refused", 1))
        assert error is not None
        assert error["message"] == "fail_generation"


async def test_an_answer_that_is_not_streamed_is_asked_elsewhere_when_it_breaks(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    engines = {"context-0": [], "generation-0": ["--die-at-token=3"], "generation-1": []}
    with serving(tmp_path, engines) as cluster:
        for i in range(2):
            expected = (200, words.answer(f"p{i}", 6), None)
            assert await complete(cluster, http, f"p{i}", 6, stream=False) == expected


async def test_with_nobody_left_the_answer_is_503(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": []}) as cluster:
        for engine in cluster.engines.values():
            engine.process.kill()
            engine.process.wait()
        for stream in (False, True):
            async with http.post(f"{cluster.url}/v1/completions", json=body("p", 3, stream=stream)) as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"] == "1"
                assert (await answer.json())["error"]["code"] == "no_server_ready"


# --- deadlines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_token_has_a_deadline(tmp_path: Path, http: aiohttp.ClientSession, stream: bool) -> None:
    with serving(tmp_path, {"context-0": [NEVER], "generation-0": []}, first_token_timeout_s=0.3) as cluster:
        status, _, error = await complete(cluster, http, "late", 3, stream=stream)
        assert status == 504
        assert error is not None
        assert error["code"] == "deadline_exceeded"
        await until_all_is_over(cluster["context-0"], "context")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_clients_deadline_holds_where_servers_know_none(
    tmp_path: Path, http: aiohttp.ClientSession, stream: bool
) -> None:
    engines = {"context-0": ["--foreign"], "generation-0": ["--foreign", "--token-delay-ms=100"]}
    with serving(tmp_path, engines) as cluster:
        asked = {**body("for long", 2000, stream=stream), "timeout": 0.5}
        async with http.post(f"{cluster.url}/v1/completions", json=asked) as answer:
            assert "deadline_exceeded" in await answer.text()
        await until_all_is_over(cluster["generation-0"], "generation")


async def test_silence_in_a_stream_has_a_deadline(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """Silent after three tokens; or before, where this machine is."""
    with serving(tmp_path, {"generation-0": ["--silent-at-token=3"]}, idle_timeout_s=0.5) as cluster:
        _, text, error = await complete(cluster, http, "silent", 2000)
        assert words.answer("silent", 3).startswith(text)
        assert error is not None
        assert "generation-0: no token came in time" in error["message"]
        await cluster["generation-0"].wait("cancelled")


async def test_silence_before_generations_first_token_is_tried_elsewhere(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    engines = {"context-0": [], "generation-0": ["--hold-generation"], "generation-1": []}
    with serving(tmp_path, engines, idle_timeout_s=3.0) as cluster:
        for i in range(2):
            assert await complete(cluster, http, f"p{i}", 6) == (200, words.answer(f"p{i}", 6), None)
        state = await cluster["generation-0"].wait("cancelled")
        assert state["fetched"] == 1
        assert cluster["generation-1"].state()["recomputed"] == 1


async def test_a_whole_answer_may_take_as_long_as_its_server_is_there(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    engines = {"context-0": [], "generation-0": ["--hold-generation"]}
    with serving(tmp_path, engines, idle_timeout_s=0.2, first_token_timeout_s=FIRST_TOKEN_S) as cluster:
        asking = asyncio.create_task(complete(cluster, http, "slow", 16, stream=False))
        await cluster["generation-0"].wait("fetched")
        await asyncio.sleep(FIRST_TOKEN_S)  # the time that is over
        cluster["generation-0"].ask("go", {})
        assert await asking == (200, words.answer("slow", 16), None)


# --- servers that freeze --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frozen", "flag", "stream"),
    [("context", NEVER, True), ("generation", "--hold-generation", False), ("generation", "--hold-generation", True)],
)
async def test_who_awaits_a_frozen_server_is_asked_elsewhere_once_it_is_listed_no_more(
    tmp_path: Path, http: aiohttp.ClientSession, frozen: str, flag: str, stream: bool
) -> None:
    engines: dict[str, Sequence[str]] = {"context-0": [], "generation-0": [], f"{frozen}-1": [flag]}
    with serving(tmp_path, engines) as cluster:
        server = cluster[f"{frozen}-1"]
        asking = [asyncio.create_task(complete(cluster, http, f"p{i}", 6, stream=stream)) for i in range(2)]
        await server.wait("running" if frozen == "context" else "fetched")
        server.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(cluster.tell, cluster["context-0"].member, cluster["generation-0"].member)
        assert await asyncio.gather(*asking) == [(200, words.answer(f"p{i}", 6), None) for i in range(2)]
        assert "is silent: its requests are asked elsewhere" in cluster.proxy.log.read_text()


async def test_who_awaits_a_server_that_has_left_and_answers_health_goes_on_waiting(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    engines = {"context-0": ["--token-delay-ms=3000"], "generation-0": []}
    with serving(tmp_path, engines) as cluster:
        asking = asyncio.create_task(complete(cluster, http, "patient", 3))
        await cluster["context-0"].wait("running")
        await asyncio.to_thread(cluster.tell, cluster["generation-0"].member)
        assert await asking == (200, words.answer("patient", 3), None)
        assert cluster["context-0"].state()["context"] == 1


async def test_a_frozen_server_with_a_fixed_address_is_out_and_comes_back(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    engines = {"both-0": [], "both-1": ["--hold-generation"]}
    with serving(tmp_path, engines, fixed=True) as cluster:
        frozen = cluster["both-1"]
        asking = [asyncio.create_task(complete(cluster, http, f"p{i}", 3)) for i in range(2)]
        await frozen.wait("running")
        frozen.process.send_signal(signal.SIGSTOP)
        while await metric(cluster, http, "trtdisagg_proxy_server_up") == 2:
            await asyncio.sleep(0.02)
        assert await asyncio.gather(*asking) == [(200, words.answer(f"p{i}", 3), None) for i in range(2)]
        frozen.process.send_signal(signal.SIGCONT)
        while await metric(cluster, http, "trtdisagg_proxy_server_up") < 2:
            await asyncio.sleep(0.02)


# --- servers that speak only upstream's protocol --------------------------------------------------------------------


@pytest.mark.parametrize("roles", [("context-0",), ("generation-0",), ("context-0", "generation-0")])
async def test_with_a_foreign_server_no_token_comes_twice(
    tmp_path: Path, http: aiohttp.ClientSession, roles: tuple[str, ...]
) -> None:
    engines = {name: ["--foreign"] if name in roles else [] for name in ("context-0", "generation-0")}
    with serving(tmp_path, engines) as cluster:
        for stream in (False, True):
            assert await complete(cluster, http, "abroad", 5, stream=stream) == (200, words.answer("abroad", 5), None)
            assert await complete(cluster, http, "one", 1, stream=stream) == (200, words.answer("one", 1), None)
            for name, leg in (("context-0", "context"), ("generation-0", "generation")):
                assert "seam" not in cluster[name].state()["bodies"][leg]


@pytest.mark.parametrize("stream", [False, True])
async def test_with_a_foreign_server_both_legs_are_asked_again(
    tmp_path: Path, http: aiohttp.ClientSession, stream: bool
) -> None:
    engines = {"context-0": ["--foreign"], "generation-0": ["--foreign", "--fail-generation=1"]}
    with serving(tmp_path, engines) as cluster:
        assert await complete(cluster, http, "abroad", 5, stream=stream) == (200, words.answer("abroad", 5), None)
        assert cluster["context-0"].state()["context"] == 2
        assert cluster["generation-0"].state()["fetched"] == 1
        assert len(cluster["context-0"].state()["held_tickets"]) == 1, "the first one's goes with its lease"
