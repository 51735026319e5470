"""A request for a response as the chat that answers it. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from trtdisagg.errors import RequestError
from trtdisagg.protocol.decoding import decode_body
from trtdisagg.protocol.responses import (
    AS_IN_CHAT,
    ContentPart,
    InputItem,
    Reasoning,
    Response,
    ResponsesRequest,
    TextFormat,
)
from trtdisagg.proxy.ids import make_id

LOGPROBS = "message.output_text.logprobs"

_encode = msgspec.json.Encoder().encode


class Asked(msgspec.Struct, kw_only=True, frozen=True):
    """What a client asked for, both ways."""

    chat_body: bytes
    blank: Response
    """The answer before there is anything in it."""


def decode_asked(body: bytes) -> Asked:
    """
    :raises RequestError: saying which field is wrong and why.
    """
    request = decode_body(body, ResponsesRequest)
    return Asked(chat_body=_encode(_chat(request)), blank=_blank(request))


def _chat(request: ResponsesRequest) -> dict[str, Any]:
    said = ((name, getattr(request, name)) for name in AS_IN_CHAT)
    fields = {name: value for name, value in said if value is not None and value is not False}
    fields |= {"model": request.model, "messages": list(_messages(request))}
    if request.max_output_tokens is not None:
        fields["max_completion_tokens"] = request.max_output_tokens
    if request.stream:
        fields["stream_options"] = {"include_usage": True}
    if LOGPROBS in (request.include or ()):
        fields |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    if request.reasoning and request.reasoning.effort:
        fields["reasoning_effort"] = request.reasoning.effort
    if request.parallel_tool_calls is False:
        fields["parallel_tool_calls"] = False
    if request.tools:
        fields["tools"] = [_tool(msgspec.to_builtins(tool)) for tool in request.tools]
        fields["tool_choice"] = _tool_choice(request.tool_choice)
    if request.text.format and request.text.format.type != "text":
        fields["response_format"] = _response_format(request.text.format)
    return fields


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    kind = tool.pop("type")
    return {"type": kind, "function": {k: v for k, v in tool.items() if v is not None}}


def _tool_choice(choice: Any) -> Any:
    match choice:
        case None:
            return "auto"
        case {"type": "function", "name": name}:
            return {"type": "function", "function": {"name": name}}
    return choice


def _response_format(form: TextFormat) -> dict[str, Any]:
    if form.type == "json_object":
        return {"type": "json_object"}
    schema = {"name": form.name or "response", "schema": form.schema, "strict": form.strict}
    return {"type": "json_schema", "json_schema": {k: v for k, v in schema.items() if v is not None}}


# --- messages -------------------------------------------------------------------------------------------------------


def _messages(request: ResponsesRequest) -> Iterator[dict[str, Any]]:
    if request.instructions is not None:
        yield {"role": "system", "content": request.instructions}
    if isinstance(request.input, str):
        yield {"role": "user", "content": request.input}
        return
    calls: list[dict[str, Any]] = []
    for i, item in enumerate(request.input):
        if item.type == "function_call":
            calls.append(_call(item, f"input[{i}]"))
            continue
        if calls:
            yield {"role": "assistant", "content": None, "tool_calls": calls}
            calls = []
        yield _message(item, f"input[{i}]")
    if calls:
        yield {"role": "assistant", "content": None, "tool_calls": calls}


def _message(item: InputItem, path: str) -> dict[str, Any]:
    if item.type == "function_call_output":
        output, call_id = _need(item.output, path, "output"), _need(item.call_id, path, "call_id")
        return {"role": "tool", "content": _text(output), "tool_call_id": call_id}
    return {"role": _need(item.role, path, "role"), "content": _text(_need(item.content, path, "content"))}


def _call(item: InputItem, path: str) -> dict[str, Any]:
    names = ("call_id", "name", "arguments")
    call_id, name, arguments = (_need(getattr(item, field), path, field) for field in names)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _text(content: str | Sequence[ContentPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _need(value: Any, path: str, name: str) -> Any:
    if value is None:
        raise RequestError(f"Missing field `{path}.{name}`", param=f"{path}.{name}")
    return value


def _blank(request: ResponsesRequest) -> Response:
    form = request.text.format or TextFormat()
    said = {k: v for k, v in msgspec.to_builtins(form).items() if v is not None}
    return Response(
        id="resp_" + make_id(),
        created_at=int(time.time()),
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=request.metadata or {},
        model=request.model,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        reasoning=request.reasoning or Reasoning(),
        temperature=request.temperature,
        text={"format": said},
        tool_choice=request.tool_choice or "auto",
        tools=request.tools,
        top_logprobs=request.top_logprobs or 0,
        top_p=request.top_p,
        user=request.user,
    )
