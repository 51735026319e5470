"""What a request says about the form of its answer -> GuideSpec.

OpenAI's `response_format`, with the types that TensorRT-LLM adds, and vLLM's fields. What the schema, expression or
grammar itself says is not looked at here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trtdisagg.errors import RequestError, UnsupportedError
from trtdisagg.protocol.guide import GuideKind, GuideSpec
from trtdisagg.text.checked import checked

Schema = dict[str, Any]


def guide_of(
    response_format: Any = None,
    *,
    structured_outputs: Any = None,
    guided_json: Any = None,
    guided_regex: str | None = None,
    guided_choice: list[str] | None = None,
    guided_grammar: str | None = None,
) -> GuideSpec | None:
    """
    :param response_format: as it stands in the body: {"type": ...}.
    :return: None where the answer is free text.
    :raises RequestError: when it means nothing, or more than one says the form of the answer.
    """
    found = [
        *_of_response_format(response_format),
        *_of_structured_outputs(structured_outputs),
        *_of_schema(guided_json, "guided_json"),
        *_of_text("regex", guided_regex),
        *_of_choice(guided_choice, "guided_choice"),
        *_of_text("grammar", guided_grammar),
    ]
    if len(found) > 1:
        raise RequestError(
            "The form of an answer can be given once only: by `response_format`, or by one of the guided fields",
            param="response_format",
        )
    return found[0] if found else None


# --- response_format: the tag is its `type` --------------------------------------------------------------------------


class _Text(msgspec.Struct, frozen=True, tag="text", forbid_unknown_fields=True):
    def guides(self) -> list[GuideSpec]:
        return []


class _JsonObject(msgspec.Struct, frozen=True, tag="json_object", forbid_unknown_fields=True):
    def guides(self) -> list[GuideSpec]:
        return [GuideSpec(kind="json_object")]


class _JsonSchema(msgspec.Struct, frozen=True, tag="json_schema", forbid_unknown_fields=True):
    json_schema: dict[str, Any]

    def guides(self) -> list[GuideSpec]:
        """TensorRT-LLM also takes the schema as it is, without OpenAI's wrapping."""
        schema = self.json_schema
        if self.json_schema.keys() <= set(_NamedSchema.__struct_fields__):
            schema = checked(self.json_schema, _NamedSchema, param="response_format.json_schema").schema
        return _of_schema(schema, "response_format.json_schema.schema")


class _Json(msgspec.Struct, frozen=True, tag="json", forbid_unknown_fields=True):
    schema: Schema

    def guides(self) -> list[GuideSpec]:
        return _of_schema(self.schema, "response_format.schema")


class _Regex(msgspec.Struct, frozen=True, tag="regex", forbid_unknown_fields=True):
    regex: str

    def guides(self) -> list[GuideSpec]:
        return _of_text("regex", self.regex)


class _Ebnf(msgspec.Struct, frozen=True, tag="ebnf", forbid_unknown_fields=True):
    ebnf: str

    def guides(self) -> list[GuideSpec]:
        return _of_text("grammar", self.ebnf)


class _Grammar(msgspec.Struct, frozen=True, tag="grammar", forbid_unknown_fields=True):
    grammar: str

    def guides(self) -> list[GuideSpec]:
        return _of_text("grammar", self.grammar)


class _Choice(msgspec.Struct, frozen=True, tag="choice", forbid_unknown_fields=True):
    choice: list[str]

    def guides(self) -> list[GuideSpec]:
        return _of_choice(self.choice, "response_format.choice")


class _StructuralTag(msgspec.Struct, frozen=True, tag="structural_tag"):
    def guides(self) -> list[GuideSpec]:
        raise UnsupportedError(
            "`response_format` of type structural_tag is not supported; use `tools`, or a grammar",
            param="response_format.type",
        )


_Form = _Text | _JsonObject | _JsonSchema | _Json | _Regex | _Ebnf | _Grammar | _Choice | _StructuralTag


class _NamedSchema(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """OpenAI's wrapping of a schema."""

    name: str | None = None
    description: str | None = None
    schema: Schema
    strict: bool | None = None
    """The answer keeps to the schema whatever this says."""


class _StructuredOutputs(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """vLLM's."""

    json: str | Schema | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


def _of_response_format(value: Any) -> list[GuideSpec]:
    if value is None:
        return []
    form: _Form = checked(value, _Form, param="response_format")  # type: ignore[arg-type]  # a union is no type
    return form.guides()


def _of_structured_outputs(value: Any) -> list[GuideSpec]:
    if value is None:
        return []
    param = "structured_outputs"
    wanted = checked(value, _StructuredOutputs, param=param)
    found = [
        *_of_schema(wanted.json, f"{param}.json"),
        *_of_text("regex", wanted.regex),
        *_of_choice(wanted.choice, f"{param}.choice"),
        *_of_text("grammar", wanted.grammar),
        *([GuideSpec(kind="json_object")] if wanted.json_object else []),
    ]
    if not found:
        raise RequestError(f"`{param}` says nothing: give it one of json, regex, choice, grammar", param=param)
    return found


def _of_schema(schema: Any, param: str) -> list[GuideSpec]:
    """
    :param schema: or its text, as vLLM allows.
    """
    if schema is None:
        return []
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except (msgspec.DecodeError, RecursionError) as e:
            raise RequestError(f"`{param}` is not valid JSON: {e}", param=param) from None
    text = msgspec.json.encode(checked(schema, Schema, param=param)).decode()
    return [GuideSpec(kind="json_schema", text=text)]


def _of_text(kind: GuideKind, text: str | None) -> list[GuideSpec]:
    return [] if text is None else [GuideSpec(kind=kind, text=text)]


def _of_choice(choice: list[str] | None, param: str) -> list[GuideSpec]:
    if choice is None:
        return []
    if not choice:
        raise RequestError(f"`{param}` is an empty list: there is nothing to choose from", param=param)
    return [GuideSpec(kind="choice", text=msgspec.json.encode(choice).decode())]
