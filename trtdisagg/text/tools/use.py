"""What a request wants of tools, checked: the tools for the chat template, the guide, and who reads the answer."""

from __future__ import annotations

from typing import Any

import msgspec

from trtdisagg.errors import RequestError
from trtdisagg.protocol.guide import GuideSpec
from trtdisagg.protocol.tools import Function, NamedTool, Tool
from trtdisagg.text.checked import checked
from trtdisagg.text.tokenizer import Tokenizer
from trtdisagg.text.tools.format import ToolFormat
from trtdisagg.text.tools.grammar import calls_grammar
from trtdisagg.text.tools.stream import ToolStream


class ToolUse(msgspec.Struct, kw_only=True, frozen=True):
    tools: list[dict[str, Any]]
    """As the client sent them, for the chat template."""
    form: ToolFormat
    guide: GuideSpec | None
    """Makes the answer a call, or the calls in it right; None: it is free."""
    max_calls: int | None
    """Further ones are dropped; None: any number."""
    is_named: bool
    """The client has said which function to call: then OpenAI's finish reason is `stop`, not `tool_calls`."""

    def stream(self, key: str) -> ToolStream:
        """
        :param key: of the answer, the same on every server that goes on with it: makes the ids of calls.
        """
        return ToolStream(self.form, key, max_calls=self.max_calls)


def tool_use(tools: Any, tool_choice: Any, parallel_tool_calls: bool | None, tokenizer: Tokenizer) -> ToolUse | None:
    """
    :param tools, tool_choice, parallel_tool_calls: as they stand in the body.
    :return: None: an answer without tools, which the chat template then is not told of either.
    :raises RequestError: naming the field that is wrong, or the model that cannot call tools.
    """
    wanted: list[Tool] = checked([] if tools is None else tools, list[Tool], param="tools")
    functions = {t.function.name: t.function for t in wanted}
    if len(functions) < len(wanted):
        raise RequestError("Two of the `tools` have the same name", param="tools")
    callable_ = _chosen(tool_choice, functions)
    if not callable_:
        return None
    form = tokenizer.tool_format()
    is_free = tool_choice in (None, "auto")
    max_calls = 1 if parallel_tool_calls is False or isinstance(tool_choice, dict) else None
    guide = None
    if not is_free or any(f.strict for f in callable_):
        text = calls_grammar(callable_, form, is_free=is_free, is_single=max_calls == 1)
        guide = GuideSpec(kind="grammar", text=text, param="tools")
    return ToolUse(tools=tools, form=form, guide=guide, max_calls=max_calls, is_named=isinstance(tool_choice, dict))


def _chosen(tool_choice: Any, functions: dict[str, Function]) -> list[Function]:
    """Those that may be called."""
    if tool_choice == "none" or (not functions and tool_choice in (None, "auto")):
        return []
    if not functions:
        raise RequestError("`tool_choice` needs `tools` to choose from", param="tool_choice")
    if tool_choice in (None, "auto", "required"):
        return [*functions.values()]
    if not isinstance(tool_choice, dict):
        raise RequestError(
            "`tool_choice` is none, auto, required, or the name of a function as an object", param="tool_choice"
        )
    name = checked(tool_choice, NamedTool, param="tool_choice").function.name
    if name not in functions:
        raise RequestError(
            f"`tool_choice` names {name}, which is not in `tools`: {', '.join(functions)}", param="tool_choice"
        )
    return [functions[name]]
