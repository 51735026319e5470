"""OpenAI's own client against the proxy: its errors are those it has types for, its retries and time-outs work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from fakes import words
from helpers.serving import DEADLINE_S, MODEL, Serving, serving
from openai.types.chat import ChatCompletionMessageParam

pytestmark = pytest.mark.anyio

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    engines: dict[str, list[str]] = {"context-0": [], "generation-0": ["--token-delay-ms", "1"]}
    with serving(tmp_path_factory.mktemp("openai"), engines, max_body_bytes=10_000) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Do it in a thread; the result waits for it and gives what it gave."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()

    def result() -> Any:
        thread.join(DEADLINE_S)
        assert results, "it failed, or is not done"
        return results[0]

    return result


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "kind", "status", "param"),
    [
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, 400, "temprature"),
        ({"temperature": -1}, openai.BadRequestError, 400, "temperature"),
        ({"extra_body": {"seam": {"id": "x", "created": 1}}}, openai.BadRequestError, 400, "seam"),
        ({"model": "nobody"}, openai.NotFoundError, 404, "model"),
        ({"messages": [{"role": "user", "content": "x" * 10_000}]}, openai.APIStatusError, 413, None),
        ({"extra_headers": {"Content-Encoding": "gzip"}}, openai.APIStatusError, 415, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_types(
    client: openai.OpenAI, fields: dict[str, Any], kind: type[openai.APIStatusError], status: int, param: str | None,
    stream: bool,
) -> None:  # fmt: skip
    with pytest.raises(kind) as e:
        client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "stream": stream, **fields})
    assert e.value.status_code == status
    assert e.value.request_id == e.value.response.headers["X-Request-Id"]
    if param is not None:
        assert e.value.param == param


def test_a_route_that_is_not_there(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as e:
        client.embeddings.create(model=MODEL, input="x")
    assert e.value.code == "not_found"


def test_a_model_is_found_by_name(client: openai.OpenAI) -> None:
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/nobody")


# --- retries --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One server, one request at once."""
    with serving(tmp_path_factory.mktemp("alone"), {"both-0": []}, max_in_flight=1) as cluster:
        yield cluster


def test_503_is_asked_again_when_the_answer_says(alone: Serving) -> None:
    member = alone["both-0"].member
    alone.tell(needs={MODEL: ["context", "generation"]})
    with openai.OpenAI(base_url=f"{alone.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as e:
            client.completions.create(model=MODEL, prompt="hello", max_tokens=3)
        assert (e.value.status_code, e.value.response.headers["Retry-After"]) == (503, "1")
        patient, seen = client.with_options(max_retries=5), threading.Event()
        patient._client.event_hooks["response"].append(lambda answer: seen.set())
        answer = in_background(lambda: patient.completions.create(model=MODEL, prompt="hello", max_tokens=3))
        assert seen.wait(DEADLINE_S)
        alone.tell(member)
        assert answer().choices[0].text == words.answer("hello", 3)


def test_429_is_asked_again_when_the_answer_says(alone: Serving) -> None:
    with openai.OpenAI(base_url=f"{alone.url}/v1", api_key="none", max_retries=0) as client:
        alone["both-0"].ask("hold", {})
        first = in_background(lambda: client.completions.create(model=MODEL, prompt="first", max_tokens=3))
        alone["both-0"].ask("wait?name=running&at_least=1")
        with pytest.raises(openai.RateLimitError) as e:
            client.completions.create(model=MODEL, prompt="second", max_tokens=3)
        assert e.value.response.headers["Retry-After"] == "1"
        patient, seen = client.with_options(max_retries=5), threading.Event()
        patient._client.event_hooks["response"].append(lambda answer: seen.set())
        second = in_background(lambda: patient.completions.create(model=MODEL, prompt="second", max_tokens=3))
        assert seen.wait(DEADLINE_S)
        alone["both-0"].ask("go", {})
        assert first().choices[0].text == words.answer("first", 3)
        assert second().choices[0].text == words.answer("second", 3)


def test_400_is_not_asked_again(cluster: Serving) -> None:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=5) as client:
        asked: list[int] = []
        client._client.event_hooks["response"].append(lambda answer: asked.append(answer.status_code))
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model=MODEL, prompt="hello", temperature=-1)
    assert asked == [400]


# --- streams --------------------------------------------------------------------------------------------------------


async def test_a_stream_that_is_closed_early_ends_on_the_server(cluster: Serving) -> None:
    """The first token is the context server's; the rest does not come before the client has left."""
    before = cluster["generation-0"].state()["cancelled"]
    cluster["generation-0"].ask("hold", {})
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=3000, stream=True)
        async with stream:
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
        await cluster["generation-0"].wait("cancelled", before + 1)
        cluster["generation-0"].ask("go", {})
        answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=3)
        assert answer.choices[0].message.content == words.chat_answer(MESSAGES, 3)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_has_waited_long_enough_ends_it_on_the_server(alone: Serving, stream: bool) -> None:
    """Where it has come so far: a client may have given up before anybody was asked."""
    before = alone["both-0"].state()
    alone["both-0"].ask("hold", {})
    async with openai.AsyncOpenAI(base_url=f"{alone.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.completions.create(model=MODEL, prompt="x", max_tokens=3, stream=stream, timeout=0.5)
        while (now := alone["both-0"].state())["running"]:
            await asyncio.sleep(0.02)
        assert now["cancelled"] - before["cancelled"] == now["aggregated"] - before["aggregated"] <= 1
        alone["both-0"].ask("go", {})
        answer = await client.with_options(max_retries=5).completions.create(model=MODEL, prompt="x", max_tokens=3)
        assert answer.choices[0].text == words.answer("x", 3)


async def test_fifty_streams_at_once_are_each_whole(cluster: Serving) -> None:
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:

        async def ask(number: int) -> str:
            stream = await client.completions.create(
                model=MODEL, prompt=f"prompt {number}", max_tokens=20 + number, stream=True,
                stream_options={"include_usage": True},
            )  # fmt: skip
            chunks = [chunk async for chunk in stream]
            assert len({chunk.id for chunk in chunks}) == 1
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens == 20 + number
            return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)

        said = await asyncio.gather(*map(ask, range(50)))
    assert said == [words.answer(f"prompt {number}", 20 + number) for number in range(50)]
