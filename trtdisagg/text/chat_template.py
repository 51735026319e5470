"""Renders a model's chat template: messages to the one string the model was trained on.

Templates come with models, so they run in jinja2's sandbox. The environment is the one that templates are written for,
Hugging Face's.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import msgspec
from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trtdisagg.errors import RequestError
from trtdisagg.protocol.openai import ChatMessage
from trtdisagg.protocol.tools import ToolCall
from trtdisagg.text.checked import checked

_RESERVED = frozenset({"messages", "add_generation_prompt", "tools", "documents"})


class ChatTemplate:
    """
    :param source: the template; None when the model has none, then rendering says so.
    :param model: for messages.
    :param special_tokens: `bos_token` and its like, as text.
    """

    def __init__(self, source: str | None, *, model: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._model = model
        self._special_tokens = special_tokens
        self._compiled: Template | None = None

    @functools.cached_property
    def takes_tools(self) -> bool:
        """Whether it tells the model of tools."""
        if self.source is None:
            return False
        try:
            return "tools" in meta.find_undeclared_variables(_environment().parse(self.source))
        except TemplateError:
            return False

    def render(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any],
    ) -> str:
        """Render a conversation.

        :param tools: as the client sent them.
        :param variables: further ones of the template, the request's `chat_template_kwargs`.
        :raises RequestError: when there is no template, or it refuses the conversation.
        """
        if clash := _RESERVED & variables.keys():
            raise RequestError(f"`{min(clash)}` cannot be set by chat_template_kwargs", param="chat_template_kwargs")
        known: dict[str, Any] = {
            **self._special_tokens,
            **variables,
            "messages": [_as_dict(m, f"messages[{i}]") for i, m in enumerate(messages)],
            "add_generation_prompt": add_generation_prompt,
            "tools": tools,
            "documents": None,
        }
        try:
            return self._template().render(known)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as e:
            why = str(e) or type(e).__name__
            raise RequestError(f"The chat template of {self._model} failed: {why}", param="messages") from e

    def _template(self) -> Template:
        if self.source is None:
            raise RequestError(f"The model {self._model} has no chat template; use /v1/completions")
        if self._compiled is None:
            self._compiled = _environment().from_string(self.source)
        return self._compiled


def _as_dict(message: ChatMessage, param: str) -> dict[str, Any]:
    """As templates know messages: `developer` is OpenAI's newer word for `system`."""
    role = "system" if message.role == "developer" else message.role
    found: dict[str, Any] = {"role": role, "content": message.text()}
    if message.tool_calls:
        calls = checked(message.tool_calls, list[ToolCall], param=f"{param}.tool_calls")
        found["tool_calls"] = [_call_as_dict(c, param) for c in calls]
    extra = {"name": message.name, "tool_call_id": message.tool_call_id}
    return found | {k: v for k, v in extra.items() if v is not None}


def _call_as_dict(call: ToolCall, param: str) -> dict[str, Any]:
    """Templates write the arguments as JSON themselves, so they get them as an object."""
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as e:
        raise RequestError(
            f"The arguments of the tool call {call.id} ({call.function.name}) are no JSON object: {e}", param=param
        ) from None
    return {"id": call.id, "type": call.type, "function": {"name": call.function.name, "arguments": arguments}}


class _Generation(Extension):
    """`{% generation %}` marks for training what an assistant says; it changes nothing here."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Not jinja2's own, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    """In local time, as templates mean it."""
    return datetime.datetime.now().strftime(form)
