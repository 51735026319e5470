"""How probable tokens were: as OpenAI's two APIs have it, vLLM's `prompt_logprobs`, and TensorRT-LLM's handover."""

from __future__ import annotations

import msgspec

MIN_LOGPROB = -9999.0
"""What OpenAI says for a probability of nothing: JSON has no infinity."""


class CompletionLogprobs(msgspec.Struct, kw_only=True, frozen=True):
    """Four lists with an entry for each token of the text; the first token of a prompt has no probability."""

    text_offset: list[int]
    """Characters of the choice's text before the token."""
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class TopLogprob(msgspec.Struct, kw_only=True, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(msgspec.Struct, kw_only=True, frozen=True):
    token: str
    logprob: float
    bytes: list[int]
    """Of a token that is part of a character: the text is U+FFFD then."""
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, kw_only=True, frozen=True):
    content: list[ChatLogprob]
    refusal: None = None


class PromptLogprob(msgspec.Struct, kw_only=True, frozen=True):
    logprob: float
    rank: int | None
    """1: the most probable; None: below those that were asked for."""
    decoded_token: str


class HandedLogprob(msgspec.Struct, kw_only=True, frozen=True):
    """One candidate for a first token, as in `first_gen_log_probs`: a list of these for each token."""

    token_id: int
    logprob: float
    rank: int | None = None


HandedLogprobs = list[list[HandedLogprob] | float]
