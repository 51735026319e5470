"""What an answer says of its tokens: how probable they were, their ids, their logits; and of the prompt's."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.executor import logprob_of
from helpers import tiny_tokenizer
from helpers.http_face import http_face, make_tokenizer

pytestmark = pytest.mark.anyio

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
GOOD = {"model": "tiny", "prompt": "Hi"}
MESSAGES = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
TOKENIZER = make_tokenizer()


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def spelt(token_id: int) -> str:
    return TOKENIZER.token_bytes[token_id].decode(errors="replace")


def logprobs(token: int, position: int, num: int) -> tuple[float, list[tuple[int, float]]]:
    _, logprob, top = logprob_of(token, position, num)
    return logprob, top


async def test_of_a_completion() -> None:
    async with http_face("abc") as face:
        body = await face.complete(logprobs=2, max_tokens=2)
    a, b = ids("ab")
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["a", "b"],
        "token_logprobs": [logprobs(a, 0, 0)[0], logprobs(b, 1, 0)[0]],
        "top_logprobs": [
            {spelt(t): p for t, p in logprobs(a, 0, 2)[1]},
            {spelt(t): p for t, p in logprobs(b, 1, 2)[1]},
        ],
        "text_offset": [0, 1],
    }


async def test_the_token_itself_is_always_among_the_top() -> None:
    async with http_face("a") as face:
        for num, named in ((0, {"a"}), (1, {"a", "b"})):
            top = (await face.complete(logprobs=num))["choices"][0]["logprobs"]["top_logprobs"][0]
            assert set(top) == named


async def test_of_a_chat() -> None:
    async with http_face("a🎉") as face:
        _, body = await face.post(CHAT, {**MESSAGES, "logprobs": True, "top_logprobs": 1})
        _, plain = await face.post(CHAT, {**MESSAGES, "logprobs": True})
        _, none = await face.post(CHAT, MESSAGES)
    said = body["choices"][0]["logprobs"]
    assert set(said) == {"content", "refusal"}
    first, *party = said["content"]
    (a,) = ids("a")
    other, other_logprob = logprobs(a, 0, 1)[1][0]
    assert first == {
        "token": "a",
        "logprob": logprobs(a, 0, 0)[0],
        "bytes": [97],
        "top_logprobs": [{"token": spelt(other), "logprob": other_logprob, "bytes": list(spelt(other).encode())}],
    }
    assert bytes(b for token in party for b in token["bytes"]).decode() == "🎉"
    assert {token["token"] for token in party} == {"�"}
    assert [t["top_logprobs"] for t in plain["choices"][0]["logprobs"]["content"]] == [[]] * 5
    assert none["choices"][0]["logprobs"] is None


async def test_tokens_go_with_the_text_that_they_complete() -> None:
    wish = {**GOOD, "logprobs": 0, "stop": "cd", "stream": True}
    async with http_face("a🎉bcx") as face:
        events = await face.events(COMPLETIONS, wish)
    said = [(c["text"], c["logprobs"]["tokens"]) for e in events[:-1] for c in e["choices"]]
    party = ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\x8e", "bytes:\\x89"]
    assert said == [("a", ["a"]), ("🎉", party), ("b", ["b"]), ("cx", ["c", "x"]), ("", [])]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_stop_string_cuts_off_has_no_probabilities(stream: bool) -> None:
    wish = {**GOOD, "logprobs": 0, "stop": "END", "stream": stream, "return_token_ids": True}
    async with http_face("ab END") as face:
        if stream:
            events = await face.events(COMPLETIONS, wish)
            choices = [c for e in events[:-1] for c in e["choices"]]
        else:
            choices = (await face.complete(**{k: v for k, v in wish.items() if k not in GOOD}))["choices"]
    assert "".join(c["text"] for c in choices) == "ab "
    said = [c["logprobs"] for c in choices if c["logprobs"]]
    assert [t for s in said for t in s["tokens"]] == ["a", "b", " "]
    assert [o for s in said for o in s["text_offset"]] == [0, 1, 2]
    assert [t for c in choices for t in c.get("token_ids", [])] == ids("ab END")


# --- token ids ------------------------------------------------------------------------------------------------------


async def test_token_ids_in_place_of_text() -> None:
    async with http_face("ab") as face:
        choice = (await face.complete(detokenize=False))["choices"][0]
        assert (choice["text"], choice["token_ids"]) == ("", [*ids("ab"), tiny_tokenizer.EOS_ID])
        assert "prompt_token_ids" not in choice
        events = await face.events(COMPLETIONS, {**GOOD, "detokenize": False, "stream": True})
        assert [c["token_ids"] for e in events[:-1] for c in e["choices"]] == [
            ids("a"),
            ids("b"),
            [tiny_tokenizer.EOS_ID],
        ]


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_token_ids_beside_text(path: str) -> None:
    wish = {**(GOOD if path == COMPLETIONS else MESSAGES), "return_token_ids": True}
    async with http_face("ab") as face:
        _, body = await face.post(path, wish)
        prompt = face.executor.requests[0].prompt_token_ids
        choice = body["choices"][0]
        assert choice["token_ids"] == [*ids("ab"), tiny_tokenizer.EOS_ID]
        assert (choice if path == COMPLETIONS else body)["prompt_token_ids"] == prompt
        events = await face.events(path, {**wish, "stream": True})
        opening = events[0]["choices"][0] if path == COMPLETIONS else events[0]
        assert opening["prompt_token_ids"] == prompt
        assert [t for e in events[:-1] for c in e["choices"] for t in c.get("token_ids", [])] == choice["token_ids"]


# --- the prompt's ---------------------------------------------------------------------------------------------------


async def test_echo() -> None:
    async with http_face("abc") as face:
        body = await face.complete("Say: ", echo=True, max_tokens=2)
        assert body["choices"][0]["text"] == "Say: ab"
        assert body["usage"]["completion_tokens"] == 2
        body = await face.complete(["x", ids("yz")], echo=True, n=2)
        assert [c["text"] for c in body["choices"]] == ["xabc", "xbc", "yzabc", "yzbc"]
        body = await face.complete("abcdef", echo=True, truncate_prompt_tokens=2)
        assert body["choices"][0]["text"] == "efabc"
        events = await face.events(COMPLETIONS, {**GOOD, "echo": True, "stream": True, "stop": "c"})
        assert [c["text"] for e in events[:-1] for c in e["choices"]] == ["Hia", "b", ""]


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_with_probabilities(stream: bool) -> None:
    async with http_face("ab") as face:
        wish = {**GOOD, "echo": True, "logprobs": 1, "max_tokens": 1, "stream": stream}
        body = (await face.events(COMPLETIONS, wish))[0] if stream else (await face.post(COMPLETIONS, wish))[1]
        assert face.executor.requests[0].sampling.num_prompt_logprobs == 1
    choice = body["choices"][0]
    h, i, a = ids("Hia")
    assert choice["text"] == "Hia"
    assert choice["logprobs"] == {
        "tokens": ["H", "i", "a"],
        "token_logprobs": [None, logprobs(i, 1, 0)[0], logprobs(a, 0, 0)[0]],
        "top_logprobs": [
            None,
            {"i": logprobs(i, 1, 0)[0], spelt(i + 1): -0.125},
            {"a": logprobs(a, 0, 0)[0], spelt(a + 1): -0.125},
        ],
        "text_offset": [0, 1, 2],
    }
    assert h == ids("H")[0]


async def test_the_prompt_alone() -> None:
    async with http_face("ab") as face:
        body = await face.complete("Hello", echo=True, max_tokens=0, logprobs=0)
    choice = body["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("Hello", "length")
    assert choice["logprobs"]["tokens"] == [spelt(t) for t in ids("Hello")]
    assert body["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_prompt_logprobs(path: str) -> None:
    wish = {**(GOOD if path == COMPLETIONS else MESSAGES), "prompt_logprobs": 1}
    async with http_face("ab") as face:
        _, body = await face.post(path, wish)
        prompt = face.executor.requests[0].prompt_token_ids
    said = (body["choices"][0] if path == COMPLETIONS else body)["prompt_logprobs"]
    assert len(said) == len(prompt)
    assert said[0] is None
    logprob, ((other, other_logprob),) = logprobs(prompt[1], 1, 1)
    assert said[1] == {
        str(prompt[1]): {"logprob": logprob, "rank": None, "decoded_token": spelt(prompt[1])},
        str(other): {"logprob": other_logprob, "rank": 1, "decoded_token": spelt(other)},
    }


async def test_logits() -> None:
    async with http_face("ab") as face:
        choice = (await face.complete(return_context_logits=True, return_generation_logits=True))["choices"][0]
    assert choice["context_logits"] == [[float(t)] * 3 for t in ids("Hi")]
    assert choice["generation_logits"] == [[float(t)] * 3 for t in (*ids("ab"), tiny_tokenizer.EOS_ID)]


@pytest.mark.parametrize(
    ("path", "fields", "message", "param"),
    [
        (CHAT, {"top_logprobs": 2}, "needs `logprobs: true`", "top_logprobs"),
        (COMPLETIONS, {"prompt_logprobs": 1, "stream": True}, "cannot be streamed", "prompt_logprobs"),
        (COMPLETIONS, {"return_context_logits": True, "stream": True}, "cannot be streamed", "return_context_logits"),
        (COMPLETIONS, {"return_generation_logits": True, "max_tokens": 10**6}, "there is room for", None),
        (COMPLETIONS, {"logit_bias": {"five": 1}}, "keys are token ids", "logit_bias"),
        (COMPLETIONS, {"bad_words": [""]}, "bad word is empty", "bad_words"),
        (COMPLETIONS, {"bad_words": ["x" * 1001]}, "at most 1000 characters", "bad_words"),
    ],
)
async def test_what_cannot_be_asked_for(path: str, fields: dict[str, Any], message: str, param: str | None) -> None:
    async with http_face() as face:
        status, body = await face.post(path, {**(GOOD if path == COMPLETIONS else MESSAGES), **fields})
        assert status == 400
        assert message in body["error"]["message"]
        assert body["error"]["param"] == param
        assert not face.executor.requests


async def test_every_field_reaches_the_engine() -> None:
    async with http_face("a") as face:
        await face.complete(
            min_p=0.1,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            repetition_penalty=1.5,
            logit_bias={"5": 2, "7": -100},
            bad_words=["b"],
            priority=3,
            cache_salt="mine",
            timeout=7,
            response_format={"type": "json_object"},
        )
        await face.post(COMPLETIONS, GOOD, headers={"X-Request-Timeout": "2.5"})
        status, body = await face.post(COMPLETIONS, GOOD, headers={"X-Request-Timeout": "soon"})
        assert (status, body["error"]["param"]) == (400, "X-Request-Timeout")
        request, with_header = face.executor.requests
    sampling = request.sampling
    assert (sampling.min_p, sampling.presence_penalty, sampling.frequency_penalty) == (0.1, 0.5, -0.5)
    assert (sampling.repetition_penalty, sampling.logit_bias) == (1.5, {5: 2.0, 7: -100.0})
    assert sampling.bad_words == [ids("b"), ids(" b")]
    assert (request.priority, request.cache_salt, request.timeout_s) == (3, "mine", 7)
    assert request.guide is not None
    assert request.guide.kind == "json_object"
    assert with_header.timeout_s == 2.5


@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_of_its_time(stream: bool) -> None:
    async with http_face("abc", steps_itself=False) as face:
        if not stream:
            face.executor.end_with, face.executor.steps_itself = "timeout", True
            status, body = await face.post(COMPLETIONS, GOOD)
            assert (status, body["error"]["type"], body["error"]["code"]) == (504, "timeout_error", "deadline_exceeded")
            return
        async with face.reading(COMPLETIONS, {**GOOD, "stream": True}) as reader:
            await reader.next()
            face.executor.end_with = "timeout"
            assert (await reader.after(1))["error"]["code"] == "deadline_exceeded"
