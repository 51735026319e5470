"""Several answers to one body: to several prompts, several to one, the best of many; streamed and whole."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers.http_face import SPEC, http_face, make_tokenizer

pytestmark = pytest.mark.anyio

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]


def texts(events: list[Any]) -> dict[int, str]:
    """What each choice of a stream says."""
    said: dict[int, str] = {}
    for choice in (c for e in events[:-1] for c in e["choices"]):
        text = choice["text"] if "text" in choice else choice["delta"].get("content", "")
        said[choice["index"]] = said.get(choice["index"], "") + text
    return dict(sorted(said.items()))


def reasons(events: list[Any]) -> list[tuple[int, str]]:
    choices = (c for e in events[:-1] for c in e["choices"])
    return sorted((c["index"], c["finish_reason"]) for c in choices if c["finish_reason"])


async def test_several_prompts() -> None:
    async with http_face("abc") as face:
        body = await face.complete(["Hi", [5, 6], "Hello"], max_tokens=2)
        assert [(c["index"], c["text"], c["finish_reason"]) for c in body["choices"]] == [
            (0, "ab", "length"),
            (1, "ab", "length"),
            (2, "ab", "length"),
        ]
        prompts = [r.prompt_token_ids for r in face.executor.requests]
        assert prompts == [make_tokenizer().encode("Hi"), [5, 6], make_tokenizer().encode("Hello")]
        assert body["usage"] == {
            "prompt_tokens": sum(map(len, prompts)),
            "completion_tokens": 6,
            "total_tokens": sum(map(len, prompts)) + 6,
            "prompt_tokens_details": {"cached_tokens": 3},
        }


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_several_answers_to_a_prompt(path: str) -> None:
    wish = {"model": "tiny", "n": 3, **({"prompt": "Hi"} if path == COMPLETIONS else {"messages": MESSAGES})}
    async with http_face("abcd") as face:
        _, body = await face.post(path, wish)
        said = [c["text"] if "text" in c else c["message"]["content"] for c in body["choices"]]
        assert (said, [c["index"] for c in body["choices"]]) == (["abcd", "bcd", "cd"], [0, 1, 2])
        assert body["usage"]["completion_tokens"] == 5 + 4 + 3
        (request,) = face.executor.requests
        assert request.num_choices == 3
        assert body["usage"]["prompt_tokens"] == len(request.prompt_token_ids)
        events = await face.events(path, {**wish, "stream": True})
        assert texts(events) == {0: "abcd", 1: "bcd", 2: "cd"}
        assert reasons(events) == [(0, "stop"), (1, "stop"), (2, "stop")]


async def test_answers_to_several_prompts_are_numbered_through() -> None:
    wish = {"model": "tiny", "prompt": ["Hi", "Ho"], "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    async with http_face("abc") as face:
        events = await face.events(COMPLETIONS, wish)
    assert texts(events) == {0: "abc", 1: "bc", 2: "abc", 3: "bc"}
    assert events[-2]["usage"]["completion_tokens"] == 4 + 3 + 4 + 3
    assert [e["choices"] for e in events[:-1]].count([]) == 1


async def test_each_answer_of_a_chat_has_its_beginning() -> None:
    async with http_face("ab") as face:
        wish = {"model": "tiny", "messages": MESSAGES, "n": 2, "stream": True}
        events = await face.events(CHAT, wish)
    opened = [c["index"] for e in events[:-1] for c in e["choices"] if "role" in c["delta"]]
    assert opened == [0, 1]


async def test_stop_string_ends_one_answer_and_the_others_go_on() -> None:
    wish = {"model": "tiny", "prompt": "Hi", "n": 2, "stop": "a", "stream": True}
    async with (
        http_face("abcd", steps_itself=False) as face,
        face.reading(COMPLETIONS, wish) as stream,
    ):
        assert (await stream.next())["choices"][0] == {
            "index": 0, "text": "", "logprobs": None, "finish_reason": "stop", "stop_reason": "a",
        }  # fmt: skip
        assert face.executor.cancelled_choices == [(1, 0)]
        assert (await stream.next())["choices"][0]["text"] == "b"
        assert (await stream.after(1))["choices"][0]["text"] == "c"
        assert (await stream.after(2))["choices"][0]["text"] == "d"
        assert (await stream.next()) == "data: [DONE]"
    assert face.executor.cancelled == []


async def test_client_that_leaves_ends_all() -> None:
    wish = {"model": "tiny", "prompt": ["Hi", "Ho"], "n": 2, "stream": True, "ignore_eos": True, "max_tokens": 99}
    async with http_face("a" * 100, steps_itself=False) as face:
        async with face.reading(COMPLETIONS, wish) as stream:
            await stream.next()
        await face.executor.cancellation.wait()
        assert sorted(face.executor.cancelled) == [1, 2]


async def test_one_prompt_too_many_for_the_queue_takes_all_back() -> None:
    async with http_face() as face:
        face.executor.max_queue_size = 2
        status, _ = await face.post(COMPLETIONS, {"model": "tiny", "prompt": ["a", "b", "c"]})
        assert status == 429
        assert not face.executor.running
        assert face.service.num_requests == 0


async def test_best_of() -> None:
    """Each token of the fake is less probable than the one before, so the shortest answer has the best sum."""
    async with http_face("abcd") as face:
        body = await face.complete(best_of=3, n=2, length_penalty=0)
        assert [(c["index"], c["text"]) for c in body["choices"]] == [(0, "cd"), (1, "bcd")]
        assert body["usage"]["completion_tokens"] == 5 + 4 + 3
        assert body["choices"][0]["logprobs"] is None
        body = await face.complete(best_of=3, length_penalty=5)
        assert [c["text"] for c in body["choices"]] == ["abcd"]
        body = await face.complete(["Hi", "Ho"], best_of=2)
        assert [(c["index"], c["text"]) for c in body["choices"]] == [(0, "bcd"), (1, "bcd")]
        events = await face.events(COMPLETIONS, {"model": "tiny", "prompt": "Hi", "best_of": 1, "stream": True})
        assert texts(events) == {0: "abcd"}


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"n": 5}, "`n` is 5; this server runs 4 at once", "n"),
        ({"n": 2, "best_of": 5}, "`best_of` is 5; this server runs 4", "best_of"),
        ({"n": 2, "best_of": 1}, "less than `n`, 2", "best_of"),
        ({"best_of": 2, "stream": True}, "cannot be streamed", "best_of"),
        ({"n": 2, "disaggregated_params": {"request_type": "context_only"}}, "one server", "disaggregated_params"),
    ],
)
async def test_bounds(fields: dict[str, Any], message: str, param: str) -> None:
    async with http_face(spec=msgspec.structs.replace(SPEC, max_batch_size=4)) as face:
        status, body = await face.post(COMPLETIONS, {"model": "tiny", "prompt": "Hi", **fields})
        assert status == 400
        assert message in body["error"]["message"]
        assert body["error"]["param"] == param
        assert not face.executor.requests


async def test_tokens_are_sent_by_the_interval_the_first_at_once() -> None:
    wish = {"model": "tiny", "prompt": "Hi", "stream": True, "max_tokens": 8, "n": 2}
    async with http_face("abcdefghi", spec=msgspec.structs.replace(SPEC, stream_interval=3)) as face:
        events = await face.events(COMPLETIONS, wish)
    for index, whole in ((0, "abcdefgh"), (1, "bcdefghi")):
        said = [c["text"] for e in events[:-1] for c in e["choices"] if c["index"] == index]
        assert said == [whole[:1], whole[1:4], whole[4:7], whole[7:]]
