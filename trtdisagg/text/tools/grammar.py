"""Calls that are valid by construction: a grammar, in Lark's syntax, of how a family of models writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from trtdisagg.protocol.tools import Function
from trtdisagg.text.guided.json_form import WHITESPACE
from trtdisagg.text.tools.format import ToolFormat

_TEXT = r"TEXT: /(?s:.*)/"
_NO_OBJECT = r"NO_OBJECT: /([^{\s](?s:.*))?/"


def calls_grammar(functions: Sequence[Function], form: ToolFormat, *, is_free: bool, is_single: bool) -> str:
    """
    :param functions: those that may be called.
    :param is_free: any text may come first, and calls may be missing; once one is announced, it is right. Of functions
        that are not `strict`, the arguments are then any object.
    :param is_single: one call only.
    """
    start = _free(form, is_single) if is_free else _forced(form, is_single)
    calls = [_call(i, f, form, is_free=is_free) for i, f in enumerate(functions)]
    one = f"call: {' | '.join(f'call{i}' for i in range(len(functions)))}"
    return "\n".join([start, _section(form, is_single), one, *calls])


def _forced(form: ToolFormat, is_single: bool) -> str:
    begin = "" if form.starts_bare else _mark(form, form.begin)
    if is_single or form.is_list or form.starts_bare:
        return f"start: {begin} section"
    return f"start: {begin} section ({_literal(form.between)} {begin} section)*"


def _free(form: ToolFormat, is_single: bool) -> str:
    if form.starts_bare:
        return f"start: NO_OBJECT | section | {_mark(form, form.begin)} section\n{_NO_OBJECT}"
    often = "?" if is_single or form.is_list else "*"
    if form.begin in form.special_token_ids:
        head = f"head: TEXT {_mark(form, form.begin)}"
    else:
        head = f"head[lazy]: TEXT {_literal(form.begin)}"
    return f"start: (head section){often} TEXT\n{head}\n{_TEXT}"


def _section(form: ToolFormat, is_single: bool) -> str:
    """What stands between the announcement of a call and its end."""
    if form.is_list:
        others = "" if is_single else '(", " call)*'
        return f'section: "[" call {others} "]"'
    if form.end:
        return f'section: "\\n" call "\\n" {_mark(form, form.end)}'
    return "section: call"


def _call(index: int, function: Function, form: ToolFormat, *, is_free: bool) -> str:
    if form.names_first:
        call = f"{_literal(function.name)} {_mark(form, form.names_first)} arguments{index}"
    else:
        head = f'{{"name": "{function.name}", "{form.arguments_key}": '
        call = f'{_literal(head)} arguments{index} "}}"'
    return f"call{index}: {call}\narguments{index}: %json {json.dumps(_schema(function, is_free=is_free))}"


def _schema(function: Function, *, is_free: bool) -> dict[str, object]:
    schema: dict[str, object] = {"type": "object"}
    if not is_free or function.strict:
        schema = function.parameters or {"type": "object", "properties": {}, "additionalProperties": False}
    return {"x-guidance": {"whitespace_pattern": WHITESPACE}, **schema}


def _mark(form: ToolFormat, text: str) -> str:
    token_id = form.special_token_ids.get(text)
    return _literal(text) if token_id is None else f"<[{token_id}]>"


def _literal(text: str) -> str:
    return json.dumps(text)
