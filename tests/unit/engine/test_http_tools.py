"""Calls of tools in answers: whole, in pieces, by one server and by two."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from helpers import tiny_tokenizer
from helpers.http_face import SPEC, http_face, parse_events
from helpers.streams import put_together

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
TEMPLATE = "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}" + tiny_tokenizer.CHAT_TEMPLATE
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
TALKS_TO_TOOLS: dict[str, Any] = {"chat_template": TEMPLATE, "spec": msgspec.structs.replace(SPEC, max_seq_len=700)}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
WISH: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL]}


async def answer(script: str, **fields: Any) -> Any:
    async with http_face(script, **TALKS_TO_TOOLS) as face:
        status, body = await face.post(PATH, {**WISH, **fields})
        assert status == 200, body
        return body


async def stream(script: str, **fields: Any) -> list[Any]:
    async with http_face(script, **TALKS_TO_TOOLS) as face:
        return await face.events(PATH, {**WISH, "stream": True, **fields})


def calls_of(message: Any) -> list[tuple[str, Any]]:
    calls = message.get("tool_calls", [])
    assert all(call["type"] == "function" and call["id"] for call in calls)
    assert len({call["id"] for call in calls}) == len(calls)
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


async def test_a_call() -> None:
    choice = (await answer(CALL))["choices"][0]
    assert choice["message"]["content"] is None
    assert calls_of(choice["message"]) == [("weather", {"city": "Oslo"})]
    assert choice["finish_reason"] == "tool_calls"


async def test_two_calls_behind_text() -> None:
    choice = (await answer("Well: " + CALL + CALL))["choices"][0]
    assert choice["message"]["content"] == "Well:"
    assert calls_of(choice["message"]) == [("weather", {"city": "Oslo"})] * 2
    choice = (await answer("Well: " + CALL + CALL, parallel_tool_calls=False))["choices"][0]
    assert len(calls_of(choice["message"])) == 1


async def test_text_alone() -> None:
    choice = (await answer("None."))["choices"][0]
    assert (choice["message"], choice["finish_reason"]) == ({"role": "assistant", "content": "None."}, "stop")
    choice = (await answer(CALL, tool_choice="none"))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")


async def test_a_call_that_is_cut_off() -> None:
    choice = (await answer(CALL, max_tokens=55))["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"


async def test_in_pieces() -> None:
    events = await stream("So " + CALL)
    parts = [c["delta"] for e in events[:-1] for c in e["choices"]]
    assert "".join(p.get("content") or "" for p in parts) == "So"
    called = [call for part in parts for call in part.get("tool_calls", [])]
    assert all(len(part.get("tool_calls", [])) <= 1 for part in parts)
    assert {call["index"] for call in called} == {0}
    assert [call["function"].get("name") for call in called if "id" in call] == ["weather"]
    assert json.loads("".join(call["function"].get("arguments", "") for call in called)) == {"city": "Oslo"}
    assert len(called) > 3
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_call_that_must_be(tool_choice: Any) -> None:
    async with http_face(CALL, **TALKS_TO_TOOLS) as face:
        _, body = await face.post(PATH, {**WISH, "tool_choice": tool_choice})
        (request,) = face.executor.requests
        assert request.guide is not None
        assert request.guide.kind == "grammar"
        assert calls_of(body["choices"][0]["message"]) == [("weather", {"city": "Oslo"})]
        status, body = await face.post(
            PATH, {**WISH, "tool_choice": tool_choice, "response_format": {"type": "json_object"}}
        )
        assert (status, body["error"]["param"]) == (400, "response_format")


async def test_the_model_is_told_of_them_only_where_it_may_call() -> None:
    async with http_face("a", **TALKS_TO_TOOLS) as face:
        await face.post(PATH, WISH)
        await face.post(PATH, {**WISH, "tool_choice": "none"})
        told, not_told = (len(r.prompt_token_ids) for r in face.executor.requests)
        assert told > not_told


async def test_a_model_that_knows_no_tools() -> None:
    async with http_face() as face:
        status, body = await face.post(PATH, WISH)
        assert (status, body["error"]["param"]) == (400, "tools")
        assert "tiny knows no tools" in body["error"]["message"]


@pytest.mark.parametrize("script", [CALL, "So " + CALL + CALL, "<tool_call> of nature", "plain"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_by_two_servers(script: str, streamed: bool) -> None:
    seam = {"id": "x", "created": 5, "stream": streamed}
    alone = (await answer(script, seam=seam))["choices"][0]
    first = await answer(script, seam=seam, disaggregated_params={"request_type": "context_only"})
    params = {**first["choices"][0]["disaggregated_params"], "request_type": "generation_only"}
    more = {"disaggregated_params": params, "prompt_token_ids": first["prompt_token_ids"], "stream": streamed}
    more["seam"] = {**seam, "num_chars_sent": first["seam"].get("num_chars_sent", 0)}
    async with http_face(script, **TALKS_TO_TOOLS) as face, face.session.post(PATH, json={**WISH, **more}) as said:
        text = await said.text()
        assert said.status == 200, text
    body = put_together(parse_events(first["seam"]["first_chunk"] + text)) if streamed else json.loads(text)
    choice = body["choices"][0]
    assert calls_of(choice["message"]) == calls_of(alone["message"])
    assert (choice["message"]["content"] or "") == (alone["message"]["content"] or "")
    assert choice["finish_reason"] == alone["finish_reason"]
