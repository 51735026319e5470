"""The OpenAI bodies that clients send, and the proxy to servers, as types; decoding.py reads them.

Fields are OpenAI's, and those that users of TensorRT-LLM and vLLM send beside them. A field that is not listed here is
an error that names it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from trtdisagg.protocol.handover import DisaggregatedParams, Seam

MAX_LOGPROBS = 20
"""Alternatives of a token that can be asked for."""

NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Probability = Annotated[float, msgspec.Meta(gt=0, le=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0)]
NumLogprobs = Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Common(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What completions and chat share. Defaults are OpenAI's."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: NonNegative | None = None
    """0: greedy. None, here and in the next two: what the model's makers recommend, else OpenAI's default."""
    top_p: Probability | None = None
    top_k: int | None = None
    """0 or -1: all."""
    min_tokens: CountOrZero | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    seed: int | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None

    n: Count | None = None
    best_of: Count | None = None
    """So many are generated; the `n` most probable are answered."""
    length_penalty: float | None = None
    """Of `best_of`: an answer's logarithm of probability is divided by its length to this power; None: 1."""
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Positive | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    logit_bias: dict[str, Bias] | None = None
    """Token id, in digits, -> added to its logit."""
    bad_words: list[str] | None = None
    """Text that is not generated."""
    prompt_logprobs: NumLogprobs | None = None
    truncate_prompt_tokens: Count | None = None
    """So many of the prompt's last tokens are used."""
    detokenize: bool = True
    """False: the answer has `token_ids` in place of text."""
    return_token_ids: bool = False
    return_context_logits: bool = False
    return_generation_logits: bool = False
    priority: int | None = None
    """Higher is admitted sooner."""
    timeout: Positive | None = None
    """Seconds from its arrival; header `X-Request-Timeout` says the same."""
    cache_salt: str | None = None
    response_format: Any = None
    """What the text must look like; the next five are vLLM's words for it."""
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    use_beam_search: bool = False
    """Known, not served: see decoding.py, like `suffix` and `chat_template`."""

    # Between proxy and server only; the proxy refuses them from clients.
    disaggregated_params: DisaggregatedParams | None = None
    seam: Seam | None = None
    prompt_token_ids: list[int] | None = None
    """Takes the place of the prompt or the messages."""


class CompletionRequest(_Common, kw_only=True, frozen=True, forbid_unknown_fields=True):
    prompt: str | list[str | int | list[int]]
    """Text, token ids, or a list of prompts, each either."""
    max_tokens: CountOrZero | None = None
    """None: 16, as OpenAI has it. 0: the prompt alone, with `echo`."""
    add_special_tokens: bool = True
    echo: bool = False
    logprobs: NumLogprobs | None = None
    suffix: str | None = None


class TextPart(msgspec.Struct, frozen=True, tag="text", forbid_unknown_fields=True):
    text: str


class ChatMessage(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None

    def text(self) -> str:
        """The content as one string; parts are joined by newlines."""
        if isinstance(self.content, list):
            return "\n".join(p.text for p in self.content)
        return self.content or ""


class ChatRequest(_Common, kw_only=True, frozen=True, forbid_unknown_fields=True):
    messages: list[ChatMessage]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    """None: as many as the server can hold."""
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    logprobs: bool = False
    top_logprobs: NumLogprobs | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template: str | None = None
    store: bool | None = None
    service_tier: str | None = None
