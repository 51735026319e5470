"""A load on an endpoint that answers as it should: what is asked, when, by how many, and what is told of it."""

from __future__ import annotations

import asyncio
import itertools
import resource
from collections.abc import Iterator
from typing import Any

import pytest
from fakes.openai_endpoint import Endpoint, never, refused, streamed, whole
from msgspec.structs import replace

from trtdisagg.bench.program import MeasureError
from trtdisagg.bench.serve.asked import Asked, Message
from trtdisagg.bench.serve.load import Load
from trtdisagg.bench.serve.outcome import Progress
from trtdisagg.bench.serve.report import ServeReport
from trtdisagg.bench.serve.run import find_model, run_load
from trtdisagg.errors import ConfigError

pytestmark = pytest.mark.anyio


class Questions:
    """One turn each, or as many as are wanted; a turn says what was answered before it."""

    def __init__(self, *, num_turns: int = 1, num_tokens: int = 4, num_there: int | None = None) -> None:
        self._num_turns = num_turns
        self._num_tokens = num_tokens
        self._num_there = num_there

    def opening(self) -> Iterator[Asked]:
        numbers = itertools.count() if self._num_there is None else range(self._num_there)
        for number in numbers:
            yield Asked(prompt=f"question {number}", max_tokens=self._num_tokens, conversation=number)

    def reply(self, asked: Asked, answer: str) -> Asked | None:
        if asked.turn + 1 == self._num_turns:
            return None
        return replace(asked, prompt=f"{asked.prompt},{answer}", turn=asked.turn + 1)


async def run(at: Endpoint, workload: Any = None, **said: Any) -> ServeReport:
    load = Load(**{"url": at.url, "num_prompts": 3, "timeout_s": 20, **said})
    return await run_load(load, workload or Questions())


async def test_a_closed_loop_asks_all_and_no_more_at_once_than_it_should() -> None:
    three_there = asyncio.Barrier(3)

    async def answer(body: dict[str, Any], connection: Any) -> Any:
        await three_there.wait()
        return await streamed()(body, connection)

    async with Endpoint(answer) as endpoint:
        report = await run(endpoint, num_prompts=12, concurrency=3)
        assert [body["prompt"] for body in endpoint.asked] == [f"question {i}" for i in range(12)]
        assert endpoint.most_at_once == 3
        assert endpoint.num_connections <= 4
    assert (report.completed, report.failed, report.model_id) == (12, 0, "fake-model")
    assert (report.total_input_tokens, report.total_output_tokens) == (24, 48)
    assert report.mean_e2el_ms is not None
    assert report.mean_ttft_ms is not None
    assert report.mean_e2el_ms >= report.mean_ttft_ms > 0
    assert report.warnings == [w for w in report.warnings if "could not keep up" in w]


async def test_what_a_request_is() -> None:
    async with Endpoint(streamed()) as endpoint:
        await run(endpoint, num_prompts=1, endpoint="chat", ignore_eos=True, extra_body={"temperature": 0.5})
        assert endpoint.asked == [
            {
                "messages": [{"role": "user", "content": "question 0"}],
                "max_tokens": 4,
                "model": "fake-model",
                "stream": True,
                "temperature": 0.5,
                "ignore_eos": True,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            }
        ]


async def test_without_streams_there_is_one_time_only() -> None:
    async def answer(body: dict[str, Any], _: object) -> Any:
        return whole(body, 4)

    async with Endpoint(answer) as endpoint:
        report = await run(endpoint, is_streamed=False)
        assert all(not body["stream"] and "stream_options" not in body for body in endpoint.asked)
    assert (report.completed, report.total_output_tokens, report.mean_ttft_ms) == (3, 12, None)
    assert report.mean_e2el_ms


async def test_a_rate_alone_does_not_wait_for_answers() -> None:
    gate = asyncio.Event()
    async with Endpoint(streamed(gate=gate)) as endpoint:
        running = asyncio.create_task(run(endpoint, num_prompts=20, request_rate=1000.0))
        async with asyncio.timeout(60):
            while len(endpoint.asked) < 20:
                await asyncio.sleep(0.005)
        gate.set()
        assert (await running).completed == 20
        assert endpoint.most_at_once == 20


async def test_the_rate_is_kept() -> None:
    async with Endpoint(streamed(1)) as endpoint:
        report = await run(endpoint, num_prompts=11, request_rate=50.0, arrivals="constant")
    assert report.duration >= 10 / 50
    assert report.request_rate == 50.0


async def test_a_rate_that_is_not_kept_is_told() -> None:
    async def answer(body: dict[str, Any], connection: Any) -> Any:
        await asyncio.sleep(0.06)
        return await streamed(1)(body, connection)

    async with Endpoint(answer) as endpoint:
        report = await run(endpoint, num_prompts=4, request_rate=1000.0, concurrency=1)
    assert "the rate was not kept: conversations waited up to 0." in "".join(report.warnings)


async def test_conversations_hold_the_answers() -> None:
    async with Endpoint(streamed()) as endpoint:
        report = await run(endpoint, Questions(num_turns=3, num_tokens=2), num_prompts=2, concurrency=1)
        answer = ", t1 t2"
        assert [body["prompt"] for body in endpoint.asked] == [
            f"question {number}{answer * turn}" for number in (0, 1) for turn in (0, 1, 2)
        ]
    assert report.completed == 6


async def test_warm_up_asks_others_that_are_not_counted() -> None:
    seen: list[Progress] = []
    async with Endpoint(streamed()) as endpoint:
        load = Load(url=endpoint.url, num_prompts=3, num_warmups=2, concurrency=1)
        report = await run_load(load, Questions(), watch=seen.append)
        prompts = [body["prompt"] for body in endpoint.asked]
    assert prompts == [f"question {number}" for number in (3, 4, 0, 1, 2)]
    assert report.num_prompts == 3
    assert [now.num_prompts for now in seen if now.is_warmup][-1] == 2
    assert (seen[-1].num_ended, seen[-1].num_tokens, seen[-1].is_warmup) == (3, 12, False)


async def test_the_same_clients_leave_with_the_same_seed() -> None:
    cancelled = []
    for seed in (1, 1, 2):
        async with Endpoint(streamed()) as endpoint:
            report = await run(
                endpoint, Questions(num_tokens=6), num_prompts=40, concurrency=1, cancel_rate=0.5, seed=seed
            )
        assert report.cancelled + report.completed == 40
        cancelled.append((report.cancelled, report.total_output_tokens))
    assert 8 < cancelled[0][0] < 32
    assert cancelled[0] == cancelled[1] != cancelled[2]


async def test_stopped_it_tells_what_is_complete() -> None:
    stop = asyncio.Event()
    async with Endpoint(streamed()) as endpoint:

        async def answer(body: dict[str, Any], connection: Any) -> Any:
            if len(endpoint.asked) <= 2:
                return await streamed()(body, connection)
            stop.set()
            return await never(body, connection)

        endpoint.answer = answer
        report = await run_load(Load(url=endpoint.url, concurrency=1), Questions(), stop=stop)
        assert len(endpoint.asked) == 3
    assert (report.completed, report.failed) == (2, 0)
    assert "stopped with 1 requests on their way" in "".join(report.warnings)


async def test_stopped_before_anything() -> None:
    stop = asyncio.Event()
    async with Endpoint(streamed()) as endpoint:

        async def silent(*_: object) -> None:
            stop.set()
            await asyncio.Event().wait()

        endpoint.greeted = silent  # type: ignore[method-assign]
        with pytest.raises(MeasureError, match="before anything was measured"):
            await run_load(Load(url=endpoint.url), Questions(), stop=stop)


async def test_stopped_while_prompts_are_made() -> None:
    stop = asyncio.Event()

    class Slow(Questions):
        def opening(self) -> Iterator[Asked]:
            for asked in super().opening():
                assert asked.conversation < 100, "nobody listened"
                asyncio.get_running_loop().call_soon(stop.set)
                yield asked

    async with Endpoint(streamed()) as endpoint:
        with pytest.raises(MeasureError, match="before anything was measured"):
            await run_load(Load(url=endpoint.url, num_prompts=1000), Slow(), stop=stop)
        assert endpoint.asked == []


async def test_a_workload_that_has_less() -> None:
    async with Endpoint(streamed()) as endpoint:
        report = await run(endpoint, Questions(num_there=2))
        assert report.completed == 2
        assert "1 conversations less" in "".join(report.warnings)
        with pytest.raises(MeasureError, match="nothing to ask"):
            await run(endpoint, Questions(num_there=0))


@pytest.mark.parametrize(
    ("endpoint_name", "prompt"), [("completions", (Message(role="user", content="a"),)), ("chat", (1, 2))]
)
async def test_prompts_that_an_endpoint_does_not_take(endpoint_name: Any, prompt: Any) -> None:
    class Wrong(Questions):
        def opening(self) -> Iterator[Asked]:
            yield Asked(prompt=prompt, max_tokens=1)

    async with Endpoint(streamed()) as endpoint:
        with pytest.raises(ConfigError, match=f"--endpoint {'chat' if endpoint_name == 'completions' else 'comp'}"):
            await run(endpoint, Wrong(), endpoint=endpoint_name)


async def test_more_connections_than_this_process_may_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 128))
    async with Endpoint(streamed()) as endpoint:
        with pytest.raises(MeasureError, match=r"100 connections at once, and this process may open 128 files"):
            await run(endpoint, num_prompts=100)


async def test_the_model_is_found() -> None:
    async with Endpoint(streamed(), models=("a", "b")) as endpoint:
        with pytest.raises(MeasureError, match="has the models a, b; name one with --model"):
            await find_model(Load(url=endpoint.url))
        assert await find_model(Load(url=endpoint.url, model="b")) == "b"
    async with Endpoint(streamed(), models=()) as endpoint:
        with pytest.raises(MeasureError, match="has no model: it may still be starting"):
            await find_model(Load(url=endpoint.url))


async def test_options_that_an_endpoint_refuses_are_left_out() -> None:
    async with Endpoint(streamed()) as endpoint:
        well = endpoint.greeted

        async def greeted(body: dict[str, Any], connection: Any) -> Any:
            if "continuous_usage_stats" in body.get("stream_options", {}):
                return await refused(400, "unknown option")(body, connection)
            return await well(body, connection)

        endpoint.greeted = greeted  # type: ignore[method-assign]
        report = await run(endpoint)
        assert endpoint.asked[0]["stream_options"] == {"include_usage": True}
    assert report.total_output_tokens == 12


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "HTTP 400: no$"),
        (401, "HTTP 401: no; --api-key-file"),
        (404, "HTTP 404: no; there is --endpoint chat"),
        (503, "HTTP 503: no$"),
    ],
)
async def test_an_endpoint_that_refuses_the_first_words(status: int, words: str) -> None:
    async with Endpoint(streamed()) as endpoint:
        endpoint.greeted = refused(status)  # type: ignore[method-assign]
        with pytest.raises(MeasureError, match=words):
            await run(endpoint)
        assert not endpoint.asked


async def test_the_key_is_sent() -> None:
    async with Endpoint(streamed()) as endpoint:
        await run(endpoint, api_key="sk-123")
        assert endpoint.headers["Authorization"] == "Bearer sk-123"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"ramp_to": 3.0}, "give --request-rate"),
        ({"is_streamed": False, "cancel_rate": 0.1}, "--cancel-rate"),
        ({"is_streamed": False, "goodput": {"ttft": 1.0}}, "--goodput ttft"),
        ({"goodput": {"x": 1.0}}, "there are ttft, tpot"),
        ({"extra_body": {"max_tokens": 3}}, "--extra-body max_tokens: that is what --osl says"),
    ],
)
def test_loads_that_contradict_themselves(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Load(url="http://x", **said)
