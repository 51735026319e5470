"""The OpenAI bodies that a server and the proxy answer with: whole answers, chunks of a stream, errors, models.

What is beside OpenAI's fields (`token_ids`, `prompt_logprobs`, logits) is there only where it was asked for.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.handover import DisaggregatedParams, SeamPart, SeamReply
from trtdisagg.protocol.logprobs import ChatLogprobs, CompletionLogprobs, PromptLogprob
from trtdisagg.protocol.tools import ToolCall, ToolCallDelta

FinishReason = Literal["stop", "length", "tool_calls", "not_finished", "cancelled", "timeout", "error"]


PromptLogprobs = list[dict[int, PromptLogprob] | None]
"""For each token of the prompt; the first has none."""


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int = 0


class Usage(msgspec.Struct, kw_only=True, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()


class _WithTokens(msgspec.Struct, kw_only=True, frozen=True):
    """What every choice may have, whole or a part."""

    index: int
    finish_reason: FinishReason | None = None
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    """Those generated; with the last one that ended the answer, though it is not said."""


class _Choice(_WithTokens, kw_only=True, frozen=True):
    stop_reason: str | int | None = None
    context_logits: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    """[prompt tokens][vocab]"""
    generation_logits: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    """[tokens][vocab]"""
    disaggregated_params: DisaggregatedParams | msgspec.UnsetType = msgspec.UNSET


class CompletionChoice(_Choice, kw_only=True, frozen=True):
    text: str
    logprobs: CompletionLogprobs | None = None
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET


class AssistantMessage(msgspec.Struct, kw_only=True, frozen=True):
    role: Literal["assistant"] = "assistant"
    content: str | None
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(_Choice, kw_only=True, frozen=True):
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None


class Delta(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(_WithTokens, kw_only=True, frozen=True):
    delta: Delta
    logprobs: ChatLogprobs | None = None


class Completion(msgspec.Struct, kw_only=True, frozen=True):
    """A whole completion, and a chunk of a streamed one (then usage is null or unset)."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    """On the context leg: what the server made of the prompt."""
    seam: SeamReply | SeamPart | msgspec.UnsetType = msgspec.UNSET
    """Where the request had one: of the context leg, of an event of a stream."""


class ChatCompletion(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET
    seam: SeamReply | msgspec.UnsetType = msgspec.UNSET


class ChatChunk(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    seam: SeamPart | msgspec.UnsetType = msgspec.UNSET


class ErrorDetail(msgspec.Struct, kw_only=True, frozen=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail


def encode_error(error: TrtdisaggError) -> bytes:
    """Encode an error as the body of an answer, or as the data of a server-sent event."""
    detail = ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code)
    return msgspec.json.encode(ErrorBody(detail))


class ModelCard(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "trtdisagg"


class ModelList(msgspec.Struct, kw_only=True, frozen=True):
    object: Literal["list"] = "list"
    data: list[ModelCard]
