"""The prompts of a body, as tokens."""

from __future__ import annotations

import asyncio
from typing import Any

from trtdisagg.engine.http.sampling import Wish
from trtdisagg.errors import RequestError
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest
from trtdisagg.text.tokenizer import Tokenizer

_LONG_TEXT = 4096
"""Characters from which tokenizing is worth a thread: the event loop goes on meanwhile."""


Tools = list[dict[str, Any]]


async def tokens_of(wish: Wish, tokenizer: Tokenizer, tools: Tools | None = None) -> list[list[int]]:
    """
    :param tools: that a chat's model is told of.
    :raises RequestError: when there is none, or they cannot be read.
    """
    prompts = await _whole(wish, tokenizer, tools)
    if wish.truncate_prompt_tokens is None:
        return prompts
    return [prompt[-wish.truncate_prompt_tokens :] for prompt in prompts]


def echoes_of(wish: CompletionRequest, prompts: list[list[int]], tokenizer: Tokenizer) -> list[str]:
    """What each prompt says: its own words where they were given and are used whole."""
    given = _split(wish.prompt)
    if wish.truncate_prompt_tokens is not None or wish.prompt_token_ids is not None:
        given = list(prompts)
    skip = wish.skip_special_tokens
    return [p if isinstance(p, str) else tokenizer.decode(p, skip_special_tokens=skip) for p in given]


async def _whole(wish: Wish, tokenizer: Tokenizer, tools: Tools | None) -> list[list[int]]:
    if wish.prompt_token_ids is not None:
        return [wish.prompt_token_ids]
    if isinstance(wish, ChatRequest):
        return [await _encode(_render(wish, tokenizer, tools), tokenizer, special=False)]
    return [
        prompt if isinstance(prompt, list) else await _encode(prompt, tokenizer, special=wish.add_special_tokens)
        for prompt in _split(wish.prompt)
    ]


def _render(wish: ChatRequest, tokenizer: Tokenizer, tools: Tools | None) -> str:
    if not wish.messages:
        raise RequestError("`messages` is empty", param="messages")
    variables = wish.chat_template_kwargs or {}
    if wish.reasoning_effort is not None:
        variables = {"reasoning_effort": wish.reasoning_effort, **variables}
    return tokenizer.render_chat(
        wish.messages, add_generation_prompt=wish.add_generation_prompt, tools=tools, variables=variables
    )


def _split(prompt: str | list[Any]) -> list[str | list[int]]:
    """Text, token ids, or a list of prompts, each either."""
    if isinstance(prompt, str) or not prompt or all(type(p) is int for p in prompt):
        prompt = [prompt]
    if any(type(p) is int for p in prompt):
        raise RequestError("`prompt` mixes token ids and prompts", param="prompt")
    if not all(prompt):
        raise RequestError("The prompt is empty", param="prompt")
    return prompt


async def _encode(text: str, tokenizer: Tokenizer, *, special: bool) -> list[int]:
    if len(text) < _LONG_TEXT:
        return tokenizer.encode(text, add_special_tokens=special)
    return await asyncio.to_thread(tokenizer.encode, text, add_special_tokens=special)
