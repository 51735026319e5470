"""Every feature over two servers: the answer is the one that a generation server gives alone, streamed or whole."""

from __future__ import annotations

import functools
import json
import urllib.request
from collections.abc import Callable
from typing import Any

import openai
import pytest
from helpers.cluster import Cluster, post, runtime_directory
from helpers.http_face import parse_events
from helpers.streams import nearly, put_together

pytestmark = [pytest.mark.real_model]

MODEL = "smollm2-135m-instruct"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
FRANCE: dict[str, Any] = {"prompt": "The capital of France is", "max_tokens": 6}
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 6}
PERSON = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}

FEATURES: dict[str, dict[str, Any]] = {
    "logprobs": {**FRANCE, "logprobs": 3, "return_token_ids": True},
    "chat": {**ASKED, "logprobs": True, "top_logprobs": 2, "min_tokens": 10, "max_tokens": 10},
    "edits": {
        **FRANCE,
        "repetition_penalty": 1.3,
        "presence_penalty": 1,
        "frequency_penalty": 0.5,
        "logit_bias": {"7042": -100},
        "bad_words": ["city"],
        "logprobs": 0,
    },
    "seed": {**FRANCE, "temperature": 1.2, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "seed": 5, "detokenize": False},
    "stop": {**FRANCE, "max_tokens": 12, "stop": ["answer is"], "logprobs": 0},
    "schema": {
        **ASKED,
        "max_tokens": 24,
        "response_format": {"type": "json_schema", "json_schema": {"schema": PERSON}},
    },
    "regex": {**FRANCE, "guided_regex": " (Paris|London)", "logprobs": 0},
    "prompts": {
        **FRANCE,
        "prompt": ["Water boils at", "2 + 2 ="],
        "n": 2,
        "temperature": 1.0,
        "seed": 3,
        "logprobs": 0,
    },
    "echo": {**FRANCE, "echo": True, "logprobs": 1},
}
WHOLE_ONLY: dict[str, dict[str, Any]] = {
    "best_of": {**FRANCE, "best_of": 3, "temperature": 1.0, "seed": 2},
    "prompt_logprobs": {**FRANCE, "prompt_logprobs": 2, "max_tokens": 1},
    "prompt alone": {**FRANCE, "echo": True, "max_tokens": 0, "logprobs": 0},
}


def path_of(feature: dict[str, Any]) -> str:
    return CHAT if "messages" in feature else COMPLETIONS


def ask(url: str, feature: dict[str, Any], secret: str = "") -> Any:
    return json.loads(_post(url, feature, secret))


def stream(url: str, feature: dict[str, Any]) -> Any:
    wish = {**feature, "stream": True, "stream_options": {"include_usage": True}}
    return put_together(parse_events(_post(url, wish)))


def _post(url: str, feature: dict[str, Any], secret: str = "") -> str:
    body = json.dumps({"model": MODEL, "temperature": 0, **feature}).encode()
    request = urllib.request.Request(url + path_of(feature), body, {"Authorization": f"Bearer {secret}"})
    with urllib.request.urlopen(request, timeout=180) as answer:
        return str(answer.read().decode())


Ask = Callable[[dict[str, Any]], Any]


def comparable(body: Any) -> Any:
    """Without what differs between two answers to the same request, or is in whole ones only."""
    choices = [{k: v for k, v in c.items() if k not in ("stop_reason", "prompt_token_ids")} for c in body["choices"]]
    usage = {k: v for k, v in body["usage"].items() if k != "prompt_tokens_details"}
    return nearly({"choices": choices, "usage": usage})


@pytest.fixture(scope="module")
def alone(cluster: Cluster) -> Ask:
    """One server, asked without the proxy."""
    (secret,) = runtime_directory(cluster.directory).rglob("secret")
    return functools.partial(ask, f"http://{cluster.server('generation-0')['url']}", secret=secret.read_text().strip())


@pytest.mark.parametrize("name", FEATURES)
def test_two_servers_answer_as_one(cluster: Cluster, alone: Ask, name: str) -> None:
    whole = comparable(ask(cluster.url, FEATURES[name]))
    assert whole == comparable(alone(FEATURES[name]))
    assert whole == comparable(stream(cluster.url, FEATURES[name]))


@pytest.mark.parametrize("name", WHOLE_ONLY)
def test_what_is_not_streamed(cluster: Cluster, alone: Ask, name: str) -> None:
    assert comparable(ask(cluster.url, WHOLE_ONLY[name])) == comparable(alone(WHOLE_ONLY[name]))


def test_what_they_say(cluster: Cluster) -> None:
    """The figures themselves, with the client people use."""
    with openai.OpenAI(base_url=cluster.url + "/v1", api_key="-", max_retries=0) as client:
        answer = client.completions.create(model=MODEL, temperature=0, logprobs=2, echo=True, **FRANCE)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.tokens is not None
        assert "".join(logprobs.tokens) == answer.choices[0].text
        assert logprobs.tokens[:2] == ["The", " capital"]
        assert logprobs.token_logprobs is not None
        assert logprobs.token_logprobs[0] is None
        assert all(p < 0 for p in logprobs.token_logprobs[1:] if p is not None)
        chat = client.chat.completions.create(
            model=MODEL, response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}},
            messages=[{"role": "user", "content": "How old is Ann, who is 31?"}], max_tokens=30, temperature=0,
        )  # fmt: skip
        assert isinstance(json.loads(chat.choices[0].message.content or "")["age"], int)
        several = client.completions.create(model=MODEL, prompt=["a", "b"], n=2, max_tokens=2, temperature=1, seed=1)
        assert [c.index for c in several.choices] == [0, 1, 2, 3]


def test_cached_tokens_are_those_of_the_context_server(cluster: Cluster) -> None:
    wish = {"prompt": "Cached " * 100, "max_tokens": 2}
    first, again = (ask(cluster.url, wish)["usage"] for _ in range(2))
    assert first["prompt_tokens"] == again["prompt_tokens"]
    assert again["prompt_tokens_details"]["cached_tokens"] == again["prompt_tokens"] - 1


def test_a_deadline(cluster: Cluster) -> None:
    wish = {"model": MODEL, "prompt": "x", "max_tokens": 1500, "ignore_eos": True, "timeout": 0.3}
    status, body = post(cluster.url + COMPLETIONS, wish)
    assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
    with (
        openai.OpenAI(base_url=cluster.url + "/v1", api_key="-", max_retries=0) as client,
        pytest.raises(openai.APIError, match="timeout"),  # before the first token or behind it
    ):
        list(client.completions.create(
            model=MODEL, prompt="x", max_tokens=1500, stream=True, extra_body={"ignore_eos": True},
            extra_headers={"X-Request-Timeout": "1"},
        ))  # fmt: skip
