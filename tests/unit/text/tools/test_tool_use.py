"""What a request says of tools, with the chat templates of the families in their published form, shortened."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from helpers import chat_templates, tiny_tokenizer

from trtdisagg.errors import RequestError, UnsupportedError
from trtdisagg.text.guided.guides import TokenGuides
from trtdisagg.text.tokenizer import Tokenizer
from trtdisagg.text.tools.use import ToolUse, tool_use

VOCAB_SIZE = 270
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 5}, "days": {"enum": [1, 2]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, NOW]
SCHEMAS = {"weather": WEATHER["function"]["parameters"], "now": {"type": "object", "additionalProperties": False}}


def tokenizer(family: str | None, special: list[str] | None = None) -> Tokenizer:
    backend = tiny_tokenizer.byte_level()
    backend.add_special_tokens(special or [])
    template = chat_templates.TEMPLATES[family] if family else tiny_tokenizer.CHAT_TEMPLATE
    return Tokenizer(
        backend, name="tiny", eos_token_ids=frozenset({2}), special_tokens={"bos_token": "<s>"}, chat_template=template
    )


def use(family: str, choice: Any, *, parallel: bool | None = None, special: list[str] | None = None) -> ToolUse:
    found = tool_use(TOOLS, choice, parallel, tokenizer(family, special))
    assert found is not None
    return found


def sample(tiny: Tokenizer, wanted: ToolUse, rng: np.random.Generator) -> str:
    """An answer of a model that says anything that it may."""
    assert wanted.guide is not None
    guide = TokenGuides(tiny, VOCAB_SIZE).open(wanted.guide)
    tokens: list[int] = []
    while not guide.is_complete and len(tokens) < 2000:
        mask = np.unpackbits(guide.mask().view(np.uint8), bitorder="little")
        tokens.append(2 if mask[2] and len(tokens) > 100 else int(rng.choice(np.flatnonzero(mask))))
        guide.accept(tokens[-1])
    assert guide.is_complete
    return tiny.decode(tokens[:-1] if tokens[-1] == 2 else tokens, skip_special_tokens=False)


FAMILIES = [
    ("hermes", None),
    ("hermes", ["<tool_call>", "</tool_call>"]),
    ("llama3_json", ["<|python_tag|>"]),
    ("mistral", ["[TOOL_CALLS]"]),
    ("mistral_11", ["[TOOL_CALLS]", "[ARGS]"]),
]


# --- calls that are valid by construction ---------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "special"), FAMILIES)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_forced_calls_are_valid(family: str, special: list[str] | None, choice: Any, num_rounds: int) -> None:
    tiny, rng = tokenizer(family, special), np.random.default_rng(3)
    for _ in range(2 * num_rounds):
        wanted = use(family, choice, special=special)
        stream = wanted.stream("key")
        said = sample(tiny, wanted, rng)
        assert "".join(p.content for p in (stream.push(said), stream.flush())) == ""
        assert stream.calls
        for call in stream.calls:
            jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
        if choice != "required":
            assert [c.function.name for c in stream.calls] == ["weather"]


def test_strict_functions_are_called_right_also_where_the_model_is_free() -> None:
    strict = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    tiny = tokenizer("hermes")
    wanted = tool_use([strict, NOW], None, None, tiny)
    assert wanted is not None
    assert wanted.guide is not None
    guides = TokenGuides(tiny, VOCAB_SIZE)
    free = guides.open(wanted.guide)
    for token_id in tiny.encode('Anything, {"even": this', add_special_tokens=False):
        free.accept(token_id)
    called = guides.open(wanted.guide)
    head = '<tool_call>\n{"name": "weather", "arguments": {'
    for token_id in tiny.encode(head, add_special_tokens=False):
        called.accept(token_id)
    with pytest.raises(ValueError, match="does not follow the grammar"):
        called.accept(tiny.encode("}", add_special_tokens=False)[0])


@pytest.mark.parametrize("family", ["hermes", "llama3_json", "mistral", "mistral_11"])
def test_one_call_alone(family: str) -> None:
    tiny, rng = tokenizer(family), np.random.default_rng(4)
    wanted = use(family, "required", parallel=False)
    stream = wanted.stream("key")
    stream.push(sample(tiny, wanted, rng))
    assert wanted.max_calls == 1
    assert len(stream.calls) == 1


def test_a_schema_that_cannot_be_followed_is_the_tools_fault() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}
    wanted = tool_use([tool], "required", None, tokenizer("hermes"))
    assert wanted is not None
    assert wanted.guide is not None
    with pytest.raises(RequestError, match="Unimplemented keys") as caught:
        TokenGuides(tokenizer("hermes"), VOCAB_SIZE).open(wanted.guide)
    assert caught.value.param == "tools"


# --- requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [None, "auto"])
def test_free_calls_have_no_guide(choice: str | None) -> None:
    wanted = use("hermes", choice)
    assert (wanted.guide, wanted.max_calls, wanted.is_named) == (None, None, False)
    assert wanted.tools == TOOLS
    assert use("hermes", choice, parallel=False).max_calls == 1


@pytest.mark.parametrize(
    ("tools", "choice"), [(None, None), ([], "auto"), (None, "none"), (TOOLS, "none")], ids=itertools.count()
)
def test_no_tools(tools: Any, choice: Any) -> None:
    assert tool_use(tools, choice, None, tokenizer(None)) is None


@pytest.mark.parametrize(
    ("tools", "choice", "param", "message"),
    [
        ({}, None, "tools", "Expected `array`"),
        ([{"type": "web_search"}], None, "tools[0].type", "web_search"),
        ([{"type": "function"}], None, "tools[0]", "missing required field `function`"),
        ([{"type": "function", "function": {}}], None, "tools[0].function", "missing required field `name`"),
        ([{"type": "function", "function": {"name": 'a"b'}}], None, "tools[0].function.name", "regex"),
        ([{"type": "function", "name": "f"}], None, "tools[0]", "unknown field `name`"),
        ([NOW, NOW], None, "tools", "same name"),
        (None, "required", "tool_choice", "needs `tools`"),
        (TOOLS, "any", "tool_choice", "none, auto, required"),
        (TOOLS, {"type": "function", "name": "now"}, "tool_choice", "unknown field `name`"),
        (
            TOOLS,
            {"type": "function", "function": {"name": "then"}},
            "tool_choice",
            "then, which is not in `tools`: weather, now",
        ),
    ],
)
def test_what_means_nothing_is_refused_by_its_path(tools: Any, choice: Any, param: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        tool_use(tools, choice, None, tokenizer("hermes"))
    assert caught.value.param == param


def test_a_model_without_tools_is_named() -> None:
    with pytest.raises(UnsupportedError, match="chat template of tiny knows no tools"):
        tool_use(TOOLS, None, None, tokenizer(None))
    with pytest.raises(UnsupportedError, match="How tiny calls tools is not known here; known: hermes, llama3_json"):
        tool_use(TOOLS, None, None, tokenizer("qwen3_coder"))
