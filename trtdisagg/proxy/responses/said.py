"""What a chat answered, as a response. Pure.

finish reason     stop, tool_calls -> completed      length -> incomplete, max_output_tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from trtdisagg.protocol.answers import ChatCompletion, FinishReason, Usage
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


class _Logprobs(msgspec.Struct):
    content: list[msgspec.Raw] | None = None


class _Message(msgspec.Struct):
    logprobs: _Logprobs | None = None


class _Answer(msgspec.Struct):
    choices: list[_Message]


def respond(blank: Response, body: bytes) -> Response:
    """
    :param blank: what was asked.
    :param body: the chat's whole answer.
    """
    chat = msgspec.json.decode(body, type=ChatCompletion)
    raw = msgspec.json.decode(body, type=_Answer).choices[0].logprobs
    [choice] = chat.choices
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


def message(response_id: str, text: OutputText, reason: FinishReason | None) -> OutputMessage:
    return OutputMessage(id=message_id(response_id), status=item_status(reason), content=[text])


def message_id(response_id: str) -> str:
    return "msg_" + response_id.partition("_")[2]


def call_item_id(call_id: str) -> str:
    return "fc_" + call_id.rpartition("_")[2]


def item_status(reason: FinishReason | None) -> Literal["completed", "incomplete"]:
    return "incomplete" if reason == "length" else "completed"


def ended(blank: Response, items: Sequence[OutputItem], reason: FinishReason | None, usage: Usage | None) -> Response:
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
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens),
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )
