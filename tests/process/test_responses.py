"""`/v1/responses` with the client people use: text whole and in events, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from fakes import words
from helpers.serving import MODEL, Serving, serving

INPUT = "What is the capital of France?"
ANSWER = words.chat_answer([{"role": "user", "content": INPUT}], 7)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("serving"), {"context-0": [], "generation-0": []}) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_whole(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input=INPUT, max_output_tokens=7)
    assert response.output_text == ANSWER
    assert (response.status, response.model, response.error) == ("incomplete", MODEL, None)
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 7


def test_streamed(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input=INPUT, max_output_tokens=7) as stream:
        events = list(stream)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == ANSWER


def test_one_token(client: openai.OpenAI) -> None:
    """There is no generation leg."""
    first = words.chat_answer([{"role": "user", "content": INPUT}], 1)
    assert client.responses.create(model=MODEL, input=INPUT, max_output_tokens=1).output_text == first
    events = list(client.responses.create(model=MODEL, input=INPUT, max_output_tokens=1, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == first


def test_the_conversation_is_the_clients_to_keep(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.responses.create(model=MODEL, input=INPUT, previous_response_id="resp_1")
    with pytest.raises(openai.BadRequestError, match="Unknown field `wat`"):
        client.responses.create(model=MODEL, input=INPUT, extra_body={"wat": 1})
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="other", input=INPUT)


def test_nothing_of_the_seam_is_said(cluster: Serving, client: openai.OpenAI) -> None:
    events = client.responses.create(model=MODEL, input=INPUT, max_output_tokens=7, stream=True)
    assert not any("seam" in event.to_json() for event in events)


def test_a_stream_goes_on_elsewhere(tmp_path: Path) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": ["--cut-at-token", "3"], "generation-1": []}) as cluster:
        with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
            for _ in range(2):  # one of them begins on the server that breaks
                events = list(client.responses.create(model=MODEL, input=INPUT, max_output_tokens=7, stream=True))
                assert events[-1].type == "response.incomplete"
                assert events[-1].response.output_text == ANSWER
        assert cluster["generation-1"].state()["finished"] == 2


def test_a_stream_that_cannot_go_on_has_failed(tmp_path: Path) -> None:
    flags = ["--cut-at-token", "3"]
    with (
        serving(tmp_path, {"context-0": [], "generation-0": flags}, max_migrations=0) as cluster,
        openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client,
    ):
        events = list(client.responses.create(model=MODEL, input=INPUT, max_output_tokens=7, stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert events[-1].response.error.message
    assert ANSWER.startswith(events[-1].response.output_text)
