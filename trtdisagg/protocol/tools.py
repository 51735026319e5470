"""Tools as OpenAI's API has them: what a request says of them, and the calls in an answer, whole and in pieces."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

ToolName = Annotated[str, msgspec.Meta(pattern=r"^[\w.:/-]{1,128}$")]


class Function(msgspec.Struct, kw_only=True, frozen=True):
    """What the model is told of a function; further keys are for its chat template."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema; None: it takes none."""
    strict: bool | None = None
    """Its arguments keep to the schema also where the model is free to call it or not."""


class Tool(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Function


class FunctionName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class NamedTool(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """`tool_choice`: this one."""

    type: Literal["function"]
    function: FunctionName


class FunctionCall(msgspec.Struct, kw_only=True, frozen=True):
    name: str
    arguments: str
    """JSON, as the model wrote it."""


class ToolCall(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class FunctionDelta(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None
    """To be appended."""


class ToolCallDelta(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A piece of a call; the first one has id, type and name."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta
