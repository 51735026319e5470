"""The prompts of a body, as tokens. The engine and the proxy read them with this alone, so they agree.

Nothing here waits: whoever has a loop to keep going gives `encode` of long texts to a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtdisagg.errors import RequestError
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest
from trtdisagg.text.tokenizer import Tokenizer
from trtdisagg.text.tools.use import tool_use

Wish = CompletionRequest | ChatRequest
Prompt = str | list[int]
"""A text, or tokens already."""
Tools = list[dict[str, Any]]


def read_prompts(wish: Wish, tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens of each prompt that a server computes for this body.

    :raises RequestError: what a server would say of it, too.
    """
    tools = None
    if isinstance(wish, ChatRequest):
        use = tool_use(wish.tools, wish.tool_choice, wish.parallel_tool_calls, tokenizer)
        tools = use.tools if use else None
    return encode(wish, prompts_of(wish, tokenizer, tools), tokenizer)


def prompts_of(wish: Wish, tokenizer: Tokenizer, tools: Tools | None = None) -> list[Prompt]:
    """
    :param tools: that a chat's model is told of.
    :raises RequestError: when there is none, or they cannot be read.
    """
    if wish.prompt_token_ids is not None:
        return [wish.prompt_token_ids]
    return [_render(wish, tokenizer, tools)] if isinstance(wish, ChatRequest) else split(wish.prompt)


def encode(wish: Wish, prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[list[int]]:
    """
    :param prompts: of this body.
    """
    special = isinstance(wish, CompletionRequest) and wish.add_special_tokens
    whole = [tokenizer.encode(p, add_special_tokens=special) if isinstance(p, str) else p for p in prompts]
    if wish.truncate_prompt_tokens is None:
        return whole
    return [prompt[-wish.truncate_prompt_tokens :] for prompt in whole]


def split(prompt: str | list[Any]) -> list[Prompt]:
    """Text, token ids, or a list of prompts, each either.

    :raises RequestError: when it is empty, or neither.
    """
    if isinstance(prompt, str) or not prompt or all(type(p) is int for p in prompt):
        prompt = [prompt]
    if any(type(p) is int for p in prompt):
        raise RequestError("`prompt` mixes token ids and prompts", param="prompt")
    if not all(prompt):
        raise RequestError("The prompt is empty", param="prompt")
    return prompt


def _render(wish: ChatRequest, tokenizer: Tokenizer, tools: Tools | None) -> str:
    if not wish.messages:
        raise RequestError("`messages` is empty", param="messages")
    variables = wish.chat_template_kwargs or {}
    if wish.reasoning_effort is not None:
        variables = {"reasoning_effort": wish.reasoning_effort, **variables}
    return tokenizer.render_chat(
        wish.messages, add_generation_prompt=wish.add_generation_prompt, tools=tools, variables=variables
    )
