"""A call that is there as a whole, in any of the shapes in which models write one."""

from __future__ import annotations

import json
from typing import Any

FIRST_KEYS = frozenset({"name", "arguments", "parameters", "type", "id", "function"})
"""Of an object that may be a call: with another one it is something else."""


def whole_call(text: str) -> tuple[str, str] | None:
    """
    :return: name and arguments, these as JSON; None when it is no call.
    """
    try:
        call = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    if isinstance(call.get("function"), dict):
        call = call["function"]
    name = call.get("name", call.get("function"))
    arguments = _arguments(call.get("arguments", call.get("parameters")))
    return (name, arguments) if isinstance(name, str) and arguments is not None else None


def _arguments(value: Any) -> str | None:
    if value is None:
        return "{}"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return value if isinstance(value, str) and value.lstrip().startswith("{") else None
