"""The clients people use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from helpers.cluster import REPOSITORY, Cluster, post

pytestmark = [pytest.mark.real_model]

MODEL = "smollm2-135m-instruct"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(cluster: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=cluster.url + "/v1", api_key="-", max_retries=0)


def test_chat(client: openai.OpenAI) -> None:
    with client:
        answer = client.chat.completions.create(model=MODEL, messages=FRANCE, temperature=0)
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (37, 8)


def test_chat_streamed(client: openai.OpenAI) -> None:
    with client:
        chunks = list(
            client.chat.completions.create(
                model=MODEL, messages=FRANCE, temperature=0, stream=True, stream_options={"include_usage": True}
            )
        )
    assert [c.choices[0].delta.role for c in chunks if c.choices].count("assistant") == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "The capital of France is Paris."
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 45


@pytest.mark.parametrize("stream", [False, True])
def test_completion_stops_at_a_string(client: openai.OpenAI, stream: bool) -> None:
    with client:
        answer = client.completions.create(
            model=MODEL, prompt="The capital of France is", max_tokens=40, temperature=0, stop=["answer is"],
            stream=stream,
        )  # fmt: skip
        chunks = list(answer) if stream else [answer]
    assert "".join(c.choices[0].text for c in chunks) == " Paris.\n\nThe "
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_one_token(client: openai.OpenAI, stream: bool) -> None:
    with client:
        answer = client.completions.create(
            model=MODEL, prompt="The capital of France is", max_tokens=1, temperature=0, stream=stream
        )
        chunks = list(answer) if stream else [answer]
    assert "".join(c.choices[0].text for c in chunks) == " Paris"
    assert chunks[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_a_seed_makes_sampling_repeatable(client: openai.OpenAI, stream: bool) -> None:
    def sample(seed: int) -> str:
        answer = client.completions.create(
            model=MODEL, prompt="My favourite animal is", max_tokens=20, temperature=1.5, seed=seed, stream=stream
        )
        chunks = list(answer) if stream else [answer]
        return "".join(c.choices[0].text for c in chunks)

    with client:
        assert sample(7) == sample(7)
        assert len({sample(seed) for seed in range(4)}) > 1


def test_models(client: openai.OpenAI) -> None:
    with client:
        assert [m.id for m in client.models.list()] == [MODEL]


@pytest.mark.parametrize(
    ("body", "status", "about"),
    [
        (b'{"model": ', 400, "JSON"),
        ({"model": MODEL, "prompt": "x", "temprature": 1}, 400, "temprature"),
        ({"model": MODEL, "prompt": "x", "temperature": "hot"}, 400, "temperature"),
        ({"model": "gpt-5", "prompt": "x"}, 404, "gpt-5"),
        ({"model": MODEL, "prompt": ""}, 400, "prompt"),
        ({"model": MODEL, "prompt": "word " * 4000}, 400, "2048"),
        ({"model": MODEL, "prompt": "x", "max_tokens": 4000}, 400, "2048"),
        ({"model": MODEL, "prompt": "x" * 9_000_000}, 413, "8388608"),
        ({"model": MODEL, "prompt": "x", "n": 1000}, 400, "max_batch_size"),
        ({"model": MODEL, "prompt": "x", "use_beam_search": True}, 400, "width of 1"),
        ({"model": MODEL, "prompt": "x", "disaggregated_params": {"request_type": "context_only"}}, 400, "disagg"),
    ],
)
def test_bad_input_is_answered_and_the_server_goes_on(cluster: Cluster, body: object, status: int, about: str) -> None:
    got, answer = post(cluster.url + "/v1/completions", body)  # type: ignore[arg-type]
    assert got == status, answer
    assert about in answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert post(cluster.url + "/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 2})[0] == 200


@pytest.mark.parametrize("kind", ["completions", "chat"])
@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_example_client(cluster: Cluster, tmp_path: Path, kind: str, streaming: list[str]) -> None:
    asked = ["What is the capital of France?", "Water boils at", "2 + 2 ="]
    prompts, out = tmp_path / "prompts.json", tmp_path / "out.json"
    prompts.write_text(json.dumps(asked))
    client = REPOSITORY / "examples" / "clients" / "disagg_client.py"
    command = [sys.executable, client, "-c", cluster.file, "-p", prompts, "-e", kind, "--max-tokens", "8", "-o", out]
    subprocess.run([*command, *streaming], check=True, timeout=180, env=cluster.env)
    answers = json.loads(out.read_text())
    assert answers == [alone(cluster, kind, prompt) for prompt in asked]
    assert len(set(answers)) == 3


def alone(cluster: Cluster, kind: str, prompt: str) -> str:
    """The answer to one prompt, asked without the client."""
    body: dict[str, object] = {"model": MODEL, "max_tokens": 8, "temperature": 0}
    if kind == "chat":
        body["messages"] = [{"role": "user", "content": prompt}]
        status, answer = post(cluster.url + "/v1/chat/completions", body)
    else:
        status, answer = post(cluster.url + "/v1/completions", {**body, "prompt": prompt})
    assert status == 200, answer
    choice = answer["choices"][0]
    text: str = choice["message"]["content"] if kind == "chat" else choice["text"]
    return text
