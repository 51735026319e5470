"""Which requests take one server for all of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trtdisagg.protocol.decoding import decode_request
from trtdisagg.protocol.indivisible import why_indivisible
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest

COMPLETION = {"model": "m", "prompt": "p"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def why(fields: dict[str, Any]) -> str | None:
    body = msgspec.json.encode(fields)
    return why_indivisible(decode_request(body, ChatRequest if "messages" in fields else CompletionRequest))


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"best_of": 2},
        {"prompt_logprobs": 0},
        {"return_context_logits": True},
        {"return_generation_logits": True},
    ],
)
@pytest.mark.parametrize("base", [COMPLETION, CHAT])
def test_of_both_kinds(base: dict[str, Any], fields: dict[str, Any]) -> None:
    assert why({**base, **fields})


@pytest.mark.parametrize("fields", [{"echo": True}, {"prompt": ["a", "b"]}, {"prompt": [[1], [2]]}])
def test_of_completions(fields: dict[str, Any]) -> None:
    assert why({**COMPLETION, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        COMPLETION,
        CHAT,
        {**COMPLETION, "prompt": [1, 2, 3]},
        {**COMPLETION, "prompt": [[1, 2, 3]]},
        {**COMPLETION, "prompt": ["a"]},
        {**COMPLETION, "n": 1, "best_of": 1, "logprobs": 5, "detokenize": False, "stop": ["x"]},
        {**CHAT, "logprobs": True, "response_format": {"type": "json_object"}, "tool_choice": "none"},
    ],
)
def test_everything_else_is_handed_over(fields: dict[str, Any]) -> None:
    assert why(fields) is None
