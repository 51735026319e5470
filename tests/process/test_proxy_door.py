"""What clients may say and are told at the door of a real proxy in front of (fake) engines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from helpers.serving import DEADLINE_S, MODEL, Serving, serving

pytestmark = pytest.mark.anyio

COMPLETIONS = "/v1/completions"
BODY: dict[str, Any] = {"model": MODEL, "prompt": "hello", "max_tokens": 4}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("door"), {"context-0": [], "generation-0": []}) as cluster:
        yield cluster


@pytest.fixture
async def http(cluster: Serving) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cluster.url, timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:
        yield session


def served_by(answer: aiohttp.ClientResponse) -> tuple[str | None, str | None]:
    return answer.headers.get("x-trtdisagg-context"), answer.headers.get("x-trtdisagg-generation")


# --- which servers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, ("context-0", "generation-0")), ({"max_tokens": 1}, ("context-0", None)), ({"n": 2}, (None, "generation-0"))],
)
async def test_an_answer_names_the_servers_that_did_it(
    http: aiohttp.ClientSession, fields: dict[str, Any], expected: tuple[str | None, str | None], stream: bool
) -> None:
    async with http.post(COMPLETIONS, json={**BODY, **fields, "stream": stream}) as answer:
        assert answer.status == 200
        assert served_by(answer) == expected
        await answer.read()


async def test_the_servers_of_a_retry_are_those_that_did_it(tmp_path: Path) -> None:
    """Generation begins elsewhere. A stream's head, which went out with the first token, says who was asked then."""
    engines = {"context-0": [], "generation-0": ["--fail-generation", "8"], "generation-1": []}
    with serving(tmp_path, engines) as cluster:
        async with aiohttp.ClientSession(cluster.url) as http:
            said = {}
            for stream in (False, True):
                for _ in range(2):
                    async with http.post(COMPLETIONS, json={**BODY, "stream": stream}) as answer:
                        assert answer.status == 200
                        said.setdefault(stream, set()).add(served_by(answer))
                        await answer.read()
    assert said[False] == {("context-0", "generation-1")}
    assert said[True] == {("context-0", "generation-0"), ("context-0", "generation-1")}


async def test_a_refusal_names_the_servers_that_were_asked(tmp_path: Path) -> None:
    with serving(
        tmp_path, {"context-0": ["--fail-context", "1", "--fail-status", "422"], "generation-0": []}
    ) as cluster:
        async with aiohttp.ClientSession(cluster.url) as http, http.post(COMPLETIONS, json=BODY) as answer:
            assert (answer.status, served_by(answer)) == (422, ("context-0", "generation-0"))


# --- what a client cannot pass --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["disaggregated_params", "seam", "prompt_token_ids"])
@pytest.mark.parametrize("form", ["plain", "escaped", "first of two", "last of two", "null"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_between_servers_is_not_for_clients(
    cluster: Serving, http: aiohttp.ClientSession, name: str, form: str, stream: bool
) -> None:
    """In whatever spelling it comes: it is refused, or it is not there."""
    values = {"disaggregated_params": {"request_type": "generation_only"}, "seam": {"id": "x", "created": 1}}
    value = json.dumps(values.get(name, [1, 2, 3]))
    escaped = f"\\u{ord(name[0]):04x}{name[1:]}"
    fields = {
        "plain": f'"{name}": {value}',
        "escaped": f'"{escaped}": {value}',
        "first of two": f'"{escaped}": {value}, "{name}": null',
        "last of two": f'"{name}": null, "{escaped}": {value}',
        "null": f'"{name}": null',
    }[form]
    body = f"{json.dumps({**BODY, 'stream': stream})[:-1]}, {fields}}}"
    async with http.post(COMPLETIONS, data=body) as answer:
        if form in ("first of two", "null"):
            assert answer.status == 200
            await answer.read()
        else:
            assert answer.status == 400
            assert (await answer.json())["error"]["param"] == name
    seen = [body for engine in cluster.engines.values() for body in engine.state()["bodies"].values()]
    assert seen or answer.status == 400
    for leg in seen:
        assert leg.get("seam", {}).get("id") != "x"
        assert leg.get("prompt_token_ids") is None
        assert leg.get("disaggregated_params", {}).get("disagg_request_id", 2**40) >= 2**40


async def test_of_a_field_that_stands_twice_the_last_counts_for_proxy_and_servers(
    cluster: Serving, http: aiohttp.ClientSession
) -> None:
    first = '"model": "nobody", "prompt": "a", "max_tokens": 9'
    body = f'{{{first}, "max_toke\\u006es": 3, "model": "{MODEL}", "prompt": "b"}}'
    async with http.post(COMPLETIONS, data=body) as answer:
        assert (await answer.json())["usage"]["completion_tokens"] == 3
    context = cluster["context-0"].state()["bodies"]["context"]
    assert (context["model"], context["prompt"], context["max_tokens"]) == (MODEL, "b", 3)


async def test_a_clients_headers_do_not_reach_servers(cluster: Serving, http: aiohttp.ClientSession) -> None:
    told = {
        "Authorization": "Bearer of-the-client",
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "x",
        "Cookie": "x=y",
        "X-Forwarded-For": "6.6.6.6",
        "x-trtdisagg-context": "made-up",
        "X-Request-Id": "mine",
    }
    async with http.post(COMPLETIONS, json=BODY, headers=told) as answer:
        assert served_by(answer) == ("context-0", "generation-0")
        await answer.read()
    for name, leg in (("context-0", "context"), ("generation-0", "generation")):
        headers = cluster[name].state()["headers"][leg]
        assert headers["X-Request-Id"] == "mine"
        assert {h.lower() for h in headers} <= {"host", "x-request-id", "content-type", "content-length"}
