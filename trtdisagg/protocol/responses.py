"""OpenAI's `/v1/responses`, as far as it is text and calls of functions: what clients send and get.

Requests are served as chats; what is not here, the chat's own types check (`openai.py`).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from trtdisagg.protocol.openai import Count, NumLogprobs
from trtdisagg.protocol.tools import ToolName

Status = Literal["in_progress", "completed", "incomplete", "failed"]
Reason = Literal["max_output_tokens", "content_filter"]


class ContentPart(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A piece of a message; an answer that is sent back has the last two, too."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class InputItem(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A message, a call that the model made, or what came of one."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    id: str | None = None
    status: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[ContentPart] | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[ContentPart] | None = None


class FunctionTool(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema: Any = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    effort: str | None = None
    summary: None = None


class StreamOptions(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    include_obfuscation: bool = False
    """Accepted: nothing is added either way."""


class ResponsesRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    model: str
    input: str | list[InputItem]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    text: TextConfig = TextConfig()
    tools: list[FunctionTool] = []
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    top_logprobs: NumLogprobs | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    reasoning: Reasoning | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    store: bool | None = None
    """Nothing is stored, whatever it says."""
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    previous_response_id: None = None
    """Nothing is stored, so all that was said before stands in `input`; likewise the next two."""
    conversation: None = None
    prompt: None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    max_tool_calls: None = None

    # As a chat has them, and checked there.
    temperature: Any = None
    top_p: Any = None
    metadata: Any = None
    user: Any = None
    service_tier: Any = None
    seed: Any = None
    top_k: Any = None
    min_p: Any = None
    stop: Any = None
    min_tokens: Any = None
    ignore_eos: bool = False
    frequency_penalty: Any = None
    presence_penalty: Any = None
    repetition_penalty: Any = None
    logit_bias: Any = None
    chat_template_kwargs: Any = None
    cache_salt: Any = None
    priority: Any = None
    timeout: Any = None


AS_IN_CHAT = (
    "temperature",
    "top_p",
    "metadata",
    "user",
    "service_tier",
    "seed",
    "top_k",
    "min_p",
    "stop",
    "min_tokens",
    "ignore_eos",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "chat_template_kwargs",
    "cache_salt",
    "priority",
    "timeout",
    "stream",
)
"""Fields that mean the same in a chat."""


class OutputText(msgspec.Struct, kw_only=True, frozen=True):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[msgspec.Raw] = []


class OutputMessage(msgspec.Struct, kw_only=True, frozen=True):
    type: Literal["message"] = "message"
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class OutputCall(msgspec.Struct, kw_only=True, frozen=True):
    type: Literal["function_call"] = "function_call"
    id: str
    call_id: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed", "incomplete"]


OutputItem = OutputMessage | OutputCall


class InputTokensDetails(msgspec.Struct, kw_only=True, frozen=True):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, kw_only=True, frozen=True):
    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, kw_only=True, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class Incomplete(msgspec.Struct, kw_only=True, frozen=True):
    reason: Reason


class ResponseError(msgspec.Struct, kw_only=True, frozen=True):
    code: Literal["server_error"] = "server_error"
    """Of OpenAI's codes the only one that fits what goes wrong behind the first byte."""
    message: str


class Response(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    background: bool = False
    error: ResponseError | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: None = None
    metadata: Any = None
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    reasoning: Reasoning = Reasoning()
    store: bool = False
    temperature: Any = None
    text: Any = None
    tool_choice: Any = "auto"
    tools: list[FunctionTool] = []
    top_logprobs: int = 0
    top_p: Any = None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: Any = None
