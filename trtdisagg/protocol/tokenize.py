"""The bodies of /tokenize and /detokenize, in vLLM's form."""

from __future__ import annotations

from typing import Any

import msgspec

from trtdisagg.protocol.openai import ChatMessage


class TokenizeRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A text, or a conversation, which is made one by the chat template."""

    model: str | None = None
    """None: the only one that is served."""
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = None
    """None: as a request for completions does it: before a text, not before a conversation."""
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[Any] | None = None
    return_token_strs: bool = False


class TokenizeAnswer(msgspec.Struct, kw_only=True, frozen=True):
    count: int
    max_model_len: int | None
    """Prompt and output together; None: not known."""
    tokens: list[int]
    token_strs: list[str] | None = None
    """As they stand in the vocabulary."""


class DetokenizeRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    model: str | None = None
    tokens: list[int]


class DetokenizeAnswer(msgspec.Struct, frozen=True):
    prompt: str
