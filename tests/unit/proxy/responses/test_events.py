"""Whole or in events, cut wherever the network cuts: the same response, in the form that OpenAI's client knows."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response as OpenaiResponse
from openai.types.responses import ResponseStreamEvent

from trtdisagg.errors import UpstreamError
from trtdisagg.proxy.responses.asked import decode_asked
from trtdisagg.proxy.responses.events import Events
from trtdisagg.proxy.responses.said import respond

KNOWN: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}
LOGPROB = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}


def part(finish_reason: str | None = None, logprobs: list[Any] | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"choices": [{**choice, "logprobs": {"content": logprobs}} if logprobs is not None else choice]}


def call(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    first = {"id": f"call_{index}", "type": "function"} if name else {}
    return {"index": index, **first, "function": {"arguments": arguments, **({"name": name} if name else {})}}


OPENING = part(role="assistant", content="")
ENDING = {"choices": [], "usage": USAGE}
SAID = [OPENING, part(content="Hi", logprobs=[LOGPROB]), part(content=" there"), part("stop"), ENDING]
CUT = [OPENING, part(content="Hi"), part("length", content=" the"), ENDING]
CALLED = [
    OPENING,
    part(content="Let me see"),
    part(tool_calls=[call(0, '{"a"', "f")]),
    part(tool_calls=[call(0, ":1}")]),
    part(tool_calls=[call(1, "", "g")]),
    part(tool_calls=[call(1, "{}")]),
    part("tool_calls"),
    ENDING,
]
NOTHING = [OPENING, part("stop"), ENDING]
FAILED = [OPENING, part(content="Hi"), {"error": {"message": "It broke", "code": "upstream", "type": "x"}}]
STREAMS = {"said": SAID, "cut": CUT, "called": CALLED, "nothing": NOTHING, "failed": FAILED}


def sse(chunks: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in [*chunks]) + b"data: [DONE]\n\n"


def events_of(pieces: list[bytes]) -> list[Any]:
    events = Events(decode_asked(b'{"model":"m","input":"x"}').blank)
    stream = events.begin() + b"".join(map(events.feed, pieces))
    found = []
    for number, event in enumerate(stream.decode().split("\n\n")[:-1]):
        name, data = event.split("\n")
        known = KNOWN.validate_json(data.removeprefix("data: "))
        assert (name.removeprefix("event: "), number) == (known.type, known.sequence_number)
        found.append(known)
    return found


def plain(response: Any) -> Any:
    return {k: v for k, v in json.loads(response.model_dump_json()).items() if k not in ("id", "created_at")}


@given(st.sampled_from(sorted(STREAMS)), st.data())
def test_wherever_it_is_cut_it_is_the_same(name: str, data: st.DataObject) -> None:
    stream = sse(STREAMS[name])
    cuts = sorted({0, len(stream), *data.draw(st.lists(st.integers(0, len(stream)), max_size=8))})
    pieces = [stream[a:b] for a, b in itertools.pairwise(cuts)]
    cut, whole = ([e.type for e in events_of(them)] for them in (pieces, [stream]))
    assert cut == whole


def test_text() -> None:
    events = events_of([sse(SAID)])
    assert [e.type.removeprefix("response.") for e in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    response = events[-1].response
    assert response.output_text == "".join(e.delta for e in events if e.type.endswith("delta")) == "Hi there"
    assert (response.usage.input_tokens, response.usage.output_tokens) == (3, 4)
    assert response.usage.input_tokens_details.cached_tokens == 2
    assert response.output[0].content[0].logprobs[0].logprob == -0.5


def test_a_text_may_look_like_an_event() -> None:
    text = 'data: {"a": 1} and data: [DONE]'
    response = events_of([sse([OPENING, part(content=text), part("stop"), ENDING])])[-1].response
    assert (response.output_text, response.status) == (text, "completed")


@given(st.data())
def test_other_servers_end_their_lines_otherwise_and_say_that_they_live(data: st.DataObject) -> None:
    stream = (b": ping\n\n" + sse(SAID)).replace(b"\n", b"\r\n").replace(b"data: ", b"event: x\r\ndata:")
    cuts = sorted({0, len(stream), *data.draw(st.lists(st.integers(0, len(stream)), max_size=8))})
    response = events_of([stream[a:b] for a, b in itertools.pairwise(cuts)])[-1].response
    assert (response.output_text, response.status) == ("Hi there", "completed")


FOREIGN_USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": None}


def test_other_servers_say_null_and_reasons_of_their_own() -> None:
    message = {"role": "assistant", "content": "Hi", "tool_calls": None, "reasoning_content": None, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "abort", "matched_stop": None}
    body = {"id": "c", "choices": [choice], "usage": FOREIGN_USAGE, "prompt_logprobs": None}
    blank = decode_asked(b'{"model":"m","input":"x"}').blank
    whole = OpenaiResponse.model_validate_json(msgspec.json.encode(respond(blank, json.dumps(body).encode())))
    parts = [part(content="Hi", tool_calls=None), part("abort"), {"choices": [], "usage": FOREIGN_USAGE}]
    for response in (whole, events_of([sse(parts)])[-1].response):
        assert (response.output_text, response.status, response.usage.total_tokens) == ("Hi", "completed", 7)


def test_what_is_no_chat_is_the_servers_fault() -> None:
    blank = decode_asked(b'{"model":"m","input":"x"}').blank
    for body in (b"<html>", b"{}", b'{"choices":[]}'):
        with pytest.raises(UpstreamError):
            respond(blank, body)
    last = events_of([b"data: <html>\n\ndata: [DONE]\n\n"])[-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")


def test_calls_come_behind_text() -> None:
    response = events_of([sse(CALLED)])[-1].response
    said = [(item.type, item.status, getattr(item, "arguments", None)) for item in response.output]
    assert said == [
        ("message", "completed", None),
        ("function_call", "completed", '{"a":1}'),
        ("function_call", "completed", "{}"),
    ]
    assert [item.call_id for item in response.output[1:]] == ["call_0", "call_1"]


def test_too_long() -> None:
    response = events_of([sse(CUT)])[-1].response
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output[0].status == "incomplete"


def test_an_error_in_the_stream_is_a_failed_response() -> None:
    last = events_of([sse(FAILED)])[-1]
    assert (last.type, last.response.status, last.response.error.message) == ("response.failed", "failed", "It broke")
    assert last.response.output[0].content[0].text == "Hi"


@pytest.mark.parametrize("name", ["said", "cut", "called", "nothing"])
def test_the_whole_answer_is_the_last_event(name: str) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    reason, logprobs, calls = None, [], {}
    for chunk in STREAMS[name]:
        for choice in chunk["choices"]:
            message["content"] += choice["delta"].get("content") or ""
            logprobs += (choice.get("logprobs") or {}).get("content") or []
            for piece in choice["delta"].get("tool_calls", ()):
                made = calls.setdefault(piece["index"], {**piece, "function": {**piece["function"], "arguments": ""}})
                made["function"]["arguments"] += piece["function"]["arguments"]
            reason = choice["finish_reason"] or reason
    if calls:
        message["tool_calls"] = [{k: v for k, v in c.items() if k != "index"} for c in calls.values()]
    choice = {"index": 0, "message": message, "finish_reason": reason}
    if logprobs:
        choice["logprobs"] = {"content": logprobs}
    body = json.dumps({"id": "c", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}).encode()
    blank = decode_asked(b'{"model":"m","input":"x"}').blank
    whole = OpenaiResponse.model_validate_json(msgspec.json.encode(respond(blank, body)))
    assert plain(whole) == plain_ids(plain(events_of([sse(STREAMS[name])])[-1].response), plain(whole))


def plain_ids(response: Any, like: Any) -> Any:
    """With the ids of messages of another response: they are made of its own id."""
    for item, other in zip(response["output"], like["output"], strict=True):
        if item["type"] == "message":
            item["id"] = other["id"]
    return response
