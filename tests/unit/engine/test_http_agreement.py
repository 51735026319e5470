"""Streamed or whole, by one server or by two: the same request has the same answer, whatever it asks for."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.http_face import http_face, make_tokenizer, parse_events
from helpers.streams import put_together
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.anyio

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]
SEAM: dict[str, Any] = {"id": "x-1", "created": 5}

scripts = st.text("ab🎉é ", max_size=6).map(lambda text: text + "<|im_start|>" * (len(text) == 3) + text[:1])
shared = {
    "stop": st.lists(st.text("ab🎉", min_size=1, max_size=3), max_size=2),
    "include_stop_str_in_output": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "return_token_ids": st.booleans(),
    "detokenize": st.booleans(),
    "stop_token_ids": st.sampled_from([[], make_tokenizer().encode("b")]),
    "max_tokens": st.integers(1, 9),
}
of_completions: list[dict[str, Any]] = [{}, {"logprobs": 0}, {"logprobs": 3}]
of_chats: list[dict[str, Any]] = [{}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 2}]
of_one_server = {"n": st.integers(1, 3)}
of_one_completion = {**of_one_server, "echo": st.booleans(), "prompt": st.sampled_from([["Hi", "Ho"], "é🎉"])}

Wish = tuple[str, dict[str, Any]]


def wishes(*, divisible: bool) -> st.SearchStrategy[Wish]:
    return completions({} if divisible else of_one_completion) | chats({} if divisible else of_one_server)


def completions(more: dict[str, Any]) -> st.SearchStrategy[Wish]:
    fields = st.fixed_dictionaries({}, optional=shared | more)
    named = st.builds(lambda a, b: {"model": "tiny", "prompt": "Hi", **a, **b}, fields, st.sampled_from(of_completions))
    return st.tuples(st.just(COMPLETIONS), named)


def chats(more: dict[str, Any]) -> st.SearchStrategy[Wish]:
    fields = st.fixed_dictionaries({}, optional=shared | more)
    base = {"model": "tiny", "messages": MESSAGES}
    named = st.builds(lambda a, b: {**base, **a, **b}, fields, st.sampled_from(of_chats))
    return st.tuples(st.just(CHAT), named)


def streamed(wish: dict[str, Any]) -> dict[str, Any]:
    return {**wish, "stream": True, "stream_options": {"include_usage": True}}


def comparable(whole: dict[str, Any]) -> dict[str, Any]:
    """Without what is not in chunks, and what the legs of a handover tell each other."""
    choices = [
        {k: v for k, v in c.items() if k not in ("prompt_token_ids", "disaggregated_params", "stop_reason")}
        for c in whole["choices"]
    ]
    for choice in choices:
        if choice["logprobs"] == {"content": [], "refusal": None}:
            choice["logprobs"] = None
    return {"choices": choices, "usage": whole["usage"], "model": whole["model"]}


async def one_server(script: str, path: str, wish: dict[str, Any]) -> dict[str, Any]:
    async with http_face(script) as face:
        status, body = await face.post(path, wish)
        assert status == 200, body
        return comparable(body)


async def one_stream(script: str, path: str, wish: dict[str, Any]) -> dict[str, Any]:
    async with http_face(script) as face:
        return comparable(put_together(await face.events(path, streamed(wish))))


async def two_servers(script: str, path: str, wish: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """As a proxy does it."""
    seam = {**SEAM, "stream": stream, "include_usage": stream}
    async with http_face(script) as face:
        context = {**wish, "disaggregated_params": {"request_type": "context_only"}, "seam": seam}
        status, first = await face.post(path, context)
        assert status == 200, first
    reply, choice = first["seam"], first["choices"][0]
    so_far = reply.get("first_chunk", "")
    if choice["finish_reason"] != "not_finished":
        return comparable(put_together(parse_events(so_far)) if stream else first)
    params = {**choice["disaggregated_params"], "request_type": "generation_only"}
    more = {**(streamed(wish) if stream else wish), "disaggregated_params": params}
    more["seam"] = {**seam, "num_chars_sent": reply.get("num_chars_sent", 0)}
    more["prompt_token_ids" if path == CHAT else "prompt"] = first["prompt_token_ids"]
    async with http_face(script) as face:
        if not stream:
            return comparable((await face.post(path, more))[1])
        async with face.session.post(path, json=more) as answer:
            assert answer.status == 200, await answer.text()
            return comparable(put_together(parse_events(so_far + await answer.text())))


RANDOM = settings(max_examples=25, suppress_health_check=list(HealthCheck))


@RANDOM
@given(script=scripts, asked=wishes(divisible=False))
async def test_streamed_or_whole(script: str, asked: Wish) -> None:
    path, wish = asked
    assert await one_stream(script, path, wish) == await one_server(script, path, wish)


@RANDOM
@given(script=scripts, asked=wishes(divisible=True), stream=st.booleans())
async def test_by_one_server_or_by_two(script: str, asked: Wish, stream: bool) -> None:
    path, wish = asked
    assert await two_servers(script, path, wish, stream=stream) == await one_server(script, path, wish)
