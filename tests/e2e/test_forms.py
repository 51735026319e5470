"""Answers that must have a form, from the real model, over a handover."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest
from helpers.cluster import Cluster

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

MODEL = "smollm2-135m-instruct"
PET = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "kind": {"enum": ["cat", "dog"]},
        "toys": {"type": "array", "items": {"type": "string", "maxLength": 10}, "maxItems": 2},
    },
    "required": ["name", "age", "kind", "toys"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "pet", "strict": True, "schema": PET}}


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=cluster.url + "/v1", api_key="-", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, text: str, **fields: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **fields)


def test_whatever_the_model_says_satisfies_the_schema(client: openai.OpenAI, num_rounds: int) -> None:
    def pet(seed: int) -> str:
        answer = ask(client, "Describe a pet.", temperature=1, seed=seed, max_tokens=300, response_format=FORM)
        assert answer.choices[0].finish_reason == "stop"
        return str(answer.choices[0].message.content)

    with ThreadPoolExecutor(10) as threads:
        pets = list(threads.map(pet, range(4 if num_rounds == 1 else 100)))
    for text in pets:
        jsonschema.validate(json.loads(text), PET)
    assert len(set(pets)) > 1


def test_streamed_it_is_the_same(client: openai.OpenAI) -> None:
    form = {"type": "regex", "regex": r"[A-Z][a-z]{2,8}(, [a-z]{2,8}){3}\."}
    wanted: dict[str, Any] = {"temperature": 1, "seed": 3, "extra_body": {"response_format": form}}
    whole = ask(client, "Name four pets.", **wanted).choices[0].message.content
    chunks = list(ask(client, "Name four pets.", stream=True, **wanted))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole


@pytest.mark.parametrize(
    ("form", "expression"),
    [
        ({"type": "regex", "regex": r"[A-Z][a-z]{2,8}, [0-9]{4}\."}, r"[A-Z][a-z]{2,8}, [0-9]{4}\."),
        ({"type": "choice", "choice": ["Berlin", "Paris, of course"]}, "Berlin|Paris, of course"),
        ({"type": "grammar", "grammar": 'start: "The " WORD "!"\nWORD: /[a-z]{1,6}/'}, "The [a-z]{1,6}!"),
    ],
)
def test_other_forms(client: openai.OpenAI, form: dict[str, Any], expression: str) -> None:
    answer = ask(client, "What is the capital of France?", temperature=0, extra_body={"response_format": form})
    assert re.fullmatch(expression, answer.choices[0].message.content)
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"response_format": {"type": "regex", "regex": "(a"}}, "response_format", "unclosed group"),
        ({"response_format": {"type": "json", "schema": {"not": {}}}}, "response_format", "Unimplemented keys"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", f"{MODEL} knows no tools"),
    ],
)
def test_what_cannot_be_is_refused(client: openai.OpenAI, fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        ask(client, "Hi", extra_body=fields)
    assert caught.value.param == param
