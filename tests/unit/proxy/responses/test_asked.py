from __future__ import annotations

import json
from typing import Any

import pytest

from trtdisagg.errors import RequestError
from trtdisagg.protocol.decoding import decode_request
from trtdisagg.protocol.openai import ChatRequest
from trtdisagg.proxy.responses.asked import decode_asked


def chat_of(**fields: Any) -> dict[str, Any]:
    """The chat's body, which a server would take."""
    asked = decode_asked(json.dumps({"model": "m", "input": "hi", **fields}).encode())
    decode_request(asked.chat_body, ChatRequest)
    chat: dict[str, Any] = json.loads(asked.chat_body)
    return chat


def test_the_least() -> None:
    assert chat_of() == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_what_is_called_otherwise_in_a_chat() -> None:
    chat = chat_of(
        max_output_tokens=5,
        temperature=0,
        stream=True,
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
    )
    assert chat == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 5,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
    }


def test_a_conversation_with_calls() -> None:
    weather = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": None}
    chat = chat_of(
        instructions="Be brief.",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "Rain?"}]},
            {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "yes"},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "It rains.", "annotations": [], "logprobs": []}]},
        ],
        tools=[weather],
        tool_choice={"type": "function", "name": "weather"},
    )  # fmt: skip
    call = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert chat["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", **call}, {"id": "b", **call}]},
        {"role": "tool", "content": "yes", "tool_call_id": "a"},
        {"role": "assistant", "content": "It rains."},
    ]
    assert chat["tools"] == [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"wat": 1}, "wat"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": [{"type": "reasoning"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input[0].call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "text": ""}]}]}, "input[0].content[0].type"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as e:
        chat_of(**fields)
    assert e.value.param is not None
    assert e.value.param.replace("[...]", "[0]") == param
