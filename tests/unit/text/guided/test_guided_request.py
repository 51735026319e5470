from __future__ import annotations

from typing import Any

import pytest

from trtdisagg.errors import RequestError, UnsupportedError
from trtdisagg.protocol.guide import GuideSpec
from trtdisagg.text.guided.request import guide_of

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": True}}
TEXT = '{"type":"object","properties":{"b":{"type":"integer"},"a":true}}'
OF_SCHEMA = GuideSpec(kind="json_schema", text=TEXT)


@pytest.mark.parametrize(
    ("form", "guide"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, GuideSpec(kind="json_object")),
        ({"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}, OF_SCHEMA),
        ({"type": "json_schema", "json_schema": SCHEMA}, OF_SCHEMA),
        ({"type": "json", "schema": SCHEMA}, OF_SCHEMA),
        ({"type": "regex", "regex": "a+"}, GuideSpec(kind="regex", text="a+")),
        ({"type": "ebnf", "ebnf": "root ::= x"}, GuideSpec(kind="grammar", text="root ::= x")),
        ({"type": "grammar", "grammar": "start: x"}, GuideSpec(kind="grammar", text="start: x")),
        ({"type": "choice", "choice": ["é", "b"]}, GuideSpec(kind="choice", text='["é","b"]')),
    ],
)
def test_response_format(form: Any, guide: GuideSpec | None) -> None:
    assert guide_of(form) == guide


@pytest.mark.parametrize(
    ("fields", "guide"),
    [
        ({"guided_json": SCHEMA}, OF_SCHEMA),
        ({"guided_json": TEXT}, OF_SCHEMA),
        ({"guided_regex": "a"}, GuideSpec(kind="regex", text="a")),
        ({"guided_choice": ["a"]}, GuideSpec(kind="choice", text='["a"]')),
        ({"guided_grammar": "start: x"}, GuideSpec(kind="grammar", text="start: x")),
        ({"structured_outputs": {"json": TEXT}}, OF_SCHEMA),
        ({"structured_outputs": {"regex": "a"}}, GuideSpec(kind="regex", text="a")),
        ({"structured_outputs": {"choice": ["a"]}}, GuideSpec(kind="choice", text='["a"]')),
        ({"structured_outputs": {"grammar": "x"}}, GuideSpec(kind="grammar", text="x")),
        ({"structured_outputs": {"json_object": True}}, GuideSpec(kind="json_object")),
    ],
)
def test_the_fields_of_others(fields: dict[str, Any], guide: GuideSpec) -> None:
    assert guide_of(**fields) == guide
    assert guide_of({"type": "text"}, **fields) == guide


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"response_format": "json"}, "response_format", "Expected `object`, got `str`"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        ({"response_format": {"type": "regex"}}, "response_format", "missing required field `regex`"),
        ({"response_format": {"type": "text", "regex": "a"}}, "response_format", "unknown field `regex`"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema",
            "schema",
        ),
        ({"response_format": {"type": "json", "schema": 3}}, "response_format.schema", "int"),
        ({"response_format": {"type": "choice", "choice": []}}, "response_format.choice", "empty list"),
        ({"response_format": {"type": "choice", "choice": ["a", 1]}}, "response_format.choice[1]", "`int`"),
        ({"structured_outputs": {}}, "structured_outputs", "says nothing"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs", "whitespace_pattern"),
        ({"guided_json": "{"}, "guided_json", "not valid JSON"),
        ({"guided_json": "[" * 100_000}, "guided_json", "not valid JSON"),
        ({"guided_json": [1]}, "guided_json", "array"),
        ({"guided_json": {}, "guided_regex": "a"}, "response_format", "once only"),
        ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "response_format", "once only"),
        ({"structured_outputs": {"regex": "a", "json_object": True}}, "response_format", "once only"),
    ],
)
def test_what_means_nothing_is_refused_by_its_path(fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        guide_of(**fields)
    assert caught.value.param == param


def test_structural_tags_are_not_supported() -> None:
    with pytest.raises(UnsupportedError, match="structural_tag"):
        guide_of({"type": "structural_tag", "format": {}})
