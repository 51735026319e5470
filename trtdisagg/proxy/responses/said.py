"""What a chat answered, as a response. Pure.

Other servers say more in a chat than ours, and null where ours say nothing: read is only what is needed.

finish reason     stop, tool_calls -> completed      length -> incomplete, max_output_tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec.structs import replace

from trtdisagg.errors import UpstreamError
from trtdisagg.protocol.responses import (
    Incomplete,
    InputTokensDetails,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputText,
    Response,
    ResponseUsage,
)
from trtdisagg.protocol.tools import FunctionCall


class Logprobs(msgspec.Struct):
    content: list[msgspec.Raw] | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Of a chat."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _Details | None = None


class _Call(msgspec.Struct):
    id: str
    function: FunctionCall


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1, max_length=1)]
    usage: Usage | None = None


def respond(blank: Response, body: bytes) -> Response:
    """
    :param blank: what was asked.
    :param body: the chat's whole answer.
    :raises UpstreamError: it is none.
    """
    try:
        chat = msgspec.json.decode(body, type=_Answer)
    except msgspec.DecodeError as e:
        raise UpstreamError(f"What a server answered cannot be read as a chat: {e}") from None
    [choice] = chat.choices
    raw = choice.logprobs
    items: list[OutputItem] = []
    if choice.message.content:
        text = OutputText(text=choice.message.content, logprobs=(raw.content or []) if raw else [])
        items.append(message(blank.id, text, choice.finish_reason))
    items += [
        OutputCall(
            id=call_item_id(call.id),
            call_id=call.id,
            name=call.function.name,
            arguments=call.function.arguments,
            status=item_status(choice.finish_reason),
        )
        for call in choice.message.tool_calls or ()
    ]
    return ended(blank, items, choice.finish_reason, chat.usage)


def message(response_id: str, text: OutputText, reason: str | None) -> OutputMessage:
    return OutputMessage(id=message_id(response_id), status=item_status(reason), content=[text])


def message_id(response_id: str) -> str:
    return "msg_" + response_id.partition("_")[2]


def call_item_id(call_id: str) -> str:
    return "fc_" + call_id.rpartition("_")[2]


def item_status(reason: str | None) -> Literal["completed", "incomplete"]:
    return "incomplete" if reason == "length" else "completed"


def ended(blank: Response, items: Sequence[OutputItem], reason: str | None, usage: Usage | None) -> Response:
    """The response with all that is in it."""
    is_cut = reason == "length"
    return replace(
        blank,
        status="incomplete" if is_cut else "completed",
        incomplete_details=Incomplete(reason="max_output_tokens") if is_cut else None,
        output=list(items),
        usage=usage and _usage(usage),
    )


def _usage(usage: Usage) -> ResponseUsage:
    details = usage.prompt_tokens_details or _Details()
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=details.cached_tokens or 0),
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )
