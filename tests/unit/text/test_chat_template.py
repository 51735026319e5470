"""Conversations with tools, as the families' templates render them; transformers' rendering is the oracle."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import chat_templates, tiny_tokenizer

from trtdisagg.errors import RequestError
from trtdisagg.protocol.openai import ChatMessage
from trtdisagg.text.chat_template import ChatTemplate
from trtdisagg.text.tokenizer import Tokenizer

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Wetter für <Städte>",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
ARGUMENTS = {"city": "Zürich", "days": 2}


def conversation(arguments: str = json.dumps(ARGUMENTS), num_calls: int = 1) -> list[ChatMessage]:
    call = {"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return [
        ChatMessage(role="user", content="How is the weather?"),
        ChatMessage(role="assistant", tool_calls=[call] * num_calls),
        ChatMessage(role="tool", tool_call_id="abcdef123", content='{"t": 20}'),
        ChatMessage(role="user", content="And now?"),
    ]


def render(source: str, messages: list[ChatMessage], tools: list[dict[str, Any]] | None = None) -> str:
    template = ChatTemplate(source, model="tiny", special_tokens={"bos_token": "<s>", "eos_token": "</s>"})
    return template.render(messages, add_generation_prompt=True, tools=tools, variables={})


def oracle(source: str, tools: list[dict[str, Any]] | None) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    call = {"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    messages = [
        {"role": "user", "content": "How is the weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdef123", "content": '{"t": 20}'},
        {"role": "user", "content": "And now?"},
    ]
    texts, _ = render_jinja_template(
        [messages], tools=tools, chat_template=source, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    return str(texts[0])


@pytest.mark.parametrize("family", ["hermes", "qwen3", "llama3_json", "mistral", "mistral_11"])
@pytest.mark.parametrize("tools", [TOOLS, None], ids=["tools", "none"])
def test_conversations_with_calls(family: str, tools: list[dict[str, Any]] | None) -> None:
    source = chat_templates.TEMPLATES[family]
    rendered = render(source, conversation(), tools)
    assert rendered == oracle(source, tools)
    assert '"city": "Zürich"' in rendered
    assert ("Wetter für <Städte>" in rendered) == (tools is not None)


@pytest.mark.parametrize(("arguments", "message"), [("{", "are no JSON object"), ("[1]", "are no JSON object")])
def test_arguments_that_are_no_object_are_refused(arguments: str, message: str) -> None:
    with pytest.raises(RequestError, match=rf"tool call abcdef123 \(weather\) {message}") as caught:
        render(chat_templates.TEMPLATES["hermes"], conversation(arguments))
    assert caught.value.param == "messages[1]"


def test_calls_without_arguments_are_understood() -> None:
    assert '{"name": "weather", "arguments": {}}' in render(chat_templates.TEMPLATES["hermes"], conversation(""))


def test_calls_of_another_shape_are_refused_by_their_path() -> None:
    with pytest.raises(RequestError, match="missing required field `name`") as caught:
        render("", [ChatMessage(role="assistant", tool_calls=[{"id": "1", "function": {"arguments": "{}"}}])])
    assert caught.value.param == "messages[0].tool_calls[0].function"


def test_what_a_template_refuses_is_the_clients_error() -> None:
    with pytest.raises(RequestError, match="only supports single tool-calls"):
        render(chat_templates.TEMPLATES["llama3_json"], conversation(num_calls=2))


def test_parts_marked_for_training_are_said() -> None:
    assert render("a{% generation %}b{{ 1 }}{% endgeneration %}c", []) == "ab1c"


@pytest.mark.parametrize(
    ("source", "takes"),
    [
        (None, False),
        ("{{ messages }}", False),
        ("{% if tools %}x{% endif %}", True),
        ("{% set tools = 1 %}{{ tools }}", False),
        ("{% for tools in messages %}{{ tools }}{% endfor %}", False),
        ("{% for %}", False),
    ],
)
def test_whether_a_template_takes_tools(source: str | None, takes: bool) -> None:
    assert ChatTemplate(source, model="tiny", special_tokens={}).takes_tools is takes


def test_a_template_of_its_own_for_tools() -> None:
    tokenizer = Tokenizer(
        tiny_tokenizer.byte_level(),
        name="tiny",
        eos_token_ids=frozenset({2}),
        special_tokens={},
        chat_template="plain",
        tool_template="{% if tools %}<tool_call>{% endif %}",
    )
    assert tokenizer.render_chat([]) == "plain"
    assert tokenizer.render_chat([], tools=TOOLS) == "<tool_call>"
    assert tokenizer.tool_format().name == "hermes"
