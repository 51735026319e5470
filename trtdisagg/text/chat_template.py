"""Renders a model's chat template: messages to the one string the model was trained on.

Templates come with models, so they run in jinja2's sandbox. The environment is the one that templates are written for,
Hugging Face's.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trtdisagg.errors import RequestError
from trtdisagg.protocol.openai import ChatMessage

_RESERVED = frozenset({"messages", "add_generation_prompt", "tools", "documents"})


class ChatTemplate:
    """
    :param source: the template; None when the model has none, then rendering says so.
    :param model: for messages.
    :param special_tokens: `bos_token` and its like, as text.
    """

    def __init__(self, source: str | None, *, model: str, special_tokens: Mapping[str, str]) -> None:
        self._source = source
        self._model = model
        self._special_tokens = special_tokens
        self._compiled: Template | None = None

    def render(
        self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool, variables: Mapping[str, Any]
    ) -> str:
        """Render a conversation.

        :param variables: further ones of the template, the request's `chat_template_kwargs`.
        :raises RequestError: when there is no template, or it refuses the conversation.
        """
        if clash := _RESERVED & variables.keys():
            raise RequestError(f"`{min(clash)}` cannot be set by chat_template_kwargs", param="chat_template_kwargs")
        known: dict[str, Any] = {
            **self._special_tokens,
            **variables,
            "messages": [_as_dict(m) for m in messages],
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
        }
        try:
            return self._template().render(known)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as e:
            why = str(e) or type(e).__name__
            raise RequestError(f"The chat template of {self._model} failed: {why}", param="messages") from e

    def _template(self) -> Template:
        if self._source is None:
            raise RequestError(f"The model {self._model} has no chat template; use /v1/completions")
        if self._compiled is None:
            self._compiled = _environment().from_string(self._source)
        return self._compiled


def _as_dict(message: ChatMessage) -> dict[str, Any]:
    """As templates know messages: `developer` is OpenAI's newer word for `system`."""
    role = "system" if message.role == "developer" else message.role
    extra = {"name": message.name, "tool_calls": message.tool_calls, "tool_call_id": message.tool_call_id}
    return {"role": role, "content": message.text(), **{k: v for k, v in extra.items() if v is not None}}


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """Not jinja2's own, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    """In local time, as templates mean it."""
    return datetime.datetime.now().strftime(form)
