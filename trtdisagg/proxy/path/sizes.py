"""How much a request asks for, as far as can be told without a tokenizer."""

from __future__ import annotations

import math
from typing import NamedTuple

from trtdisagg.protocol.openai import ChatRequest, CompletionRequest

DEFAULT_MAX_TOKENS = 16
"""Of a completion, as OpenAI has it."""
BYTES_PER_TOKEN = 4
"""Of a body; English text in JSON."""


class Size(NamedTuple):
    num_prompt_tokens: int = 0
    """Of all its prompts."""
    is_counted: bool = False
    """There is one prompt, which came as token ids; otherwise its tokens are estimated from the body's length."""
    max_tokens: int | None = None
    """Of each answer; None: as many as a server can hold."""
    num_answers: int = 1
    """That a server computes at once, over all its prompts."""


def size_of(request: ChatRequest | CompletionRequest, num_bytes: int) -> Size:
    """
    :param num_bytes: of the body.
    """
    estimated, num_answers = num_bytes // BYTES_PER_TOKEN, request.best_of or request.n or 1
    if isinstance(request, ChatRequest):
        return Size(estimated, max_tokens=request.max_completion_tokens or request.max_tokens, num_answers=num_answers)
    max_tokens = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    prompt = request.prompt
    if isinstance(prompt, str) or not prompt:
        return Size(estimated, max_tokens=max_tokens, num_answers=num_answers)
    if isinstance(prompt[0], int):
        num_tokens = _num_used(len(prompt), request)
        return Size(num_tokens, is_counted=True, max_tokens=max_tokens, num_answers=num_answers)
    num_tokens = estimated
    if all(isinstance(one, list) for one in prompt):
        num_tokens = sum(_num_used(len(one), request) for one in prompt if isinstance(one, list))
    return Size(num_tokens, max_tokens=max_tokens, num_answers=num_answers * len(prompt))


def _num_used(num_tokens: int, request: CompletionRequest) -> int:
    return int(min(num_tokens, request.truncate_prompt_tokens or math.inf))
