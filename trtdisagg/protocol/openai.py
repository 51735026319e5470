"""The OpenAI bodies that clients send, and the proxy to servers.

A field that is not listed here is an error that names it. A field that is listed in `NOT_SERVED` is known to users of
OpenAI's or TensorRT-LLM's API and refused, with the reason, when it is set to anything but its neutral value.
"""

from __future__ import annotations

import functools
import operator
import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from trtdisagg.errors import RequestError, UnsupportedError
from trtdisagg.protocol.handover import DisaggregatedParams, Seam

NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Probability = Annotated[float, msgspec.Meta(gt=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0)]


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

    # Known, not served: see NOT_SERVED.
    n: int | None = None
    best_of: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    length_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    min_p: float | None = None
    truncate_prompt_tokens: int | None = None
    return_context_logits: bool = False
    return_generation_logits: bool = False
    detokenize: bool = True
    response_format: Any = None
    priority: int | None = None
    use_beam_search: bool = False
    cache_salt: str | None = None

    # Between proxy and server only; the proxy refuses them from clients.
    disaggregated_params: DisaggregatedParams | None = None
    seam: Seam | None = None
    prompt_token_ids: list[int] | None = None
    """Takes the place of the prompt or the messages."""


class CompletionRequest(_Common, kw_only=True, frozen=True, forbid_unknown_fields=True):
    prompt: str | list[str | int | list[int]]
    """Text, token ids, or a list of prompts, each either; what is mixed in one list means nothing."""
    max_tokens: Count | None = None
    """None: 16, as OpenAI has it."""
    add_special_tokens: bool = True
    echo: bool = False
    logprobs: int | None = None
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
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template: str | None = None
    store: bool | None = None
    service_tier: str | None = None


NOT_SERVED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "length_penalty": (None, 1),
    "logit_bias": (None, {}),
    "min_p": (None, 0),
    "truncate_prompt_tokens": (None,),
    "return_context_logits": (False,),
    "return_generation_logits": (False,),
    "detokenize": (True,),
    "response_format": (None, {"type": "text"}),
    "priority": (None, 0),
    "use_beam_search": (False,),
    "cache_salt": (None,),
    "echo": (False,),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "suffix": (None, ""),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "chat_template": (None,),
    "reasoning_effort": (None,),
}
"""Field -> its neutral values; any other value is a 400 that names the field."""

_Request = TypeVar("_Request", bound=_Common)

_MISSING = re.compile(r"missing required field `(.+)`")
_UNKNOWN = re.compile(r"unknown field `(.+)`")
_PATH = re.compile(r" - at `\$\.?(.*)`$")


def decode_request(body: bytes, kind: type[_Request]) -> _Request:
    """Decode and check a request body.

    :raises RequestError: saying which field is wrong and why; `param` is its path.
    :raises UnsupportedError: for a known feature that is not served.
    """
    try:
        request = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as e:
        raise _wrong_field(str(e)) from None
    except msgspec.DecodeError as e:
        raise RequestError(f"The body is not valid JSON: {e}") from None
    except UnicodeDecodeError:
        raise RequestError("The body is not valid UTF-8") from None
    except RecursionError:
        raise RequestError("The body is nested too deeply") from None
    if not _asks_for_nothing_more(request):
        _refuse_not_served(request)
    if request.stream_options is not None and not request.stream:
        raise RequestError("`stream_options` is allowed only with `stream: true`", param="stream_options")
    return request


def _refuse_not_served(request: _Common) -> None:
    for name, neutral in NOT_SERVED.items():
        value = getattr(request, name, neutral[0])
        if not any(isinstance(value, bool) is isinstance(n, bool) and value == n for n in neutral):
            raise UnsupportedError(f"`{name}` is not supported by this server; leave it out", param=name)


def _asks_for_nothing_more(request: _Common) -> bool:
    """Whether all fields of `NOT_SERVED` have their defaults, as almost always: one comparison for all."""
    get, defaults = _not_served_fields(type(request))
    return bool(get(request) == defaults)


@functools.cache
def _not_served_fields(kind: type[_Common]) -> tuple[operator.attrgetter[Any], tuple[Any, ...]]:
    fields = {f.name: f.default for f in msgspec.structs.fields(kind)}
    names = [name for name in NOT_SERVED if name in fields]
    return operator.attrgetter(*names), tuple(fields[name] for name in names)


def _wrong_field(text: str) -> RequestError:
    path = m[1] if (m := _PATH.search(text)) else ""
    what = _PATH.sub("", text)
    if m := _UNKNOWN.search(what):
        name = f"{path}.{m[1]}" if path else m[1]
        return RequestError(f"Unknown field `{name}`", param=name)
    if m := _MISSING.search(what):
        name = f"{path}.{m[1]}" if path else m[1]
        return RequestError(f"Missing field `{name}`", param=name)
    return RequestError(f"Wrong value for `{path}`: {what}" if path else f"Wrong body: {what}", param=path or None)
