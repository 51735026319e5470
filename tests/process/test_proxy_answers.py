"""What clients get from a real proxy in front of real (fake) engines, when nothing goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from fakes import words
from helpers.serving import DEADLINE_S, MODEL, Serving, serving

pytestmark = pytest.mark.anyio

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("serving"), {"context-0": [], "generation-0": []}) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def nothing_is_left(cluster: Serving) -> Iterator[None]:
    yield
    for engine in cluster.engines.values():
        state = engine.state()
        assert (state["running"], state["held_tickets"]) == (0, [])


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def client(cluster: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
        yield client


# --- the openai client ----------------------------------------------------------------------------------------------


def test_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="hello", max_tokens=5)
    assert answer.choices[0].text == words.answer("hello", 5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 5)
    assert answer.id.startswith("cmpl-")


def test_streamed_completion(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model=MODEL, prompt="hello", max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == words.answer("hello", 5)
    assert len({c.id for c in chunks}) == 1
    assert len({c.created for c in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=7)
    assert answer.choices[0].message.content == words.chat_answer(MESSAGES, 7)
    assert answer.choices[0].message.role == "assistant"
    assert answer.id.startswith("chatcmpl-")


def test_streamed_chat(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=7, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == words.chat_answer(MESSAGES, 7)
    assert [c.choices[0].delta.role for c in chunks].count("assistant") == 1
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len({c.id for c in chunks}) == 1


def test_models(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == [MODEL]


def test_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as e:
        client.completions.create(model="nobody", prompt="hello")
    assert e.value.code == "model_not_found"


# --- legs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_both_legs_are_one_request(cluster: Serving, http: aiohttp.ClientSession, stream: bool) -> None:
    fields = {"model": MODEL, "prompt": "two legs", "max_tokens": 4, "stop": ["never"], "stream": stream}
    if stream:
        fields["stream_options"] = {"include_usage": True}
    headers = {"X-Request-Id": f"my-{stream}"}
    async with http.post(f"{cluster.url}/v1/completions", json=fields, headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["X-Request-Id"] == f"my-{stream}"
        await answer.read()
    context, generation = cluster["context-0"].state(), cluster["generation-0"].state()
    first, second = context["bodies"]["context"], generation["bodies"]["generation"]
    assert first["seam"]["id"] == second["seam"]["id"]
    assert first["seam"]["created"] == second["seam"]["created"]
    assert first["seed"] == second["seed"]
    assert first["stream"] is False
    assert "stream_options" not in first
    assert first["disaggregated_params"]["request_type"] == "context_only"
    assert first["disaggregated_params"]["disagg_request_id"] >= 2**40
    assert second["disaggregated_params"]["request_type"] == "generation_only"
    assert second["prompt"] == list(b"two legs")
    assert second["stop"] == ["never"]
    assert second["stream"] is stream
    num_sent = second["seam"].get("num_chars_sent", 0)
    assert num_sent == (len(words.answer("two legs", 1)) if stream else 0)
    for state, leg in ((context, "context"), (generation, "generation")):
        assert state["headers"][leg]["X-Request-Id"] == f"my-{stream}"


async def test_the_clients_seed_is_kept(cluster: Serving, http: aiohttp.ClientSession) -> None:
    async with http.post(
        f"{cluster.url}/v1/completions", json={"model": MODEL, "prompt": "s", "max_tokens": 2, "seed": 7}
    ) as answer:
        assert answer.status == 200
    assert cluster["context-0"].state()["bodies"]["context"]["seed"] == 7
    assert cluster["generation-0"].state()["bodies"]["generation"]["seed"] == 7


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_one_token_needs_no_generation(
    cluster: Serving, http: aiohttp.ClientSession, chat: bool, stream: bool
) -> None:
    before = cluster["generation-0"].state()["generation"]
    body = {"model": MODEL, "max_tokens": 1, "stream": stream}
    body |= {"messages": MESSAGES} if chat else {"prompt": "one"}
    if stream:
        body["stream_options"] = {"include_usage": True}
    path = "/v1/chat/completions" if chat else "/v1/completions"
    async with http.post(cluster.url + path, json=body) as answer:
        text = await answer.text()
    expected = words.chat_answer(MESSAGES, 1) if chat else words.answer("one", 1)
    if stream:
        chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        choices = [c["choices"][0] for c in chunks if c["choices"]]
        got = "".join(c["delta"].get("content", "") if chat else c["text"] for c in choices)
        assert choices[-1]["finish_reason"] == "length"
        assert chunks[-1]["usage"]["completion_tokens"] == 1
        assert text.endswith("data: [DONE]\n\n")
    else:
        whole = json.loads(text)
        choice = whole["choices"][0]
        got = choice["message"]["content"] if chat else choice["text"]
        assert choice["finish_reason"] == "length"
        assert whole["usage"]["completion_tokens"] == 1
        assert not {"prompt_token_ids", "seam"} & whole.keys()
        assert "disaggregated_params" not in choice
    assert got == expected
    assert cluster["generation-0"].state()["generation"] == before


async def test_the_first_chunk_does_not_wait_for_generation(cluster: Serving, http: aiohttp.ClientSession) -> None:
    generation = cluster["generation-0"]
    generation.ask("hold", {})
    body = {"model": MODEL, "prompt": "first", "max_tokens": 3, "stream": True}
    async with asyncio.timeout(DEADLINE_S), http.post(f"{cluster.url}/v1/completions", json=body) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        line = await answer.content.readline()
        assert json.loads(line[6:])["choices"][0]["text"] == words.answer("first", 1)
        generation.ask("go", {})
        rest = (await answer.content.read()).decode()
    later = [line for line in rest.splitlines() if line.startswith("data: {")]
    texts = [json.loads(line[6:])["choices"][0]["text"] for line in later]
    assert words.answer("first", 1) + "".join(texts) == words.answer("first", 3)


async def test_64_streams_at_once_are_not_mixed_up(cluster: Serving, http: aiohttp.ClientSession) -> None:
    async def one(i: int) -> None:
        prompt, num_tokens = f"prompt number {i}", 2 + i % 23
        body = {"model": MODEL, "prompt": prompt, "max_tokens": num_tokens, "stream": True}
        async with http.post(f"{cluster.url}/v1/completions", json=body) as answer:
            lines = (await answer.text()).split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        text = "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines[:-2])
        assert text == words.answer(prompt, num_tokens)

    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(one(i) for i in range(64)))


@pytest.mark.parametrize("wish", [b"", b"Connection: keep-alive\r\n"])
async def test_an_http_1_0_client_is_streamed_to_without_chunks(cluster: Serving, wish: bytes) -> None:
    body = json.dumps({"model": MODEL, "prompt": "old", "max_tokens": 3, "stream": True}).encode()
    host, port = cluster.proxy.url.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/completions HTTP/1.0\r\n%bContent-Length: %d\r\n\r\n%b" % (wish, len(body), body))
    head, _, text = (await asyncio.wait_for(reader.read(), DEADLINE_S)).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert b"chunked" not in head
    assert text.startswith(b"data: {")
    assert text.endswith(b"data: [DONE]\n\n")


async def test_a_client_that_asks_before_it_sends_its_body(cluster: Serving) -> None:
    body = json.dumps({"model": MODEL, "prompt": "may I", "max_tokens": 2}).encode()
    host, port = cluster.proxy.url.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(DEADLINE_S):
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert words.answer("may I", 2).encode() in answer


@pytest.mark.parametrize("fields", [{"n": 2}, {"echo": True}, {"prompt_logprobs": 0}, {"prompt": ["a", "b"], "n": 1}])
async def test_what_is_not_handed_over_goes_to_one_server(
    cluster: Serving, http: aiohttp.ClientSession, fields: dict[str, Any]
) -> None:
    before = cluster["context-0"].state()["context"], cluster["generation-0"].state()["aggregated"]
    async with http.post(f"{cluster.url}/v1/completions", json={"model": MODEL, "prompt": "p", **fields}) as answer:
        await answer.read()  # what the fake makes of it is not looked at
    after = cluster["context-0"].state()["context"], cluster["generation-0"].state()["aggregated"]
    assert after[0] == before[0]
    sent = cluster["generation-0"].state()["bodies"].get("aggregated", {})
    if "prompt" not in fields:
        assert after[1] == before[1] + 1
        assert "disaggregated_params" not in sent


async def test_a_deadline_by_header_reaches_both_legs(cluster: Serving, http: aiohttp.ClientSession) -> None:
    headers = {"X-Request-Timeout": "30"}
    body = {"model": MODEL, "prompt": "in time", "max_tokens": 3}
    async with http.post(f"{cluster.url}/v1/completions", json=body, headers=headers) as answer:
        assert answer.status == 200
    first = cluster["context-0"].state()["bodies"]["context"]["timeout"]
    second = cluster["generation-0"].state()["bodies"]["generation"]["timeout"]
    assert 30 > first > second > 0
    async with http.post(f"{cluster.url}/v1/completions", json=body, headers={"X-Request-Timeout": "0"}) as answer:
        assert (answer.status, (await answer.json())["error"]["param"]) == (400, "X-Request-Timeout")


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temprature": 1}, "temprature"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"suffix": "x"}, "suffix"),
        ({"prompt_token_ids": [1]}, "prompt_token_ids"),
        ({"seam": {"id": "x", "created": 1}}, "seam"),
        ({"disaggregated_params": {"request_type": "generation_only"}}, "disaggregated_params"),
        ({"prompt": ""}, "prompt"),
        ({"max_tokens": 100_000}, "prompt"),
    ],
)
async def test_a_wrong_field_is_a_400_that_names_it(
    cluster: Serving, http: aiohttp.ClientSession, change: dict[str, Any], param: str
) -> None:
    body = {"model": MODEL, "prompt": "p", **change}
    async with http.post(f"{cluster.url}/v1/completions", json=body) as answer:
        error = (await answer.json())["error"]
    assert answer.status == 400
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]


async def test_null_for_what_only_servers_may_send_is_nothing(cluster: Serving, http: aiohttp.ClientSession) -> None:
    body = {"model": MODEL, "prompt": "p", "max_tokens": 2, "seam": None, "prompt_token_ids": None, "seed": None}
    async with http.post(f"{cluster.url}/v1/completions", json=body) as answer:
        assert (await answer.json())["choices"][0]["text"] == words.answer("p", 2)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"model": 5}', b"\xff\xfe"])
async def test_a_broken_body_is_a_400(cluster: Serving, http: aiohttp.ClientSession, body: bytes) -> None:
    async with http.post(f"{cluster.url}/v1/chat/completions", data=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/completions", 404, "not_found"),
        ("POST", "/", 404, "not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
    ],
)
async def test_wrong_routes_are_refused_in_openais_form(
    cluster: Serving, http: aiohttp.ClientSession, method: str, path: str, status: int, code: str
) -> None:
    async with http.request(method, cluster.url + path) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]["code"] == code


# --- pages ----------------------------------------------------------------------------------------------------------


async def test_pages(cluster: Serving, http: aiohttp.ClientSession) -> None:
    for path in ("/health", "/readyz", "/livez"):
        async with http.get(cluster.url + path) as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
    async with http.get(f"{cluster.url}/version") as answer:
        assert (await answer.json())["version"]
    async with http.head(f"{cluster.url}/health") as answer:
        assert answer.status == 200


async def test_metrics_count_what_happened(cluster: Serving, http: aiohttp.ClientSession) -> None:
    async def value(line: str) -> float:
        async with http.get(f"{cluster.url}/metrics") as answer:
            found = [t.rpartition(" ")[2] for t in (await answer.text()).splitlines() if t.startswith(line + " ")]
        return float(found[0]) if found else 0.0

    answered = f'trtdisagg_proxy_requests_total{{model="{MODEL}",route="/v1/completions",status="200"}}'
    unknown = 'trtdisagg_proxy_requests_total{model="",route="/v1/completions",status="404"}'
    first_tokens = f'trtdisagg_proxy_time_to_first_token_seconds_count{{model="{MODEL}"}}'
    names = (answered, unknown, first_tokens)
    before = [await value(name) for name in names]
    for model, stream in ((MODEL, False), (MODEL, True), ("made up", False)):
        body = {"model": model, "prompt": "p", "max_tokens": 2, "stream": stream}
        async with http.post(f"{cluster.url}/v1/completions", json=body) as answer:
            await answer.read()
    after = [await value(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 1]
    assert await value("trtdisagg_proxy_requests_in_flight") == 0
    up = f'trtdisagg_proxy_server_up{{model="{MODEL}",role="context",server="context-0"}}'
    assert await value(up) == 1
    async with http.get(f"{cluster.url}/metrics/targets") as answer:
        told = {address for target in await answer.json() for address in target["targets"]}
    assert told == {engine.member.url for engine in cluster.engines.values()}


def test_the_socket_for_members_is_for_its_user_alone(cluster: Serving, tmp_path: Path) -> None:
    assert cluster.socket is not None
    assert Path(cluster.socket).stat().st_mode & 0o777 == 0o600
