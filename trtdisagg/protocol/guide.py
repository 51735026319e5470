"""What the text of an answer must look like, as a value: of OpenAI's `response_format`, of tools, of guided choices."""

from __future__ import annotations

from typing import Literal

import msgspec

GuideKind = Literal["json_object", "json_schema", "regex", "grammar", "choice"]


class GuideSpec(msgspec.Struct, kw_only=True, frozen=True):
    kind: GuideKind
    text: str = ""
    """`json_schema`: the schema as JSON; `regex`: the expression; `grammar`: in Lark's syntax, or GBNF; `choice`: a
    JSON array of strings, one of which it must be; `json_object`: unused."""
    param: str = "response_format"
    """The field of the request that it comes from, for messages."""
