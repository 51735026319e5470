"""The document that says what can be asked: whole, true of the types, and without what is between servers."""

from __future__ import annotations

from typing import Any

import jsonschema
import msgspec
import pytest

from trtdisagg.protocol.openai import ChatRequest, CompletionRequest
from trtdisagg.proxy.door.guard import REGISTRY
from trtdisagg.proxy.door.openapi import OPERATIONS, document

WHOLE = document(OPERATIONS, has_keys=False)


def refs(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {v for k, v in value.items() if k == "$ref"} | {r for v in value.values() for r in refs(v)}
    return {r for v in value for r in refs(v)} if isinstance(value, list) else set()


def test_every_reference_leads_somewhere() -> None:
    for ref in refs(WHOLE):
        found: Any = WHOLE
        for part in ref.removeprefix("#/").split("/"):
            found = found[part]
        assert found


def test_what_is_between_servers_is_not_in_it() -> None:
    text = msgspec.json.encode(WHOLE).decode()
    assert '"disaggregated_params"' not in text
    assert '"seam"' not in text
    assert '"Ticket"' not in text


@pytest.mark.parametrize("kind", [CompletionRequest, ChatRequest])
def test_all_other_fields_are_in_it(kind: type[msgspec.Struct]) -> None:
    known = WHOLE["components"]["schemas"][kind.__name__]
    assert set(known["properties"]) == set(kind.__struct_fields__) - {
        "disaggregated_params",
        "seam",
        "prompt_token_ids",
    }
    assert known["additionalProperties"] is False


@pytest.mark.parametrize(
    ("body", "is_right"),
    [
        ({"model": "m", "prompt": "x"}, True),
        ({"model": "m", "prompt": [1, 2], "temperature": 0.5, "stop": ["a"]}, True),
        ({"model": "m"}, False),
        ({"model": "m", "prompt": "x", "temperature": -1}, False),
        ({"model": "m", "prompt": "x", "temprature": 1}, False),
    ],
)
def test_bodies_are_judged_as_the_decoder_does(body: dict[str, Any], is_right: bool) -> None:
    schema = {"$ref": "#/components/schemas/CompletionRequest", "components": WHOLE["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(body) == is_right
    try:
        msgspec.convert(body, CompletionRequest)
    except msgspec.ValidationError:
        assert not is_right
    else:
        assert is_right


def test_only_what_is_there_is_in_it_and_who_may_ask() -> None:
    few = document([("GET", "/health"), ("POST", "/v1/completions"), ("GET", "/metrics"), ("GET", "/x")], has_keys=True)
    assert set(few["paths"]) == {"/health", "/v1/completions", "/metrics"}
    assert "security" not in few["paths"]["/health"]["get"]
    assert few["paths"]["/v1/completions"]["post"]["security"] == [{"clientKey": []}]
    assert few["paths"]["/metrics"]["get"]["security"] == [{"clusterSecret": []}]
    ids = [o["operationId"] for path in WHOLE["paths"].values() for o in path.values()]
    assert len(set(ids)) == len(ids)
    assert not REGISTRY & {path for _, path in OPERATIONS}
